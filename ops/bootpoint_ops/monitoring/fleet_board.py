"""The board to begin with: the fleet."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from bootpoint_ops.monitoring.copy import EMPTY, LOW
from bootpoint_ops.monitoring.objective import AGE, LATE, USED
from bootpoint_ops.monitoring.panel import (
    BAD,
    DOUBTFUL,
    GOOD,
    LATE_WORDS,
    NONE,
    PLAIN,
    RATE,
    THIRD,
    USED_UP,
    AnyPanel,
    bars,
    board,
    filled,
    graph,
    listing,
    now,
    number,
    query,
    states,
    steps,
)


def fleet_board() -> Dashboard:
    """Return the board to begin with: is every machine protected as promised, and does the installation work?"""
    worst = f'max by (job, host) ({USED}{{kind="bootable"}})'
    made = board("bootpoint-fleet", "bootpoint: fleet", "Is every machine protected as promised?", [])
    return filled(made, {"Protection": _protection(worst), "Work": _work(), "Hosts": _hosts()})


def _protection(worst: str) -> list[AnyPanel]:
    return [
        number(
            "Worst bootable point",
            "Age of the newest boot point proven to boot, as a share of what its job allows; of the "
            "replica that is worst off. Above 100 % a promise is broken.",
            "percentunit",
            f"max({worst})",
            USED_UP,
        ),
        number(
            "Late replicas",
            "Replicas whose newest point, or newest bootable point, is too old.",
            "short",
            f"count(max by (job, host) ({LATE}) == 1) or 0 * count({LATE})",
            NONE,
        ),
        number(
            "Replicas",
            "Replicas of jobs on hosts.",
            "short",
            "count(count by (job, host) (bootpoint_points))",
            steps(PLAIN),
        ),
        number(
            "Unprotected disks",
            "Disks of known machines that could be protected, and are in no job.",
            "short",
            "sum(max by (agent) (bootpoint_unprotected_disks))",
            steps(GOOD, (1, DOUBTFUL)),
        ),
        states(
            "Late replicas over time",
            "Red while the newest bootable point is older than allowed.",
            query(f'max by (job, host) ({LATE}{{kind="bootable"}})', "{{job}} on {{host}}"),
            LATE_WORDS,
        ),
        listing(
            "Replicas, worst first",
            "Each replica: how much of its objective is used up, and how old its points are.",
            (
                ("bootable used", "percentunit", f"sort_desc({worst})"),
                ("bootable age", "s", f'max by (job, host) ({AGE}{{kind="bootable"}})'),
                ("point age", "s", f'max by (job, host) ({AGE}{{kind="point"}})'),
                ("points", "short", "max by (job, host) (bootpoint_points)"),
                ("retention blocked", "short", "max by (job, host) (bootpoint_retention_blocked)"),
            ),
            (),
        ),
    ]


def _work() -> list[AnyPanel]:
    return [
        graph(
            "Runs that ended",
            "By result, an hour. Failed ones name their reason on the board of the job.",
            "short",
            query("sum by (result) (increase(bootpoint_run_total[1h]))", "{{result}}"),
            width=THIRD,
        ),
        graph(
            "Duration of runs",
            "Half of the runs, and nineteen in twenty, take no longer.",
            "s",
            query("histogram_quantile(0.5, sum by (le) (increase(bootpoint_run_duration_seconds_bucket[1h])))", "half"),
            query(
                "histogram_quantile(0.95, sum by (le) (increase(bootpoint_run_duration_seconds_bucket[1h])))",
                "19 of 20",
            ),
            width=THIRD,
        ),
        graph(
            "Waiting and open",
            "Runs in line, and boot points being written.",
            "short",
            query("max(bootpoint_runs_waiting)", "waiting"),
            query("sum(max by (host) (bootpoint_open_points))", "open"),
            width=THIRD,
        ),
        graph(
            "Bytes",
            "Read at sources, found changed, sent, written on targets.",
            "binBps",
            query(f"sum(rate(bootpoint_source_scanned_bytes_total[{RATE}]))", "read"),
            query(f"sum(rate(bootpoint_changed_bytes_total[{RATE}]))", "changed"),
            query(f"sum(rate(bootpoint_wire_bytes_total[{RATE}]))", "sent"),
            query(f"sum(rate(bootpoint_applied_bytes_total[{RATE}]))", "written"),
        ),
        graph(
            "Checks of points",
            "Boot checks by verdict and verifications by result, an hour.",
            "short",
            query("sum by (verdict) (increase(bootpoint_boot_check_total[1h]))", "{{verdict}}"),
            query("sum by (result) (increase(bootpoint_verify_total[1h]))", "{{result}}"),
        ),
    ]


def _hosts() -> list[AnyPanel]:
    free, size = (
        "max by (host, storage) (bootpoint_target_free_bytes)",
        "max by (host, storage) (bootpoint_target_size_bytes)",
    )
    return [
        bars(
            "Free on storages",
            "Share that is free. Below 10 % look at it; below 3 % runs fail.",
            "percentunit",
            now(f"{free} / {size}", "{{host}} {{storage}}"),
            steps(BAD, (EMPTY, DOUBTFUL), (LOW, GOOD)),
            top=1,
        ),
        graph("Free bytes", "On each storage.", "bytes", query(free, "{{host}} {{storage}}")),
        graph(
            "Open points by host",
            "Boot points being written; a host takes 8 at once unless told otherwise.",
            "short",
            query("max by (host) (bootpoint_open_points)", "{{host}}"),
        ),
        graph(
            "Merging points",
            "Half of the merges of an hour, and nineteen in twenty, take no longer.",
            "s",
            query(
                "histogram_quantile(0.5, sum by (le) (increase(bootpoint_consolidation_seconds_bucket[1h])))", "half"
            ),
            query(
                "histogram_quantile(0.95, sum by (le) (increase(bootpoint_consolidation_seconds_bucket[1h])))",
                "19 of 20",
            ),
        ),
    ]
