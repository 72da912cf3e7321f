"""An alarm of the broker in the midst of a run: what people are told meanwhile, and that nothing is lost."""

from __future__ import annotations

from typing import Any

from bootpoint_ops import dashboard, read
from tests.service.hostile_agent import Besieged
from tests.service.process import wait_for

#: RabbitMQ's metric of each alarm.
METRICS = {"memory": "rabbitmq_alarms_memory_used_watermark", "disk": "rabbitmq_alarms_free_disk_space_watermark"}

#: KB/s at which the 2 MiB that change take some seconds: longer than an alarm needs to come.
SLOW = 700

_TOLD = "SELECT kind FROM event WHERE kind IN ('broker_blocked', 'broker_unblocked') ORDER BY id"

_MIDST = """
SELECT 1 AS x FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id
WHERE p.run_uid = %s AND p.state = 'open' AND d.watermark_bytes > 0
"""


def ride_out(scene: Besieged, kind: str) -> None:
    """Let an alarm come when a run has sent a part of what it has, see that it is named, let it go, and end the run.

    Args:
        scene: An installation whose processes look often for alarms.
        kind: ``memory`` or ``disk``.
    """
    fleet, broker = scene.fleet, scene.broker.vhost.broker
    before = len(fleet.rows(_TOLD))
    scene.write()
    with scene.slowed(SLOW):
        begun = fleet.run(scene.job)
        fleet.wait_until(lambda: fleet.row(_MIDST, begun.uid))
    broker.alarm(kind, on=True)
    try:
        assert broker.metric(METRICS[kind]) == 1
        wait_for(lambda: shown(scene)["broker_blocked_at"], "the alarm to be shown")
        assert [run["run"] for run in shown(scene)["running"]] == [begun.id]
        with fleet.database.transaction() as connection:
            line = read.run_line(connection, begun.id)
        assert line == "the broker, which takes nothing: an alarm of its memory or its disk"
    finally:
        broker.alarm(kind, on=False)
    fleet.wait(begun)
    assert scene.newest_equals_source()
    wait_for(lambda: shown(scene)["broker_blocked_at"] is None, "the end of the alarm to be shown")
    assert [row["kind"] for row in fleet.rows(_TOLD)[before:]] == ["broker_blocked", "broker_unblocked"]


def shown(scene: Besieged) -> dict[str, Any]:
    """Return what ``status`` says."""
    with scene.fleet.database.transaction() as connection:
        return dashboard.status(connection)
