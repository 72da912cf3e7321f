"""A list of ten thousand jobs comes at once: what the command and the database work for it, whoever else does."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from bootpoint_common.store.database import Database, one_row
from bootpoint_common.units import MiB
from bootpoint_ops import read
from tests.integration.test_flow import write_random
from tests.service import crowd
from tests.service.fleet import Fleet, fleet

#: Seconds of a processor that the command may take, and the database; on a machine that has nothing else to do the
#: whole command takes less than both, for they work at the same time.
COMMAND, QUERY = 1.8, 1.2

#: What keeps the changed bytes of runs that an older version made.
MIGRATION = resources.files("bootpoint_common.store") / "migrations" / "0024_trend.sql"


@pytest.fixture
def large(empty_database: str) -> str:
    crowd.crowd(empty_database, events=1000)
    return empty_database


def processor_seconds(pid: int) -> float:
    """Return what a process has worked so far (fields 14 and 15 of proc(5)'s stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("words", [(), ("-o", "json")], ids=["table", "json"])
def test_a_list_of_ten_thousand_jobs_comes_at_once(large: str, words: tuple[str, ...]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("bootpoint")), "job", "list", *words],
        env={**os.environ, "BOOTPOINT_DATABASE_URL": large}, capture_output=True, check=True, text=True, timeout=120,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.count("agent-") == crowd.JOBS if not words else '"job-10000"' in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < COMMAND
    database = Database(large, size=1)
    try:
        with database.transaction() as connection:
            pid = one_row(connection, "SELECT pg_backend_pid() AS pid")["pid"]
            began = processor_seconds(pid)
            assert len(read.job_list(connection)) == crowd.JOBS
            assert processor_seconds(pid) - began < QUERY
    finally:
        database.close()


def trend(installation: Fleet) -> list[int]:
    with installation.database.transaction() as connection:
        (job,) = read.job_list(connection)
    return list(job["trend_changed_bytes"])


def test_the_trend_is_what_each_run_changed_also_of_runs_from_before(
    database: str, tmp_path: Path, rng: random.Random
) -> None:
    with fleet(database, tmp_path) as installation:
        disks = {"a": tmp_path / "a.raw", "b": tmp_path / "b.raw"}
        for disk in disks.values():
            write_random(disk, 8 * MiB, rng, 20)
        installation.add_worker("w1")
        installation.add_agent("erp", [*disks.values()])
        job_id = installation.add_job("erp", "erp", disks, installation.add_host(f"fake-{tmp_path.name}"))
        for _ in range(2):
            installation.wait(installation.run(job_id))
            write_random(disks["b"], 8 * MiB, rng, 3)
        rows = installation.rows(
            "SELECT sum(d.changed_bytes)::bigint AS n FROM boot_point p JOIN boot_point_disk d ON d.point_id = p.id"
            " GROUP BY p.id ORDER BY p.sequence"
        )
        assert trend(installation) == [row["n"] for row in rows]
        assert trend(installation)[0] > trend(installation)[1] > 0
        before = trend(installation)
        keep = MIGRATION.read_text().partition("\nUPDATE ")[2].partition(";")[0]
        with installation.database.transaction() as connection:
            connection.execute(b"UPDATE run SET changed_bytes = NULL")
            connection.execute(f"UPDATE {keep}".encode())
        assert trend(installation) == before
