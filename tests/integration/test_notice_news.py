"""News that no end of a run brings: alerts of the history, objectives, the digest; and notices that nobody sends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, generate_latest
from psycopg.rows import dict_row

from bootpoint_common.config import Config
from bootpoint_common.notice import DailyHour, MailServer, NoticeSettings, Security
from bootpoint_common.store import event
from bootpoint_common.store.role import Role
from bootpoint_ops.cli import main
from bootpoint_ops.gauge import StateCollector
from bootpoint_worker.notice.round import look
from tests.service.fleet import Fleet
from tests.service.guide import REPOSITORY
from tests.service.mail_server import MailBox, mail_server
from tests.service.notices import SENDER, Newsroom, together
from tests.service.postgres import url_as
from tests.service.process import wait_for

OPS = "ops@example.org"
MAIL = {"mail": {"to": [OPS], "on": "failure"}}
NO_SERVER = MailServer(security=Security.PLAIN, host="127.0.0.1", port=9)

#: In Europe/Rome this hour is skipped in spring and comes twice in autumn.
SETTINGS = NoticeSettings(mail=NO_SERVER, sender=SENDER, digest=DailyHour(150, "Europe/Rome"))
NO_DIGEST = NoticeSettings(mail=NO_SERVER, sender=SENDER, digest=None)


@pytest.fixture
def newsroom(installation: Fleet, tmp_path: Path) -> Newsroom:
    return Newsroom(installation, tmp_path)


@pytest.fixture
def box() -> Iterator[MailBox]:
    with mail_server() as made:
        yield made


def record(newsroom: Newsroom, kind: str, **values: Any) -> None:
    """Write an event, under the rights of a worker."""
    with psycopg.connect(url_as(newsroom.database.url, Role.WORKER), row_factory=dict_row) as connection:
        event.record(connection, kind, f"what happened: {kind}", actor="worker", **values)


# --- alerts


def test_events_that_somebody_must_know_of_are_told(newsroom: Newsroom, box: MailBox) -> None:
    newsroom.add_job("erp", notify=MAIL)
    newsroom.add_job("other", notify={"mail": {"to": ["other@example.org"], "on": "failure"}})
    told = ["entropy_alert", "retention_blocked", "retention_free", "sample_miss", "point_damaged", "damage_repaired",
            "drift", "replica_broken", "replica_whole", "objective_broken", "objective_met"]  # fmt: skip
    for kind in ("point_committed", *told, "job_changed", "notice_failed", "run_failed"):
        record(newsroom, kind, job="erp", host="kvm1", point="V1")
    for verdict in ("boots", "does_not_boot", "unknown"):
        record(newsroom, "boot_checked", job="erp", point="V1", details={"verdict": verdict})
    newsroom.mail_post(box).round()
    assert {letter.to for letter in box.letters} == {OPS}
    assert [letter.message["X-Bootpoint-Kind"] for letter in box.letters] == [*told, "boot_checked"]
    for letter in box.letters:
        assert letter.text.startswith(f"what happened: {letter.message['X-Bootpoint-Kind']}\n\nWhat to do: ")


def test_who_wants_to_hear_of_success_only_hears_of_no_alert(newsroom: Newsroom) -> None:
    newsroom.add_job("erp", notify={"mail": {"to": [OPS], "on": "success"}})
    record(newsroom, "entropy_alert", job="erp")
    assert newsroom.notices() == []


def test_what_several_disks_of_a_run_met_is_told_once(newsroom: Newsroom) -> None:
    newsroom.add_job("erp", notify=MAIL)
    for number in (1, 1, 1, 2):
        record(newsroom, "sample_miss", job="erp", run_number=number)
    assert [row["run"] for row in newsroom.notices()] == [1, 2]


# --- objectives


def late_job(newsroom: Newsroom, name: str = "erp") -> None:
    newsroom.add_job(name, notify=MAIL, objective={"point": "60h", "bootable": "4d"})
    newsroom.add_point(name, age="61 hours", boots=True)


def test_a_job_that_is_late_is_told_once_and_once_more_when_it_is_not(newsroom: Newsroom, box: MailBox) -> None:
    late_job(newsroom)
    for _ in range(3):
        look(newsroom.database, NO_DIGEST, "w")
    together(*[lambda: look(newsroom.database, NO_DIGEST, "w")] * 3)
    newsroom.add_point("erp", age="1 minute", boots=True)
    for _ in range(3):
        look(newsroom.database, NO_DIGEST, "w")
    newsroom.mail_post(box).round()
    broken, met = box.letters
    assert broken.message["Subject"] == "[bootpoint] erp: too old"
    assert broken.text.startswith("the newest boot point of job erp is 2 d 13 h old, 2 d 12 h are allowed\n")
    assert met.message["Subject"] == "[bootpoint] erp: young enough again"
    assert "after 1 h" in met.text
    assert (len(newsroom.events("objective_broken")), len(newsroom.events("objective_met"))) == (1, 1)


def test_two_processes_tell_of_a_broken_objective_once(newsroom: Newsroom) -> None:
    late_job(newsroom)
    together(*[lambda: look(newsroom.database, NO_DIGEST, "w")] * 4)
    assert len(newsroom.events("objective_broken")) == 1


def test_points_that_were_not_proven_to_boot_are_told_too(newsroom: Newsroom) -> None:
    newsroom.add_job("erp", notify=MAIL, objective={"point": "60h", "bootable": "4d"})
    newsroom.add_point("erp", age="97 hours", boots=True)
    newsroom.add_point("erp", age="1 hour")
    look(newsroom.database, NO_DIGEST, "w")
    (said,) = newsroom.events("objective_broken")
    assert said["details"] == {"objective": "bootable", "allowed_seconds": 4 * 86400}


def test_a_job_that_never_made_a_point_is_late_in_its_time(newsroom: Newsroom) -> None:
    newsroom.add_job("erp", notify=MAIL, objective={"point": "60h", "bootable": None})
    look(newsroom.database, NO_DIGEST, "w")
    assert newsroom.notices() == []
    newsroom.execute("UPDATE job SET created_at = now() - interval '61 hours'")
    look(newsroom.database, NO_DIGEST, "w")
    (said,) = newsroom.events("objective_broken")
    assert said["text"] == "job erp has no boot point after 2 d 12 h"


def test_nobody_is_told_of_a_job_from_which_nobody_expects_points(newsroom: Newsroom) -> None:
    late_job(newsroom, "disabled")
    newsroom.execute("UPDATE job SET enabled = false")
    newsroom.add_job("by-hand", notify=MAIL, objective={"point": None, "bootable": "4d"})
    newsroom.add_point("by-hand", age="30 days")
    look(newsroom.database, NO_DIGEST, "w")
    assert newsroom.notices() == []
    newsroom.execute("UPDATE job SET enabled = true")
    look(newsroom.database, NO_DIGEST, "w")
    newsroom.execute("UPDATE job SET enabled = false")
    look(newsroom.database, NO_DIGEST, "w")
    assert [row["job"] for row in newsroom.notices()] == ["disabled"], "a job that was disabled has met nothing"


# --- the digest


def digests(newsroom: Newsroom) -> list[str]:
    return [row["facts"]["day"] for row in newsroom.fleet.rows("SELECT facts FROM notification WHERE kind = 'digest'")]


@pytest.mark.parametrize(
    ("start", "days"),
    [
        (datetime(2026, 3, 27, 23, 0, tzinfo=UTC), ["2026-03-28", "2026-03-29", "2026-03-30"]),
        (datetime(2026, 10, 23, 22, 0, tzinfo=UTC), ["2026-10-24", "2026-10-25", "2026-10-26"]),
    ],
    ids=["spring", "autumn"],
)
def test_the_digest_comes_once_a_day_whatever_the_clocks_do(
    newsroom: Newsroom, start: datetime, days: list[str]
) -> None:
    """Two processes look every quarter of an hour, at the same moment, for three days."""
    newsroom.add_job("erp", notify=MAIL)
    newsroom.execute("UPDATE job SET created_at = %s", start - timedelta(days=1))
    for number in range(3 * 24 * 4 + 4):
        at = start + timedelta(minutes=15 * number)
        if number % 4 == 2 or number % 24 < 12:  # every look around the hour, some of the others
            together(*[lambda at=at: look(newsroom.database, SETTINGS, "w", at)] * 2)
    assert digests(newsroom) == days


def test_when_all_is_well_the_digest_is_one_line(newsroom: Newsroom, box: MailBox) -> None:
    for name in ("erp", "mail"):
        newsroom.add_job(name, notify=MAIL)
        newsroom.add_point(name, age="1 hour")
    look_tomorrow(newsroom)
    newsroom.mail_post(box).round()
    (letter,) = box.letters
    assert letter.message["Subject"] == "[bootpoint] 2 jobs, all ok"
    (line,) = letter.text.splitlines()
    assert line.startswith("2 jobs, all ok at ")


def test_what_is_not_ok_comes_first_and_each_reader_has_their_jobs(newsroom: Newsroom, box: MailBox) -> None:
    for name in ("a-good-one", "erp", "late"):
        newsroom.add_job(name, notify=MAIL, objective={"point": "60h", "bootable": "4d"})
        newsroom.add_point(name, age="97 hours" if name == "late" else "1 hour", boots=True)
    newsroom.add_point("late", age="1 hour")
    newsroom.add_job("other", notify={"mail": {"to": ["other@example.org"], "on": "success"}})
    newsroom.fail("erp")
    newsroom.execute("DELETE FROM notification")
    look_tomorrow(newsroom, hours=0)
    newsroom.mail_post(box).round()
    (theirs,) = box.to("other@example.org")
    assert theirs.message["Subject"] == "[bootpoint] 1 of 1 job not ok"
    assert "other: never" in theirs.text
    (letter,) = [each for each in box.to(OPS) if "not ok" in each.message["Subject"]]
    assert letter.message["Subject"] == "[bootpoint] 2 of 3 jobs not ok"
    lines = letter.text.splitlines()
    order = [line for line in lines if line.startswith(("a-good-one:", "erp:", "late:", "Ok:"))]
    assert [line.partition(":")[0] for line in order] == ["erp", "late", "Ok", "a-good-one"]
    assert order[0] == "erp: failing (host_unreachable)"
    assert "  newest proven to boot: 4 d 1 h old, allowed 4 d - too old" in lines


def look_tomorrow(newsroom: Newsroom, *, hours: int = 24) -> None:
    """Look at noon of some day that every job has seen the morning of."""
    newsroom.execute("UPDATE job SET created_at = now() - interval '3 days'")
    at = datetime.now(UTC) + timedelta(hours=hours)
    look(newsroom.database, NoticeSettings(mail=NO_SERVER, sender=SENDER, digest=DailyHour(0, "UTC")), "w", at)


def test_a_job_that_is_new_today_waits_for_the_next_digest(newsroom: Newsroom) -> None:
    newsroom.add_job("erp", notify=MAIL)
    hour = DailyHour(0, "UTC")
    settings = NoticeSettings(mail=NO_SERVER, sender=SENDER, digest=hour)
    now = datetime.now(UTC)
    look(newsroom.database, settings, "w", now)
    assert digests(newsroom) == []
    look(newsroom.database, settings, "w", now + timedelta(days=1))
    assert len(digests(newsroom)) == 1


def test_the_digest_can_be_off(newsroom: Newsroom) -> None:
    newsroom.add_job("erp", notify=MAIL)
    look(newsroom.database, NO_DIGEST, "w", datetime.now(UTC) + timedelta(days=3))
    assert digests(newsroom) == []


# --- trying it out, and what nobody sends


def call(newsroom: Newsroom, *words: str) -> Any:
    url = url_as(newsroom.database.url, Role.CONSOLE)
    env = {"BOOTPOINT_DATABASE_URL": url, "BOOTPOINT_STATE": str(newsroom.directory)}
    return CliRunner().invoke(main, words, env=env)


def test_notices_can_be_tried_out(newsroom: Newsroom, box: MailBox) -> None:
    newsroom.add_job("erp", notify={"mail": {"to": [OPS, "gone@example.org"], "on": "success"}})
    box.refused = {"gone@example.org": "550 no such user"}
    post = newsroom.mail_post(box)
    results: list[Any] = []

    def send() -> None:
        wait_for(lambda: post.round() and len(newsroom.notices()) == 2, "the tests to be written and sent")

    together(lambda: results.append(call(newsroom, "job", "notify", "erp", "-o", "json")), send)
    (result,) = results
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "job": "erp",
        "items": [
            {"channel": "mail", "address": OPS, "state": "sent", "problem": None},
            {
                "channel": "mail", "address": "gone@example.org", "state": "failed",
                "problem": "gone@example.org was refused: 550 no such user",
            },
        ],
    }  # fmt: skip
    (letter,) = box.letters
    assert letter.message["Subject"] == "[bootpoint] erp: a test"
    assert len(newsroom.events("notice_test")) == 1


def test_what_the_docs_say_can_be_pasted(newsroom: Newsroom, box: MailBox) -> None:
    page = (REPOSITORY / "docs/notices.md").read_text()
    (settings,) = re.findall(r"^```ini\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (commands,) = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    found = Config.from_environment(dict(line.split("=", 1) for line in settings.splitlines())).notices
    assert (found.digest, found.sender) == (DailyHour(7 * 60, "Europe/Rome"), SENDER)
    newsroom.add_job("erp", notify=MAIL)
    newsroom.add_point("erp", age="1 minute")
    post = newsroom.mail_post(box)
    done: list[subprocess.CompletedProcess[str]] = []
    programs = str(Path(sys.executable).parent)
    env = {"BOOTPOINT_DATABASE_URL": newsroom.database.url, "PATH": f"{programs}:{os.environ['PATH']}"}

    def paste() -> None:
        done.append(subprocess.run(["bash", "-ec", commands], env=env, capture_output=True, text=True, timeout=90))

    together(paste, lambda: wait_for(lambda: post.round() or done, "the test to be asked for"))
    assert done[0].returncode == 0, done[0].stderr
    assert re.search(r"^mail +ops@example.org +sent", done[0].stdout, re.MULTILINE)
    assert done[0].stdout.endswith("1 job, all ok\n")


def test_a_try_that_no_process_takes_says_what_is_missing_and_is_not_sent_later(
    newsroom: Newsroom, box: MailBox
) -> None:
    newsroom.add_job("erp", notify=MAIL)
    result = call(newsroom, "job", "notify", "erp", "--timeout", "0.1")
    assert result.exit_code == 1
    assert "no process took it: set BOOTPOINT_MAIL for a worker or scheduler that runs" in result.stdout
    assert newsroom.mail_post(box).round() == 0


def test_a_job_that_tells_nobody_cannot_be_tried_out(newsroom: Newsroom) -> None:
    newsroom.add_job("erp")
    result = call(newsroom, "job", "notify", "erp")
    assert result.exit_code == 2
    assert "add [notify]" in result.stderr
    assert newsroom.events("notice_test") == []


def test_what_nobody_sends_is_seen_and_given_up(newsroom: Newsroom) -> None:
    newsroom.add_job("erp", notify=MAIL)
    newsroom.add_point("erp", age="1 minute")
    record(newsroom, "drift", job="erp")
    newsroom.execute("UPDATE notification SET created_at = now() - interval '2 hours'")
    result = call(newsroom, "status")
    nobody = "no process took it: set BOOTPOINT_MAIL for a worker or scheduler that runs"
    assert result.stdout.splitlines() == [f"mail: 1 notice waits for up to 2 h: {nobody}", "1 job, all ok"]
    assert result.exit_code == 0
    registry = CollectorRegistry()
    registry.register(StateCollector(newsroom.database))
    shown = generate_latest(registry).decode()
    assert 'bootpoint_notices_pending{channel="mail"} 1.0' in shown
    assert 'bootpoint_notices_pending{channel="webhook"} 0.0' in shown
    newsroom.execute("UPDATE notification SET created_at = now() - interval '74 hours'")
    look(newsroom.database, NO_DIGEST, "w")
    (said,) = newsroom.events("notice_failed")
    assert "no process sends notices of this kind" in said["text"]
    assert call(newsroom, "status").stdout == "1 job, all ok\n"


def test_what_was_told_is_forgotten_after_ninety_days(newsroom: Newsroom, box: MailBox) -> None:
    newsroom.add_job("erp", notify=MAIL)
    newsroom.fail("erp")
    newsroom.mail_post(box).round()
    newsroom.execute("UPDATE notification SET ended_at = now() - interval '89 days'")
    look(newsroom.database, NO_DIGEST, "w")
    assert len(newsroom.notices()) == 1
    newsroom.execute("UPDATE notification SET ended_at = now() - interval '91 days'")
    look(newsroom.database, NO_DIGEST, "w")
    assert newsroom.notices() == []
