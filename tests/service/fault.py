"""What fails in the midst of a run, is named meanwhile, and costs nothing: an alarm of the broker, the database."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout

from bootpoint_ops import dashboard, read
from bootpoint_worker.targets.fake_host import FakeHost
from tests.service.hostile_agent import Besieged
from tests.service.postgres import PostgresServer
from tests.service.process import wait_for

#: RabbitMQ's metric of each alarm.
METRICS = {"memory": "rabbitmq_alarms_memory_used_watermark", "disk": "rabbitmq_alarms_free_disk_space_watermark"}

_TOLD = "SELECT kind FROM event WHERE kind IN ('broker_blocked', 'broker_unblocked') ORDER BY id"

_DRAINED = """
SELECT 1 AS x FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id
WHERE p.run_uid = %s AND d.watermark_bytes > 0
"""


def ride_out(scene: Besieged, kind: str) -> None:
    """Let an alarm come when a run's stream is full, see that it is named and the stream drained; let it go.

    Args:
        scene: An installation whose processes look often for alarms.
        kind: ``memory`` or ``disk``.
    """
    fleet, broker = scene.fleet, scene.broker.vhost.broker
    before = len(fleet.rows(_TOLD))
    scene.write()
    pause = FakeHost.at(scene.host).pause_at("write", "called")
    begun = fleet.run(scene.job)
    pause.wait()
    broker.alarm(kind, on=True)
    try:
        assert broker.metric(METRICS[kind]) == 1
        wait_for(lambda: shown(scene)["broker_blocked_at"], "the alarm to be shown")
        assert [run["run"] for run in shown(scene)["running"]] == [begun.id]
        with fleet.database.transaction() as connection:
            line = read.run_line(connection, begun.id)
        assert line == "the broker, which takes nothing: an alarm of its memory or its disk"
        pause.release()
        fleet.wait_until(lambda: fleet.row(_DRAINED, begun.uid))
    finally:
        pause.release()
        broker.alarm(kind, on=False)
    fleet.wait(begun)
    assert scene.newest_equals_source()
    wait_for(lambda: shown(scene)["broker_blocked_at"] is None, "the end of the alarm to be shown")
    assert [row["kind"] for row in fleet.rows(_TOLD)[before:]] == ["broker_blocked", "broker_unblocked"]


def restart_in_commit(scene: Besieged, postgres: PostgresServer, step: str) -> None:
    """Restart the database while a commit is at a step of its host, and see the point committed once.

    Args:
        scene: An installation over that server.
        postgres: The server.
        step: The step of the fake host's verb ``commit``.
    """
    fleet = scene.fleet
    scene.write()
    before = len(fleet.points(scene.job))
    pause = FakeHost.at(scene.host).pause_at("commit", step)
    begun = fleet.run(scene.job)
    pause.wait()
    row = fleet.row("SELECT state FROM boot_point WHERE run_uid = %s", begun.uid)
    assert row == {"state": "committing"}
    postgres.restart()
    pause.release()
    wait_for(postgres.answers, "the database")
    # What was in hand has failed with its connection. Whoever gets the claim, when it has run out, redoes the rest.
    state = wait_for(lambda: ended(scene, begun.uid), "the end of the run")
    assert state == "succeeded"
    assert len(fleet.points(scene.job)) == before + 1
    assert scene.newest_equals_source()


def ended(scene: Besieged, uid: UUID) -> str | None:
    """Return how a run has ended; None while it hasn't, or the database can't be asked yet."""
    try:
        row = scene.fleet.row("SELECT state FROM run WHERE uid = %s AND ended_at IS NOT NULL", uid)
    except (psycopg.Error, PoolTimeout):
        return None
    return None if row is None else str(row["state"])


def shown(scene: Besieged) -> dict[str, Any]:
    """Return what ``status`` says."""
    with scene.fleet.database.transaction() as connection:
        return dashboard.status(connection)
