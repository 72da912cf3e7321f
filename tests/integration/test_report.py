"""The auditor's report: over its period, from the history, of jobs that are gone as well."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from bootpoint_common import message
from bootpoint_common.store import agent as agents
from bootpoint_common.store import request
from bootpoint_common.store.database import run as execute
from bootpoint_common.units import GiB
from bootpoint_ops.report import COLUMNS
from bootpoint_worker import heard
from tests.service.desk import Desk, desk

#: Noon of the tenth of a month; the reports are of days around it.
NOON = datetime(2020, 3, 10, 12, tzinfo=UTC)

HOUR = 3600.0

class Past:
    """An installation whose history is written by hand."""

    def __init__(self, call: Desk) -> None:
        self.call = call

    def apply(self, name: str, at: datetime, objective: str = "24h") -> None:
        """Apply a job, as if it had been then."""
        self.call.apply(name, objective=objective)
        with self.call.database.transaction() as connection:
            execute(
                connection,
                "UPDATE job_revision SET at = %s WHERE (job_id, revision) IN"
                " (SELECT id, revision FROM job WHERE name = %s)",
                *(at, name),
            )

    def happened(self, at: datetime, kind: str, job: str | None = "erp", **more: Any) -> None:
        details = more.pop("details", None)
        values = {"at": at, "kind": kind, "job": job, "actor": "worker", "text": kind, **more}
        if details is not None:
            values["details"] = Jsonb(details)
        names = ", ".join(values)
        with self.call.database.transaction() as connection:
            execute(
                connection,
                f"INSERT INTO event ({names}) VALUES ({', '.join(['%s'] * len(values))})",
                *values.values(),
            )

    def committed(self, instant: datetime, job: str = "erp") -> str:
        """Note a boot point that was committed a minute after its instant."""
        name = f"V{instant:%Y%m%d_%H%M%S}"
        self.happened(instant + timedelta(minutes=1), "point_committed", job, host="h1", point=name)
        return name

    def report(self, since: datetime, until: datetime) -> list[dict[str, Any]]:
        span = ("--from", since.isoformat(), "--to", until.isoformat())
        items: list[dict[str, Any]] = self.call.json("report", *span)["items"]
        return items


@pytest.fixture
def site(database: str, tmp_path: Path) -> Iterator[Past]:
    with desk(database, tmp_path) as call:
        yield Past(call)


def hours(count: float) -> timedelta:
    return timedelta(hours=count)


def test_it_says_how_it_was_then_and_not_how_it_is_now(site: Past) -> None:
    site.apply("erp", NOON - hours(100))
    first = site.committed(NOON - hours(30))
    second = site.committed(NOON + hours(20))  # 50 hours without one
    site.committed(NOON + hours(40))
    site.committed(datetime.now(UTC) - hours(1))
    (item,) = site.report(NOON, NOON + hours(24))
    assert list(item) == list(COLUMNS)
    assert (item["machine"], item["job"], item["host"]) == ("src", "erp", "h1")
    assert item["worst_point_age_seconds"] == 50 * HOUR + 60
    assert item["worst_point_age_at"] == "2020-03-11T08:01:00Z"
    assert (item["objective_seconds"], item["objective_kept"]) == (24 * HOUR, False)
    assert (item["points_made"], item["points_kept"], item["newest_point"]) == (1, 2, second)
    # Up to a moment before that commit the older point is the newest, and the age is that of the moment.
    (item,) = site.report(NOON - hours(20), NOON)
    assert (item["worst_point_age_seconds"], item["newest_point"]) == (30 * HOUR, first)
    (item,) = site.report(NOON - hours(29), NOON - hours(10))
    assert item["objective_kept"] is True


def test_a_job_that_is_gone_is_in_the_report_of_its_time_only(site: Past) -> None:
    site.apply("erp", NOON - hours(100))
    site.committed(NOON - hours(1))
    site.call.done("job", "delete", "erp", "--yes")
    (item,) = site.report(NOON, NOON + hours(2))
    assert (item["job"], item["worst_point_age_seconds"], item["points_kept"]) == ("erp", 3 * HOUR, 1)
    assert site.report(NOON - hours(200), NOON - hours(150)) == []


def test_a_job_that_was_made_again_has_its_own_boot_points_only(site: Past) -> None:
    site.apply("erp", NOON - hours(100))
    site.committed(NOON - hours(1))
    site.committed(NOON)
    site.call.done("job", "delete", "erp", "--yes")
    site.call.apply("erp", objective="24h")
    site.happened(datetime.now(UTC), "point_committed", host="h1", point=f"V{datetime.now(UTC):%Y%m%d_%H%M%S}")
    items = site.report(NOON, datetime.now(UTC) + hours(1))
    assert [(item["points_made"], item["points_kept"]) for item in items] == [(1, 2), (1, 1)]


def test_without_a_point_the_age_counts_from_the_jobs_beginning_and_an_edit_changes_the_objective(site: Past) -> None:
    site.apply("erp", NOON, objective="2h")
    (item,) = site.report(NOON - hours(5), NOON + hours(3))
    assert (item["worst_point_age_seconds"], item["objective_kept"], item["newest_point"]) == (3 * HOUR, False, None)
    site.apply("erp", NOON + hours(1), objective="24h")
    (item,) = site.report(NOON - hours(5), NOON + hours(3))
    assert (item["objective_seconds"], item["objective_kept"]) == (24 * HOUR, True)


def test_proofs_runs_and_people_are_named(site: Past) -> None:
    site.apply("erp", NOON - hours(100))
    name = site.committed(NOON - hours(50))
    of = {"host": "h1", "point": name}
    site.happened(NOON - hours(40), "point_verified", **of)
    site.happened(NOON - hours(30), "boot_checked", **of, details={"verdict": "boots", "screenshot": "boot/7.png"})
    site.happened(NOON - hours(29), "test_started", **{**of, "actor": "eva@desk"})
    site.happened(NOON + hours(30), "point_damaged", **of)  # after the period
    for number, kind in enumerate(["run_succeeded", "run_failed", "run_succeeded", "run_cancelled"]):
        site.happened(NOON + hours(number), kind, run=number, code="host_full" if kind == "run_failed" else None)
    site.happened(NOON + hours(5), "run_skipped", run=9, code="already_running")
    site.happened(NOON + hours(6), "run_skipped", run=10, code="missed", details={"missed": {"count": 4}})
    site.happened(NOON + hours(6), "run_failed", "other", run=11)
    (item,) = site.report(NOON, NOON + hours(24))
    assert {key: item[key] for key in COLUMNS[10:25]} == {
        "verified_at": "2020-03-08T20:00:00Z", "verified_point": name, "verified_result": "verified",
        "boot_checked_at": "2020-03-09T06:00:00Z", "boot_point": name, "boot_verdict": "boots",
        "boot_picture": "boot/7.png", "tested_at": "2020-03-09T07:00:00Z", "tested_point": name,
        "tested_by": "eva@desk", "runs_succeeded": 2, "runs_failed": 1, "runs_cancelled": 1, "runs_skipped": 1,
        "runs_missed": 4,
    }  # fmt: skip
    (item,) = site.report(NOON, NOON + hours(48))
    assert item["verified_result"] == "damaged"


def test_disks_that_nobody_protected_are_listed_for_their_time(site: Past) -> None:
    def tell(*names: str) -> None:
        items = [{"id": f"serial:{n}", "path": f"/dev/{n}", "size_bytes": GiB, "eligible": True} for n in names]
        with site.call.database.transaction() as connection:
            asked = request.ask_agent(connection, "src", "disks", {}, requested_by="test", seconds=60)
            told = message.Answer(request=asked, answer={"items": items})
            heard.answer(connection, agents.get(connection, "src"), told)

    began = datetime.now(UTC) - hours(1)
    tell("a", "b")
    (item,) = site.report(began, datetime.now(UTC) + hours(1))
    assert (item["job"], item["unprotected_disks"]) == (None, ["serial:a", "serial:b"])
    site.apply("erp", NOON)
    (item,) = site.report(began, datetime.now(UTC) + hours(1))
    assert (item["job"], item["unprotected_disks"]) == ("erp", ["serial:b"])
    tell("a")
    settled = datetime.now(UTC)
    (item,) = site.report(began, datetime.now(UTC) + hours(1))
    assert item["unprotected_disks"] == ["serial:b"], "it was so for some of the time"
    (item,) = site.report(settled, datetime.now(UTC) + hours(1))
    assert item["unprotected_disks"] == []


def test_it_is_csv_with_a_header(site: Past) -> None:
    site.apply("erp", NOON - hours(100))
    name = site.committed(NOON - hours(1))
    text = site.call.done("report", "--from", "2020-03-10", "--to", "2020-03-10")
    header, line = list(csv.reader(text.splitlines()))
    assert header == list(COLUMNS)
    assert line[:6] == ["src", "erp", "h1", "1", "1", name]
    assert dict(zip(header, line, strict=True))["objective_kept"] == "false"
    assert line[-1] == ""


def test_a_report_needs_its_period(site: Past) -> None:
    result = site.call("report", "--from", "2020-03-10")
    assert result.exit_code == 2
    assert "--to" in result.stderr
