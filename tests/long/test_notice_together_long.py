"""One cause, many jobs: a host that is away is told in a letter or two, and nobody's news is lost by that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bootpoint_common.notice import NoticeSettings
from bootpoint_common.store.database import present
from bootpoint_ops.notice import pending
from bootpoint_worker.notice.round import look
from tests.service.fleet import fleet
from tests.service.mail_server import MailBox, mail_server
from tests.service.notices import Newsroom

OPS, OTHER = "ops@example.org", "other@example.org"
NAMES = [f"job-{number:02}" for number in range(12)]
HOOK = {"url": "https://hooks.example.org/bp", "secret_file": None, "on": "failure"}


@pytest.fixture
def newsroom(database: str, tmp_path: Path) -> Iterator[Newsroom]:
    with fleet(database, tmp_path) as installation:
        made = Newsroom(installation, tmp_path)
        host_id = installation.add_host("kvm1")
        for name in NAMES:
            to = [OPS, OTHER] if name == NAMES[-1] else [OPS]
            made.add_job(name, host_id=host_id, notify={"mail": {"to": to, "on": "failure"}, "webhook": HOOK})
        yield made


@pytest.fixture
def box() -> Iterator[MailBox]:
    with mail_server() as made:
        yield made


def fail_all(newsroom: Newsroom) -> dict[str, int]:
    """Let a run of each job fail; returns their numbers."""
    return {name: newsroom.fail(name) for name in NAMES}


def test_a_host_that_is_away_is_told_at_once_and_then_in_one_letter_that_names_every_job(
    newsroom: Newsroom, box: MailBox
) -> None:
    post = newsroom.mail_post(box)
    first = newsroom.fail(NAMES[0])
    post.round()
    numbers = fail_all(newsroom)
    post.round()
    at_once, other = box.letters
    assert at_once.message["Subject"] == f"[bootpoint] {NAMES[0]}: run {first} failed (host_unreachable)"
    assert (other.to, other.message["X-Bootpoint-Job"]) == (OTHER, NAMES[-1])
    newsroom.pass_the_pause()
    post.round()
    *_, gathered = box.letters
    assert len(box.letters) == 3
    assert gathered.message["Subject"] == "[bootpoint] 12 runs failed: host_unreachable on kvm1"
    assert gathered.text.startswith("host kvm1 does not answer (host_unreachable)\n\nWhat to do: check its address")
    told = [line.partition(" at ")[0] for line in gathered.text.splitlines() if line.startswith("job-")]
    assert told == [f"{name}: run {number}" for name, number in numbers.items()]
    assert {row["state"] for row in newsroom.notices() if row["channel"] == "mail"} == {"sent"}
    hooks = [row["run"] for row in newsroom.notices() if row["channel"] == "webhook"]
    assert hooks == [first, *numbers.values()], "a program gets each failure by itself"


def test_what_is_gathered_goes_within_a_quarter_of_an_hour_and_holds_nothing_else_up(
    newsroom: Newsroom, box: MailBox
) -> None:
    newsroom.execute("UPDATE job SET spec = spec #- '{notify,webhook}'")
    post = newsroom.mail_post(box)
    newsroom.fail(NAMES[0])
    post.round()
    fail_all(newsroom)
    newsroom.add_job("elsewhere", notify={"mail": {"to": [OPS], "on": "failure"}})
    newsroom.fail("elsewhere")
    post.round()
    assert [letter.message["X-Bootpoint-Job"] for letter in box.to(OPS)] == [NAMES[0], "elsewhere"]
    row = newsroom.fleet.row(
        "SELECT extract(epoch FROM max(not_before) - min(created_at))::float AS most FROM notification"
    )
    assert row is not None
    assert 890 < row["most"] <= 910
    newsroom.execute("UPDATE notification SET created_at = created_at - interval '10 minutes'")
    with newsroom.database.transaction() as connection:
        assert pending(connection) == [], "what isn't due yet is no trouble with the mail"


def test_a_letter_of_many_that_is_sent_again_is_the_same_letter(newsroom: Newsroom, box: MailBox) -> None:
    box.break_off = 1
    newsroom.execute("UPDATE job SET spec = jsonb_set(spec, '{notify}', '{\"mail\": {\"to\": [\"ops@example.org\"],"
                     " \"on\": \"failure\"}}')")  # fmt: skip
    fail_all(newsroom)
    post = newsroom.mail_post(box)
    newsroom.pass_the_pause()
    post.round()
    later = newsroom.fail(NAMES[3])
    newsroom.pass_the_pause()
    post.round()
    broken_off, again, one_more = sorted(box.letters, key=lambda letter: letter.message["Subject"])
    assert broken_off.content == again.content
    assert one_more.message["Subject"] == f"[bootpoint] {NAMES[3]}: run {later} failed (host_unreachable)"


def test_each_job_of_a_letter_that_is_refused_has_that_in_its_history(newsroom: Newsroom, box: MailBox) -> None:
    box.refused = {OPS: "550 no such user"}
    fail_all(newsroom)
    newsroom.pass_the_pause()
    newsroom.mail_post(box).round()
    assert sorted(row["job"] for row in newsroom.events("notice_failed")) == NAMES


def test_jobs_that_become_too_old_together_are_told_together(newsroom: Newsroom, box: MailBox) -> None:
    for name in NAMES:
        newsroom.add_point(name, age="61 hours", boots=True)
    newsroom.execute('UPDATE job SET spec = jsonb_set(spec, \'{objective}\', \'{"point": "60h", "bootable": null}\')')
    with newsroom.database.transaction() as connection:
        now = present(connection)
    look(newsroom.database, NoticeSettings(), "w", now)
    newsroom.pass_the_pause()
    newsroom.mail_post(box).round()
    (letter,) = box.to(OPS)
    assert letter.message["Subject"] == "[bootpoint] 12 times: too old"
    assert letter.text.count("the newest boot point of job job-") == len(NAMES)
