"""The history on the command line and below it: pages in any order, periods, files, and its upkeep."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bootpoint_common.errors import UsageError
from bootpoint_common.store import event, history, milestone
from bootpoint_common.store.database import Database, Row, one_row, rows
from bootpoint_common.store.database import run as execute
from bootpoint_common.store.history import PAGE, Question, Sort
from bootpoint_ops.textfile import replacing
from bootpoint_worker import archive
from tests.service.desk import Desk, desk

#: Events that are made: many pages, and not a whole number of them.
MANY = 20_003

START = datetime(2020, 1, 1, tzinfo=UTC)

#: Events of 40 days, some of the same instant, most columns with few values and some without any.
FILL = """
INSERT INTO event (at, kind, actor, origin, job, run, host, agent, code, text, details)
SELECT %s + make_interval(secs => (n / 3) * 519), 'kind_' || n %% 13,
    CASE WHEN n %% 5 = 0 THEN 'agent src' ELSE 'worker' END, CASE WHEN n %% 7 > 2 THEN 'worker@a:' || n %% 4 END,
    CASE WHEN n %% 11 > 0 THEN 'job-' || n * 7 %% 40 END, CASE WHEN n %% 3 = 0 THEN n / 30 END,
    CASE WHEN n %% 4 = 0 THEN 'kvm' || n %% 3 END, 'src', CASE WHEN n %% 17 = 0 THEN 'host_full' END,
    'what happened ' || n, jsonb_build_object('n', n)
FROM generate_series(1, %s) AS n
"""

@pytest.fixture
def pool(database: str) -> Iterator[Database]:
    made = Database(database, size=2, origin="test")
    yield made
    made.close()


@pytest.fixture
def site(database: str, tmp_path: Path) -> Iterator[Desk]:
    with desk(database, tmp_path) as made:
        yield made


def fill(database: str, count: int = MANY) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(FILL.encode(), (START, count))
        connection.execute("VACUUM ANALYZE event")


def in_order(items: list[Row], asked: Question) -> list[int]:
    """Return the numbers of events as they have to be sorted: nothing before everything, ties as they happened."""
    column = {Sort.TIME: "at", Sort.ID: "id"}.get(asked.sort, str(asked.sort))

    def key(item: Row) -> tuple[Any, ...]:
        value = item[column]
        return (value is not None, value if value is not None else 0, item["at"], item["id"])

    return [item["id"] for item in sorted(items, key=key, reverse=asked.descending)]


# --- pages


def test_every_column_sorts_both_ways_and_pages_neither_repeat_nor_leave_out(pool: Database, database: str) -> None:
    fill(database)
    pages = -(-MANY // PAGE)
    with pool.transaction() as connection:
        every = rows(connection, "SELECT * FROM v_event")
        for sort in Sort:
            for descending in (True, False):
                asked = Question(sort=sort, descending=descending)
                wanted = in_order(every, asked)
                for number in (1, 2, pages // 2, pages // 2 + 1, pages - 1, pages):
                    found = history.page(connection, asked, number)
                    assert (found.pages, found.total) == (pages, MANY)
                    part = wanted[(number - 1) * PAGE : number * PAGE]
                    assert [item["id"] for item in found.items] == part, f"page {number} by {sort} {descending}"


def test_a_page_far_from_both_ends_is_found_from_a_milestone(pool: Database, database: str) -> None:
    fill(database)
    end = START + timedelta(seconds=519 * (MANY // 3))
    pages = range(history.FAR // PAGE, MANY // PAGE - history.FAR // PAGE, 23)
    with pool.transaction() as connection:
        history.set_milestones(connection, end - timedelta(hours=20), step=700)
        # Events that were not there yet stand between those that were.
        more = "INSERT INTO event (at, kind, actor, origin, run, host, code, text)"
        more += " SELECT %s + make_interval(secs => n), 'kind_' || n %% 20, 'me', 'worker@a:' || n %% 3, n, 'kvm1',"
        more += " CASE WHEN n %% 2 = 0 THEN 'busy' END, 'x' FROM generate_series(1, 90) AS n"
        execute(connection, more, end)
        every = rows(connection, "SELECT * FROM v_event")
        for sort in Sort:
            for descending in (True, False):
                asked = Question(sort=sort, descending=descending)
                wanted = in_order(every, asked)
                for number in pages:
                    found = history.page(connection, asked, number)
                    part = wanted[(number - 1) * PAGE : number * PAGE]
                    assert [item["id"] for item in found.items] == part, f"page {number} by {sort} {descending}"
        near = milestone.near(connection, Sort.KIND, Sort.KIND.columns, MANY // 2, PAGE)
        assert near is not None
        assert MANY // 2 - 1000 < near.place <= MANY // 2
        # Nothing is made anew for a few events more.
        history.set_milestones(connection, end + timedelta(days=1), step=700)
        assert one_row(connection, "SELECT max(until) AS at FROM event_milestone")["at"] < end - timedelta(hours=20)


def test_all_pages_of_a_job_and_a_period_are_its_events(pool: Database, database: str) -> None:
    fill(database)
    since, until = START + timedelta(days=3, minutes=7), START + timedelta(days=31, seconds=1)
    asked = Question(job="job-7", since=since, until=until, sort=Sort.KIND, descending=False)
    with pool.transaction() as connection:
        every = rows(connection, "SELECT * FROM v_event")
        first = history.page(connection, asked, 1)
        found = [item["id"] for n in range(1, first.pages + 1) for item in history.page(connection, asked, n).items]
        with pytest.raises(UsageError, match=f"the last one is {first.pages}"):
            history.page(connection, asked, first.pages + 1)
    some = [item for item in every if item["job"] == "job-7" and since <= item["at"] < until]
    assert first.pages > 3
    assert found == in_order(some, asked)


def test_a_page_passes_over_what_is_before_it_in_an_index_alone(pool: Database, database: str) -> None:
    fill(database)
    with pool.transaction() as connection:
        for sort in Sort:
            for descending in (True, False):
                since = None if sort is Sort.ID else START + timedelta(days=1)
                asked = Question(sort=sort, descending=descending, since=since)
                query, values = history.page_query(asked, MANY // 3, PAGE)
                plan = "\n".join(row["QUERY PLAN"] for row in rows(connection, f"EXPLAIN {query}", *values))
                index = "(event_pkey|event_by_id)" if sort is Sort.ID else f"event_by_{sort}"
                assert re.search(f"Index Only Scan{' Backward' if descending else ''} using {index}", plan), plan
                assert "Sort" not in plan.partition("Limit")[2], plan


def test_how_many_there_are_is_summed_from_hours_and_is_right_at_any_time(
    pool: Database, database: str, rng: random.Random
) -> None:
    fill(database)
    end = START + timedelta(seconds=519 * (MANY // 3))

    def agree() -> None:
        with pool.transaction() as connection:
            for _ in range(12):
                since, until = sorted(START + timedelta(seconds=rng.randrange(-9999, 4_000_000)) for _ in "ab")
                for asked in (Question(since=since, until=until), Question(since=since), Question(until=until)):
                    where, values = history._where(asked)
                    counted = one_row(connection, f"SELECT count(*) AS n FROM event{where}", *values)["n"]
                    assert history.count(connection, asked) == counted, (since, until)

    agree()
    for now in (START + timedelta(days=9, minutes=5), end - timedelta(hours=5), end + timedelta(days=3)):
        with pool.transaction() as connection:
            history.count_hours(connection, now)
            history.count_hours(connection, now)
            # A transaction that began before the hour's end may end after it.
            late = (now - timedelta(minutes=30), "late", "late")
            execute(connection, "INSERT INTO event (at, kind, text, actor) VALUES (%s, %s, %s, 'worker')", *late)
        agree()
    with pool.transaction() as connection:
        counted = one_row(connection, "SELECT sum(events) AS n, max(hour) AS hour FROM event_hour")
        # Hours without any event are counted as well, up to the last one that was over an hour before.
        newest = (end + timedelta(days=3)).replace(minute=0, second=0) - timedelta(hours=2)
        assert counted == {"n": MANY + 2, "hour": newest}


# --- the command


def test_the_command_shows_pages_and_one_event(site: Desk, pool: Database, database: str) -> None:
    fill(database)
    shown = site("history", "--page", "2", "--to", "2020-02-01").stdout.splitlines()
    assert shown[0].split() == ["ID", "TIME", "ACTOR", "ORIGIN", "JOB", "RUN", "KIND", "TEXT"]
    assert len(shown) == PAGE + 2
    assert shown[-1].startswith("page 2 of ")
    found = site.json("history", "--sort", "run:desc", "--job", "job-7")
    assert [item["run"] for item in found["items"]] == sorted((i["run"] for i in found["items"]), reverse=True)
    assert list(found["items"][0]) == [
        "id", "at", "kind", "actor", "origin", "job", "run", "point", "host", "agent", "code", "text", "details",
    ]  # fmt: skip
    one = site.json("history", "show", "119")
    assert (one["id"], one["details"], one["code"]) == (119, {"n": 118}, None)
    text = site("history", "show", "120").stdout
    assert "what happened 119" in text
    assert "host_full" in text
    assert site("history", "show", "99999").exit_code == 3
    assert site("history", "--page", "999").exit_code == 2
    assert "none of id, time, kind" in site("history", "--sort", "size").stderr
    assert site.json("history", "--days", "1")["total"] == 1, "the host was added today"


def test_the_history_is_saved_whole_and_a_line_an_event(
    site: Desk, pool: Database, database: str, tmp_path: Path
) -> None:
    fill(database, 2_000)
    with pool.transaction() as connection:
        event.record(connection, "odd", "two\nlines \x1b[31m", actor="worker", job="job-7", details={"a": "b\nc"})
    file = tmp_path / "history.txt"
    said = site("history", "--sort", "time:asc", "--save", str(file)).stdout
    lines = file.read_text().splitlines()
    assert said == f"2002 events written to {file}\n"
    assert len(lines) == 2002
    assert "kind_1: what happened 1  [" in lines[0]
    assert r"odd: two\nlines \x1b[31m  [job=job-7; actor=worker; origin=test; details=" in lines[-1]
    site("history", "--job", "job-7", "--save", str(file), "-o", "json")
    items = [json.loads(line) for line in file.read_text().splitlines()]
    assert {item["job"] for item in items} == {"job-7"}
    assert items[0]["text"] == "two\nlines \x1b[31m"
    assert "can't be written" in site("history", "--save", str(tmp_path / "none" / "x")).stderr


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "kept.txt"
    file.write_text("before")
    with pytest.raises(UnicodeEncodeError), replacing(file) as stream:
        stream.write("half" * 100_000 + "\ud800")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
    with replacing(file) as stream:
        stream.write("after")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["after"]


def test_a_terminal_obeys_nothing_that_a_script_or_a_message_holds(site: Desk, pool: Database) -> None:
    site.apply("erp", "--run")
    site.done("run", "cancel", "1")
    output = "a\\tb\\r\\n\\u001b[2Jc\\n"
    script = f'[{{"stage": "before_snapshot", "exit_code": 3, "duration_seconds": 1.2, "output": "{output}"}}]'
    with pool.transaction() as connection:
        execute(connection, "UPDATE run SET scripts = %s::jsonb, message = E'no\\x1b[2J'", script)
    log, shown = site.done("run", "log", "1"), site.done("run", "show", "1")
    assert "\x1b" not in log + shown
    assert "a       b\n\\x1b[2Jc\n" in log
    assert "no\\x1b[2J" in shown


# --- upkeep


def test_what_scripts_wrote_is_kept_for_ninety_days(site: Desk, pool: Database) -> None:
    site.apply("erp", "--run")
    site.done("run", "cancel", "1")
    script = '[{"stage": "before_snapshot", "exit_code": 0, "duration_seconds": 1.2, "output": "paused\\n"}]'
    with pool.transaction() as connection:
        execute(connection, "UPDATE run SET scripts = %s::jsonb", script)
        ended = one_row(connection, "SELECT ended_at FROM run")["ended_at"]
    archive.tend(pool, ended + timedelta(days=89, hours=23))
    assert "paused" in site("run", "log", "1").stdout
    archive.tend(pool, ended + timedelta(days=90, seconds=1))
    archive.tend(pool, ended + timedelta(days=91))
    log = site("run", "log", "1").stdout
    assert "--- before_snapshot: exit 0 after 1.2 s\n(what it wrote was kept for 90 d)\n" in log
    assert "run_cancelled" in log
    assert site.json("run", "show", "1")["scripts"] == [
        {"stage": "before_snapshot", "exit_code": 0, "duration_seconds": 1.2, "output": None}
    ]
