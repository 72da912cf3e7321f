"""What Prometheus reads of an installation: how things stand, and what all processes counted."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from bootpoint_common import message
from bootpoint_common.metric import (
    APPLIED,
    CHANGED,
    CREDIT_WAIT,
    FALLBACKS,
    OTHER,
    SAMPLE_MISSES,
    SCANNED,
    WIRE,
)  # fmt: skip
from bootpoint_common.store import agent, count, point, watermark
from bootpoint_common.store.database import Database, one_row
from bootpoint_common.store.database import run as execute
from bootpoint_common.store.watermark import SealRecord, Watermark
from bootpoint_common.tally import Tally
from bootpoint_common.units import MiB
from bootpoint_ops.exposition import STALE_SECONDS, Picture
from bootpoint_ops.gauge import StateCollector
from bootpoint_worker import heard
from tests.integration.test_flow import write_random
from tests.service.fleet import Fleet, fleet


def metrics(database: Database) -> dict[str, float]:
    """Return every line that Prometheus would read, by its series."""
    registry = CollectorRegistry()
    registry.register(StateCollector(database))
    text = generate_latest(registry).decode()
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {series: float(value) for series, value in lines}


@pytest.fixture
def installation(database: str, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(database, tmp_path) as made:
        yield made


def test_the_state_of_an_installation_is_served(installation: Fleet, tmp_path: Path, rng: random.Random) -> None:
    disk = tmp_path / "system.raw"
    write_random(disk, 8 * MiB, rng, 20)
    worker = installation.add_worker("w1", pools=("fake", "other"))
    host = f"fake-{tmp_path.name}"
    host_id = installation.add_host(host)
    installation.add_agent("erp", [disk])
    job_id = installation.add_job("erp", "erp", {"system": disk}, host_id)
    installation.wait(installation.run(job_id))
    lines = metrics(installation.database)
    assert lines[f'bootpoint_points{{host="{host}",job="erp"}}'] == 1
    assert lines[f'bootpoint_open_points{{host="{host}"}}'] == 0
    assert 0 <= lines[f'bootpoint_newest_point_age_seconds{{host="{host}",job="erp"}}'] < 120
    assert lines['bootpoint_run_total{reason="",result="succeeded"}'] == 1
    assert lines["bootpoint_run_duration_seconds_count"] == 1
    assert 0 < lines["bootpoint_run_duration_seconds_sum"] < 120
    assert lines["bootpoint_runs_waiting"] == 0
    assert lines['bootpoint_agent_last_seen_seconds{agent="erp"}'] < 60
    # What has never happened is there as 0: else the first time would be no increase.
    assert lines['bootpoint_tracker_sample_miss_total{agent="erp"}'] == 0
    assert lines['bootpoint_verify_total{result="damaged"}'] == 0
    # The process that serves several pools is up in each; nobody serves that of another host.
    installation.add_host("lonely", kind="kvm")
    lines = metrics(installation.database)
    assert {pool: lines[f'bootpoint_worker_up{{pool="{pool}"}}'] for pool in ("fake", "other", "kvm")} == {
        "fake": 1,
        "other": 1,
        "kvm": 0,
    }
    installation.stop(worker)
    assert metrics(installation.database)['bootpoint_worker_up{pool="fake"}'] == 0


def test_everything_of_a_run_is_counted_once(installation: Fleet, tmp_path: Path, rng: random.Random) -> None:
    disk = tmp_path / "system.raw"
    write_random(disk, 8 * MiB, rng, 20)
    for name in ("w1", "w2"):
        installation.add_worker(name)
    host_id = installation.add_host(f"fake-{tmp_path.name}")
    installation.add_agent("erp", [disk])
    job_id = installation.add_job("erp", "erp", {"system": disk}, host_id)
    for _ in range(2):
        installation.wait(installation.run(job_id))
        write_random(disk, 8 * MiB, rng, 3)
    row = installation.row(
        "SELECT sum(scanned_bytes)::bigint AS scanned, sum(changed_bytes)::bigint AS changed,"
        " sum(watermark_bytes)::bigint AS wire, sum(applied_bytes)::bigint AS applied FROM boot_point_disk"
    )
    assert row is not None
    named = {"scanned": SCANNED, "changed": CHANGED, "wire": WIRE, "applied": APPLIED}
    assert {name: installation.counted(metric) for name, metric in named.items()} == row


@pytest.fixture
def open_disk(installation: Fleet, tmp_path: Path) -> point.PointDisk:
    """A disk of an open point whose stream nobody has touched yet; this test is its slice."""
    host_id = installation.add_host("h1")
    installation.enroll_agent("erp")
    job_id = installation.add_job("erp", "erp", {"system": tmp_path / "system.raw"}, host_id)
    run = installation.run(job_id)
    with installation.database.transaction() as connection:
        row = one_row(
            connection,
            "WITH p AS (INSERT INTO boot_point (id, replica_id, run_uid, sequence, name, state, kind, epoch, chain,"
            " consistency, instant, incarnation, created_at) SELECT gen_random_uuid(), id, %s, 1, 'V20261203_093000',"
            " 'open', 'full', 1, 1, 'crash', now(), gen_random_uuid(), now() - interval '1 minute' FROM replica"
            " RETURNING id)"
            " INSERT INTO boot_point_disk (id, point_id, slot, position, size_bytes, window_bytes, writer)"
            " SELECT gen_random_uuid(), id, 'system', 0, %s, 0, 1 FROM p RETURNING id",
            run.uid,
            8 * MiB,
        )
        disk = point.disk(connection, row["id"])
    assert disk is not None
    return disk


def seal_of(disk: point.PointDisk, **said: object) -> SealRecord:
    values: dict[str, object] = {"scanned_bytes": 5, "changed_bytes": 3, "tracker": "hash", "fallback": "sample_miss"}
    return SealRecord(read_digest=b"r", applied_digest=b"a", wire_bytes=7, skipped=[], **{**values, **said})  # type: ignore[arg-type]


def test_a_slice_that_is_lost_with_its_transaction_counts_nothing(
    installation: Fleet, open_disk: point.PointDisk
) -> None:
    database = installation.database
    mark = Watermark(7, 1, b"c", 4, worker="w1", worker_bytes=4, wire_bytes=7)
    with database.transaction() as connection, connection.transaction(force_rollback=True):
        watermark.seal(connection, open_disk, 1, mark, seal_of(open_disk), agent="erp")
    with database.transaction() as connection:
        assert count.sums(connection) == {}
    with database.transaction() as connection:
        watermark.seal(connection, open_disk, 1, mark, seal_of(open_disk), agent="erp")
    assert {metric: installation.counted(metric) for metric in (SCANNED, CHANGED, WIRE, APPLIED)} == {
        SCANNED: 5,
        CHANGED: 3,
        WIRE: 7,
        APPLIED: 4,
    }
    assert installation.counted(FALLBACKS, "sample_miss") == installation.counted(SAMPLE_MISSES, "erp") == 1


def test_an_agent_that_lies_spoils_no_sum(installation: Fleet, open_disk: point.PointDisk) -> None:
    said = seal_of(open_disk, scanned_bytes=2**62, changed_bytes=-(2**62), fallback="x" * 1000)
    with installation.database.transaction() as connection:
        watermark.seal(connection, open_disk, 1, Watermark(7, 1, b"c", 4), said, agent="erp")
    assert installation.counted(SCANNED) == 2 * open_disk.size_bytes
    assert installation.counted(CHANGED) == 0
    assert installation.counted(FALLBACKS, OTHER) == 1


def test_waits_are_counted_once_however_often_they_are_said(installation: Fleet, open_disk: point.PointDisk) -> None:
    for seconds in (2.0, 2.0, 5.0, 3.0, 1e300):
        with installation.database.transaction() as connection:
            run = one_row(connection, "SELECT p.run_uid AS uid FROM boot_point p")["uid"]
            found = agent.find(connection, "erp", lock=True)
            assert found is not None
            disk = message.DiskProgress(
                slot="system", size_bytes=8 * MiB, scanned_bytes=1, changed_bytes=1, wire_bytes=1,
                credit_wait_seconds=seconds, stream=open_disk.id,
            )  # fmt: skip
            heard.heartbeat(connection, found, message.Heartbeat(runs=[message.RunProgress(run=run, disks=[disk])]))
        if seconds <= 5:
            assert installation.counted(CREDIT_WAIT) == max(2.0, seconds if seconds != 3.0 else 5.0)
    # Not longer than the point is there: a minute, and what this test took.
    assert 60 <= installation.counted(CREDIT_WAIT) < 120


def test_refusals_of_all_processes_are_added_up_and_outlive_them(installation: Fleet) -> None:
    for _ in range(2):
        tally = Tally()
        tally.refused("altered")
        count.save(installation.database, tally)
        count.save(installation.database, tally)
    assert metrics(installation.database)['bootpoint_rejected_messages_total{reason="altered"}'] == 2


def test_odd_storages_of_a_host_spoil_no_scrape(installation: Fleet) -> None:
    installation.add_host("h1")
    storages = (
        '[{"name": "a\\"b\\n", "free_bytes": 1, "size_bytes": 2}, {"name": "twice", "free_bytes": 3, "size_bytes": 4},'
        ' {"name": "twice", "free_bytes": 5, "size_bytes": 4}, {"name": null, "free_bytes": 1},'
        ' {"name": "away", "free_bytes": null, "size_bytes": null}]'
    )
    with installation.database.transaction() as connection:
        execute(connection, "UPDATE host SET info = jsonb_build_object('storages', %s::jsonb)", storages)
    free = {series: value for series, value in metrics(installation.database).items() if "target_free" in series}
    assert free == {
        'bootpoint_target_free_bytes{host="h1",storage="a\\"b\\n"}': 1,
        'bootpoint_target_free_bytes{host="h1",storage="twice"}': 3,
    }


def test_numbers_of_before_are_not_shown_for_ever(installation: Fleet) -> None:
    now = [1000.0]
    picture = Picture(installation.database, clock=lambda: now[0])
    picture.take()
    assert picture.latest() is not None
    now[0] += STALE_SECONDS + 1
    assert picture.latest() is None


def test_a_job_at_rest_has_no_objective(installation: Fleet, tmp_path: Path) -> None:
    disk = tmp_path / "system.raw"
    disk.write_bytes(bytes(MiB))
    host_id = installation.add_host(f"fake-{tmp_path.name}")
    installation.enroll_agent("erp")
    job_id = installation.add_job("erp", "erp", {"system": disk}, host_id)
    series = 'bootpoint_objective_seconds{job="erp",kind="point"}'

    def after(change: str) -> float | None:
        with installation.database.transaction() as connection:
            execute(connection, f"UPDATE job SET {change} WHERE id = %s", job_id)
        return metrics(installation.database).get(series)

    assert after("""spec = jsonb_set(spec, '{objective}', '{"point": "2h"}')""") == 7200
    assert after("paused_until = now() + interval '1 hour'") is None
    assert after("paused_until = now() - interval '1 second'") == 7200
    assert after("enabled = false") is None
