"""The board of worker pools, and of what they work through."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from bootpoint_ops.monitoring.panel import (
    BAD,
    DOUBTFUL,
    GOOD,
    RATE,
    AnyPanel,
    board,
    document,
    filled,
    graph,
    limited,
    number,
    query,
    states,
    steps,
    variable,
)


def pool_board() -> Dashboard:
    """Return the board of worker pools and of what they work through: line, outbox, broker."""
    made = board(
        "bootpoint-pool",
        "bootpoint: worker pool",
        "Who serves the pools, and whether they keep up.",
        [variable("pool", "Pool", "bootpoint_worker_up", several=True)],
    ).link(document("How work travels", "architecture.md"))
    up = 'max by (pool) (bootpoint_worker_up{pool=~"$pool"})'
    return filled(made, {"Now": _numbers(up), "Work": _work(up), "Broker": _broker()})


def _numbers(up: str) -> list[AnyPanel]:
    """Return the numbers that say at a glance whether the pools keep up."""
    return [
        number(
            "Fewest workers",
            "Processes of the pool that has the fewest. At 0 its hosts stand still.",
            "short",
            f"min({up})",
            steps(BAD, (1, GOOD)),
        ),
        number(
            "Runs in line",
            "They wait for a place on a host, or for a worker.",
            "short",
            "max(bootpoint_runs_waiting)",
            steps(GOOD, (20, DOUBTFUL)),
        ),
        number(
            "Outbox lag",
            "How long the oldest message that is due has waited.",
            "s",
            "max(bootpoint_outbox_lag_seconds)",
            steps(GOOD, (10, DOUBTFUL), (60, BAD)),
        ),
        number(
            "Notices that wait",
            "Mails and webhooks that are not yet sent.",
            "short",
            "sum(max by (channel) (bootpoint_notices_pending))",
            steps(GOOD, (20, DOUBTFUL)),
        ),
    ]


def _work(up: str) -> list[AnyPanel]:
    """Return how much is worked through, and what holds it up."""
    return [
        graph("Workers", "Live processes of each pool.", "short", query(up, "{{pool}}")),
        graph(
            "Written on targets",
            "By all pools together.",
            "binBps",
            query(f"sum(rate(bootpoint_applied_bytes_total[{RATE}]))", "written"),
            query(f"sum(rate(bootpoint_wire_bytes_total[{RATE}]))", "taken from streams"),
        ),
        limited(
            graph(
                "Credit wait",
                "Share of the time that a stream waits for its target; near 100 % targets are what is slow.",
                "percentunit",
                query(
                    f"sum(rate(bootpoint_credit_wait_seconds_total[{RATE}])) / "
                    "clamp_min(sum(bootpoint_open_points), 1)",
                    "waiting",
                ),
            ),
            steps(GOOD, (0.8, BAD)),
        ),
        graph(
            "Outbox",
            "Messages that follow from the database and aren't with the broker yet.",
            "short",
            query("max(bootpoint_outbox_pending)", "pending"),
        ),
        graph(
            "Refused messages",
            "By reason, in 15 minutes.",
            "short",
            query("sum by (reason) (increase(bootpoint_rejected_messages_total[15m]))", "{{reason}}"),
        ),
        graph(
            "Memory of processes",
            "Resident memory of each worker process.",
            "bytes",
            query('process_resident_memory_bytes{job="bootpoint-worker"}', "{{instance}}"),
        ),
    ]


def _broker() -> list[AnyPanel]:
    """Return how the broker is."""
    return [
        states(
            "Alarms of the broker",
            "While one holds, the broker takes nothing from publishers.",
            query("max by (instance) (rabbitmq_alarms_memory_used_watermark)", "memory {{instance}}"),
            {"0": ("none", GOOD), "1": ("blocks", BAD)},
        ).with_target(query("max by (instance) (rabbitmq_alarms_free_disk_space_watermark)", "disk {{instance}}")),
        graph(
            "Messages in queues",
            "Ready, and delivered without an ack yet. Streams are bounded: two windows each.",
            "short",
            query("sum(rabbitmq_queue_messages_ready)", "ready"),
            query("sum(rabbitmq_queue_messages_unacked)", "unacked"),
        ),
        graph(
            "Connections",
            "Of agents and of our own processes.",
            "short",
            query("sum(rabbitmq_connections)", "connections"),
        ),
    ]
