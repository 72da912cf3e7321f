"""Mail at the end of runs, with a real mail server: who is told, over what, and what happens when that goes wrong."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from bootpoint_common.errors import Code
from bootpoint_common.identity import new_id
from bootpoint_common.notice import NoticeSettings, Security
from bootpoint_common.store import delivery, ending, notice
from bootpoint_common.store import run as runs
from bootpoint_common.units import MiB
from bootpoint_ops.cli import main
from bootpoint_worker import actors
from bootpoint_worker.context import Context, Sessions
from bootpoint_worker.service import ControlLoops
from tests.integration.test_flow import write_random
from tests.service.certificate import Authority, make_authority
from tests.service.fleet import Fleet
from tests.service.mail_server import MailBox, mail_server
from tests.service.notices import SENDER, Newsroom, together
from tests.service.process import free_port, wait_for

OPS = "ops@example.org"


@pytest.fixture
def newsroom(installation: Fleet, tmp_path: Path) -> Newsroom:
    return Newsroom(installation, tmp_path)


@pytest.fixture
def box() -> Iterator[MailBox]:
    with mail_server() as made:
        yield made


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


# --- who is told


def test_a_run_of_a_job_is_told_with_its_points(newsroom: Newsroom, box: MailBox, rng: random.Random) -> None:
    disk = newsroom.directory / "system.raw"
    write_random(disk, 8 * MiB, rng, 20)
    installation = newsroom.fleet
    installation.add_worker("w1")
    host_id = installation.add_host(f"fake-{newsroom.directory.name}")
    installation.add_agent("erp", [disk])
    job_id = installation.add_job("erp", "erp", {"system": disk}, host_id)
    newsroom.execute(
        "UPDATE job SET spec = jsonb_set(spec, '{notify,mail}', %s)", f'{{"to": ["{OPS}"], "on": "both"}}'
    )
    done = installation.run(job_id)
    installation.wait(done)
    newsroom.mail_post(box).round()
    (letter,) = box.letters
    (point,) = installation.points(job_id)
    assert letter.message["Subject"] == f"[bootpoint] erp: run {done.id} succeeded"
    assert f"on {point.host}: {point.name}, committed\n  changed " in letter.text
    assert not letter.encrypted


def test_each_reader_is_told_of_a_failure_that_wants_to_be(newsroom: Newsroom, box: MailBox) -> None:
    numbers = {}
    for on in ("failure", "both", "success"):
        newsroom.add_job(on, notify={"mail": {"to": [f"{on}@example.org", f"{on}-too@example.org"], "on": on}})
        numbers[on] = newsroom.fail(on)
    newsroom.mail_post(box).round()
    told = ["failure@example.org", "failure-too@example.org", "both@example.org", "both-too@example.org"]
    assert [letter.to for letter in box.letters] == told
    for letter in box.letters:
        job = letter.to.removesuffix("@example.org").removesuffix("-too")
        assert letter.message["Subject"] == f"[bootpoint] {job}: run {numbers[job]} failed (host_unreachable)"
        assert letter.message["To"] == letter.to
        assert "host kvm1 does not answer (host_unreachable)\nWhat to do: check its address" in letter.text


def test_a_job_that_tells_nobody_leaves_nothing(newsroom: Newsroom) -> None:
    newsroom.add_job("erp")
    newsroom.fail("erp")
    assert newsroom.notices() == []


def test_nobody_is_told_of_a_run_that_somebody_cancelled(newsroom: Newsroom) -> None:
    job_id = newsroom.add_job("erp", notify={"mail": {"to": [OPS], "on": "both"}})
    with newsroom.database.transaction() as connection:
        begun = runs.create(connection, job_id, trigger="manual", requested_by="test")
        ending.cancel(connection, begun.id, actor="test")
    assert newsroom.fleet.row("SELECT state FROM run WHERE id = %s", begun.id) == {"state": "cancelled"}
    assert newsroom.notices() == []


def test_a_run_that_was_missed_is_told_like_a_failure(newsroom: Newsroom, box: MailBox) -> None:
    newsroom.add_job("erp", notify={"mail": {"to": [OPS], "on": "failure"}})
    for reason in (Code.MISSED, Code.ALREADY_RUNNING):
        newsroom.execute(
            "INSERT INTO run (uid, job_id, job_name, agent_id, pool, trigger, requested_by, state, due_at, ended_at,"
            " reason, message) SELECT %s, id, name, agent_id, 'fake', 'schedule', 'scheduler', 'skipped', now(), now(),"
            " %s, 'nobody could start it' FROM job",
            *(new_id(), str(reason)),
        )
    with newsroom.database.transaction() as connection:
        notice.missed(connection, [row["uid"] for row in newsroom.fleet.rows("SELECT uid FROM run")])
    newsroom.mail_post(box).round()
    (letter,) = box.letters
    assert letter.message["Subject"] == "[bootpoint] erp: run 1 skipped (missed)"
    assert "nobody could start it (missed)" in letter.text


def test_retries_between_the_first_and_the_last_are_not_told_by_mail(newsroom: Newsroom) -> None:
    hook = {"url": "https://hooks.example.org/bp", "secret_file": None, "on": "failure"}
    newsroom.add_job("erp", notify={"mail": {"to": [OPS], "on": "failure"}, "webhook": hook})
    numbers = [newsroom.fail("erp", attempt=attempt) for attempt in (1, 2, 3, 4)]
    told = [(row["channel"], row["run"]) for row in newsroom.notices()]
    assert [number for channel, number in told if channel == "mail"] == [numbers[0], numbers[3]]
    assert [number for channel, number in told if channel == "webhook"] == numbers
    newsroom.execute("UPDATE job SET enabled = false")
    last = newsroom.fail("erp", attempt=2)  # nothing follows it
    assert [row["channel"] for row in newsroom.notices() if row["run"] == last] == ["mail", "webhook"]


def test_rows_hold_no_secret_and_no_output_of_scripts(newsroom: Newsroom, tmp_path: Path) -> None:
    secret = tmp_path / "hook.key"
    secret.write_text("hunter2")
    hook = {"url": "https://hooks.example.org/bp", "secret_file": str(secret), "on": "failure"}
    job_id = newsroom.add_job("erp", notify={"mail": {"to": [OPS], "on": "failure"}, "webhook": hook})
    with newsroom.database.transaction() as connection:
        begun = runs.create(connection, job_id, trigger="manual", requested_by="test")
        result = [{"stage": "before_snapshot", "exit_code": 0, "duration_seconds": 1.0, "output": "hunter2"}]
        newsroom.execute("UPDATE run SET scripts = %s WHERE uid = %s", str(result).replace("'", '"'), begun.uid)
        ending.cancel(connection, begun.id, actor="test")
    newsroom.execute("UPDATE run SET state = 'failed' WHERE uid = %s", begun.uid)
    with newsroom.database.transaction() as connection:
        notice.run_ended(connection, begun.id, begun.spec)
    assert len(newsroom.notices()) == 2
    assert "hunter2" not in str(newsroom.notices())


def test_a_scheduler_sends_what_is_due(newsroom: Newsroom, box: MailBox) -> None:
    newsroom.add_job("erp", notify={"mail": {"to": [OPS], "on": "failure"}})
    newsroom.fail("erp")
    installation = newsroom.fleet
    context = Context(
        database=installation.database,
        carrier=installation.broker.worker_carrier(),
        vault=installation.vault,
        sessions=Sessions(installation.vault),
        worker="scheduler@test",
        notices=NoticeSettings(mail=box.server, sender=SENDER),
    )
    loops = ControlLoops(context, actors.make_broker(None), kind="scheduler")
    loops.start()
    try:
        wait_for(lambda: newsroom.notices()[0]["state"] == "sent", "the letter to be sent")
    finally:
        loops.stop()
    assert [letter.to for letter in box.letters] == [OPS]


@pytest.mark.parametrize("command", ["scheduler", "worker --pool kvm", "up"])
def test_a_process_whose_settings_are_wrong_does_not_start(tmp_path: Path, command: str) -> None:
    env = {
        "BOOTPOINT_STATE": str(tmp_path / "state"),
        "BOOTPOINT_BROKER_URL": "amqp://127.0.0.1:9",
        "BOOTPOINT_MAIL": "smtps://bp@mail.example.org",
        "BOOTPOINT_MAIL_FROM": "bp@example.org",
        "BOOTPOINT_MAIL_PASSWORD_FILE": str(tmp_path / "missing"),
    }
    result = CliRunner().invoke(main, command.split(), env=env)
    assert result.exit_code == 2
    assert f"BOOTPOINT_MAIL_PASSWORD_FILE = {tmp_path / 'missing'}" in result.stderr
    assert not (tmp_path / "state").exists()


# --- what may go wrong


def test_what_arrives_twice_has_the_same_message_id(newsroom: Newsroom, box: MailBox) -> None:
    """The server takes the letter, and the connection ends before it can say so."""
    newsroom.add_job("erp", notify={"mail": {"to": [OPS], "on": "failure"}})
    newsroom.fail("erp")
    box.break_off = 1
    post = newsroom.mail_post(box)
    assert post.round() == 1
    (row,) = newsroom.notices()
    assert (row["state"], row["attempts"]) == ("waiting", 1)
    assert "did not say that it took the letter" in row["problem"]
    assert post.round() == 0, "tried again without a pause"
    newsroom.pass_the_pause()
    assert post.round() == 1
    first, second = box.letters
    assert first.message["Message-ID"] == second.message["Message-ID"] == row["message_id"]
    assert first.content == second.content
    (row,) = newsroom.notices()
    assert (row["state"], row["problem"]) == ("sent", None)
    assert post.round() == 0


def test_a_letter_of_a_process_that_died_is_sent_by_another(newsroom: Newsroom, box: MailBox) -> None:
    newsroom.add_job("erp", notify={"mail": {"to": [OPS], "on": "failure"}})
    newsroom.fail("erp")
    with newsroom.database.transaction() as connection:
        dead = delivery.claim(connection, notice.Channel.MAIL)
    assert dead is not None
    post = newsroom.mail_post(box)
    assert post.round() == 0, "it is in somebody's hands"
    newsroom.execute("UPDATE notification SET held_until = now() - interval '1 second'")
    assert post.round() == 1
    with newsroom.database.transaction() as connection:
        delivery.later(connection, dead, "said by a process that was only slow")
    (row,) = newsroom.notices()
    assert (row["state"], row["message_id"]) == ("sent", box.letters[0].message["Message-ID"])


def test_two_processes_send_each_letter_once(newsroom: Newsroom, box: MailBox) -> None:
    newsroom.add_job("erp", notify={"mail": {"to": [f"{number}@example.org" for number in range(30)], "on": "failure"}})
    newsroom.fail("erp")
    together(newsroom.mail_post(box).round, newsroom.mail_post(box).round)
    assert sorted(letter.to for letter in box.letters) == sorted(f"{number}@example.org" for number in range(30))


def test_one_who_is_refused_keeps_nobody_else_from_being_told(newsroom: Newsroom, box: MailBox) -> None:
    newsroom.add_job("erp", notify={"mail": {"to": ["gone@example.org", "grey@example.org", OPS], "on": "failure"}})
    number = newsroom.fail("erp")
    box.refused = {"gone@example.org": "550 no such user", "grey@example.org": "451 come back later"}
    post = newsroom.mail_post(box)
    assert post.round() == 3
    assert [letter.to for letter in box.letters] == [OPS]
    assert {row["address"]: row["state"] for row in newsroom.notices()} == {
        "gone@example.org": "failed", "grey@example.org": "waiting", OPS: "sent",
    }  # fmt: skip
    (said,) = newsroom.events("notice_failed")
    assert (said["job"], said["run"]) == ("erp", number)
    assert "gone@example.org was refused: 550 no such user" in said["text"]
    box.refused = {}
    newsroom.pass_the_pause()
    assert post.round() == 1
    assert [letter.to for letter in box.letters] == [OPS, "grey@example.org"]


def test_a_server_that_is_away_gets_everything_when_it_is_back(newsroom: Newsroom, box: MailBox) -> None:
    for name in ("erp", "crm"):
        newsroom.add_job(name, notify={"mail": {"to": [OPS], "on": "failure"}})
    numbers = [newsroom.fail(name) for name in ("erp", "crm")]
    box.stop()
    post = newsroom.mail_post(box)
    assert post.round() == 2
    pauses = []
    for _ in range(7):
        newsroom.pass_the_pause()
        post.round()
        row = newsroom.fleet.row("SELECT extract(epoch FROM min(not_before) - now()) AS left FROM notification")
        assert row is not None
        pauses.append(round(row["left"] / 60))
    assert pauses == [2, 4, 8, 16, 32, 60, 60]
    assert {row["state"] for row in newsroom.notices()} == {"waiting"}
    assert "does not answer" in newsroom.notices()[0]["problem"]
    box.start()
    newsroom.pass_the_pause()
    assert post.round() == 2
    assert [letter.message["Subject"].split()[3] for letter in box.letters] == [str(number) for number in numbers]


def test_after_three_days_the_history_says_that_nobody_was_told(newsroom: Newsroom, box: MailBox) -> None:
    newsroom.add_job("erp", notify={"mail": {"to": [OPS], "on": "failure"}})
    number = newsroom.fail("erp")
    box.stop()
    post = newsroom.mail_post(box)
    newsroom.execute("UPDATE notification SET created_at = now() - interval '71 hours'")
    post.round()
    assert newsroom.events("notice_failed") == []
    newsroom.execute("UPDATE notification SET created_at = now() - interval '73 hours'")
    newsroom.pass_the_pause()
    post.round()
    (said,) = newsroom.events("notice_failed")
    assert (said["job"], said["run"], said["actor"]) == ("erp", number, "w")
    assert newsroom.notices()[0]["state"] == "failed"
    run = newsroom.fleet.row("SELECT state, reason FROM run WHERE id = %s", number)
    assert run == {"state": "failed", "reason": "host_unreachable"}


def test_a_server_that_says_nothing_is_not_waited_for(newsroom: Newsroom, box: MailBox) -> None:
    newsroom.add_job("erp", notify={"mail": {"to": [OPS], "on": "failure"}})
    newsroom.fail("erp")
    box.stop()
    with socket.create_server(("127.0.0.1", box.port)):  # the kernel accepts, nobody greets
        assert newsroom.mail_post(box, timeout=0.2).round() == 1
    assert "timed out" in newsroom.notices()[0]["problem"]


# --- over what


@pytest.mark.parametrize("security", [Security.STARTTLS, Security.TLS])
def test_mail_is_encrypted_to_a_server_that_is_known(
    newsroom: Newsroom, authority: Authority, tmp_path: Path, security: Security
) -> None:
    newsroom.add_job("erp", notify={"mail": {"to": [OPS], "on": "failure"}})
    newsroom.fail("erp")
    password = tmp_path / "password"
    password.write_text("wrong\n")
    with mail_server(security=security, context=authority.server_context(), logins={"bp": "right"}) as box:
        newsroom.mail_post(box, password_file=password).round()
        assert "certificate that isn't trusted" in newsroom.notices()[0]["problem"]
        newsroom.pass_the_pause()
        newsroom.mail_post(box, password_file=password, authorities=authority.file).round()
        assert "refused the login: 535" in newsroom.notices()[0]["problem"]
        assert box.letters == []
        password.write_text("right\n")
        newsroom.pass_the_pause()
        newsroom.mail_post(box, password_file=password, authorities=authority.file).round()
        (letter,) = box.letters
    assert (letter.encrypted, letter.user) == (True, "bp")


def test_mail_never_travels_in_the_clear_where_it_should_not(newsroom: Newsroom) -> None:
    """A server that doesn't offer STARTTLS, or somebody in between who takes the offer away."""
    newsroom.add_job("erp", notify={"mail": {"to": [OPS], "on": "failure"}})
    newsroom.fail("erp")
    with mail_server(security=Security.STARTTLS, starttls=False) as box:
        newsroom.mail_post(box).round()
        assert box.letters == []
    (row,) = newsroom.notices()
    assert row["state"] == "waiting"
    assert "STARTTLS" in row["problem"]


def test_a_password_that_no_server_can_be_told_is_said_and_not_shown(newsroom: Newsroom, tmp_path: Path) -> None:
    newsroom.add_job("erp", notify={"mail": {"to": [OPS], "on": "failure"}})
    newsroom.fail("erp")
    password = tmp_path / "password"
    password.write_text("gr\u00fcn")
    with mail_server(logins={"bootpoint": "gr\u00fcn"}) as box:
        newsroom.mail_post(box, password_file=password).round()
    (row,) = newsroom.notices()
    assert (row["state"], row["held_until"]) == ("waiting", None)
    assert "ASCII letters only" in row["problem"]
    assert "gr\u00fcn" not in row["problem"]


def test_a_password_that_is_missing_here_leaves_the_letter_to_others(newsroom: Newsroom, tmp_path: Path) -> None:
    newsroom.add_job("erp", notify={"mail": {"to": [OPS], "on": "failure"}})
    newsroom.fail("erp")
    with mail_server(logins={"bp": "right"}) as box:
        password = tmp_path / "password"
        post = newsroom.mail_post(box, password_file=tmp_path / "missing")
        post._clock = lambda: 0.0  # its pause lasts, so that it takes the letter once
        assert post.round() == 1
        assert newsroom.notices()[0]["attempts"] == 0
        password.write_text("right")
        assert newsroom.mail_post(box, password_file=password).round() == 1
        assert len(box.letters) == 1


def test_names_beyond_ascii_arrive_as_they_are(newsroom: Newsroom, box: MailBox) -> None:
    newsroom.add_job("erp", notify={"mail": {"to": ["jörg@exämple.org"], "on": "failure"}})
    newsroom.fail("erp", "Größe: das Speicher-Volume »日本« ist voll " * 60)
    newsroom.mail_post(box).round()
    assert newsroom.notices()[0]["problem"] is None
    (letter,) = box.letters
    assert letter.to == "jörg@xn--exmple-cua.org"
    assert "das Speicher-Volume »日本« ist voll" in letter.text


def test_a_port_where_nobody_listens_is_named(newsroom: Newsroom, box: MailBox) -> None:
    newsroom.add_job("erp", notify={"mail": {"to": [OPS], "on": "failure"}})
    newsroom.fail("erp")
    box.stop()
    box.port = free_port()
    newsroom.mail_post(box).round()
    assert f"mail server 127.0.0.1:{box.port} does not answer" in newsroom.notices()[0]["problem"]
