"""The board of agents."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from bootpoint_ops.monitoring.panel import (
    BAD,
    DOUBTFUL,
    GOOD,
    NONE,
    PLAIN,
    RATE,
    AnyPanel,
    board,
    document,
    filled,
    graph,
    limited,
    listing,
    number,
    query,
    steps,
    variable,
)

#: What the board shows of the chosen agents, by agent: seconds of silence, disks in no job, changes missed.
SEEN = 'max by (agent) (bootpoint_agent_last_seen_seconds{agent=~"$agent"})'
DISKS = 'max by (agent) (bootpoint_unprotected_disks{agent=~"$agent"})'
MISSED = 'max by (agent) (bootpoint_tracker_sample_miss_total{agent=~"$agent"})'


def agent_board() -> Dashboard:
    """Return the board of agents: who is silent, what trackers do."""
    made = board(
        "bootpoint-agent",
        "bootpoint: agent",
        "Sources: whether they answer, and how changes are found.",
        [variable("agent", "Agent", "bootpoint_agent_last_seen_seconds", several=True)],
    ).link(document("Change trackers", "trackers.md"))
    return filled(made, {"Now": _numbers(), "Sources": _sources()})


def _numbers() -> list[AnyPanel]:
    """Return the numbers that say at a glance whether sources are in order."""
    return [
        number("Agents", "Agents that were ever heard.", "short", f"count({SEEN})", steps(PLAIN)),
        number(
            "Longest silence",
            "Heartbeats come every 10 seconds.",
            "s",
            f"max({SEEN})",
            steps(GOOD, (60, DOUBTFUL), (300, BAD)),
        ),
        number(
            "Unprotected disks",
            "Disks that could be protected, and are in no job.",
            "short",
            f"sum({DISKS})",
            steps(GOOD, (1, DOUBTFUL)),
        ),
        number(
            "Changes missed",
            "Times that a sample found what a change tracker had not seen. Never normal.",
            "short",
            f"sum({MISSED})",
            NONE,
        ),
    ]


def _sources() -> list[AnyPanel]:
    """Return what happens on sources, and who they are."""
    return [
        limited(
            graph("Silence", "Time since each agent was heard.", "s", query(SEEN, "{{agent}}")), steps(GOOD, (300, BAD))
        ),
        graph(
            "Full scans",
            "Disks that were read in full although a tracker was to follow them, by reason, an hour.",
            "short",
            query("sum by (reason) (increase(bootpoint_tracker_fallback_total[1h]))", "{{reason}}"),
        ),
        graph(
            "Read and changed",
            "What sources read, and what of it had changed; far apart where disks are scanned.",
            "binBps",
            query(f"sum(rate(bootpoint_source_scanned_bytes_total[{RATE}]))", "read"),
            query(f"sum(rate(bootpoint_changed_bytes_total[{RATE}]))", "changed"),
        ),
        graph(
            "Waiting for credit",
            "Seconds in a second, of all streams.",
            "s",
            query(f"sum(rate(bootpoint_credit_wait_seconds_total[{RATE}]))", "waiting"),
        ),
        listing(
            "Agents",
            "Who is known, and what is to be done there.",
            (
                ("silence", "s", f"sort_desc({SEEN})"),
                ("unprotected disks", "short", DISKS),
                ("changes missed", "short", MISSED),
            ),
            (),
        ),
    ]
