"""The rules on the one number that matters: how old the newest boot point is, against what its job allows.

The objective is one of service in the sense of the SRE workbook, chapter 5: of a replica's time at most 1 % may be late
(`BUDGET`). An alert looks at how fast that is spent, in a long window, so that a moment wakes nobody, and in a short
one, so that it ends soon after the cause. A replica without a point is as old as it has been known.
"""

from __future__ import annotations

from bootpoint_ops.monitoring.rule import DAY, HOUR, MINUTE, Alert, Group, Pace, Record, Severity

#: Share of the time in which a replica may be late: 0.99 is what is promised, an hour and a half in a week.
BUDGET = 0.01

#: Long window, short window (seconds), and how many times too fast the budget is spent: 2 % of a month's budget in an
#: hour, 5 % in six hours (table 5-8 of the workbook).
FAST = ((HOUR, 5 * MINUTE, 14.4), (6 * HOUR, 30 * MINUTE, 6.0))

#: The same for what wakes nobody: 10 % of a month's budget in three days.
SLOW = ((3 * DAY, 6 * HOUR, 1.0),)

#: How long Prometheus may have been away without forgetting since when it knows a replica, in seconds.
_MEMORY = HOUR

#: Names of what is recorded.
FIRST_SEEN, AGE = "bootpoint:replica_first_seen:timestamp_seconds", "bootpoint:point_age:seconds"
USED, LATE = "bootpoint:objective_used:ratio", "bootpoint:objective_late:bool"


def objective_group(pace: Pace) -> Group:
    """Return the rules, for a pace."""
    return Group(
        "bootpoint-objective",
        (
            *_records(pace),
            _broken("Bootable", "bootable", "that was proven to boot ", pace),
            _broken("Point", "point", "", pace),
            _slipping(pace),
            _no_success(pace),
        ),
    )


def _kinds(point: str, bootable: str) -> str:
    """Return two series as one, told apart by the label that `bootpoint_objective_seconds` has."""
    return (
        f'  label_replace({point}, "kind", "point", "", "")\n  or\n'
        f'  label_replace({bootable}, "kind", "bootable", "", "")'
    )


def _records(pace: Pace) -> tuple[Record, ...]:
    known = _kinds(f"time() - {FIRST_SEEN}", f"time() - {FIRST_SEEN}")
    ages = _kinds("bootpoint_newest_point_age_seconds", "bootpoint_newest_bootable_point_age_seconds")
    return (
        Record(
            name=FIRST_SEEN,
            expression=f"min_over_time({FIRST_SEEN}[{pace.window(_MEMORY)}]) and on (job, host) bootpoint_points\n"
            "or on (job, host)\nmax by (job, host) (timestamp(bootpoint_points))\n",
        ),
        Record(
            name=AGE,
            expression=f"max by (job, host, kind) (\n{ages}\n)\nor on (job, host, kind)\n(\n{known}\n)\n",
        ),
        Record(
            name=USED,
            expression=f"{AGE} / on (job, kind) group_left () max by (job, kind) (bootpoint_objective_seconds)",
        ),
        Record(name=LATE, expression=f"{USED} > bool 1"),
    )


def _burn(selector: str, pairs: tuple[tuple[float, float, float], ...], pace: Pace) -> tuple[str, str]:
    """Return what is measured, and the condition on it and on the other windows."""
    series = f"{LATE}{selector}"
    said: list[tuple[str, str]] = []
    for long, short, times in pairs:
        limit = f"> {BUDGET * times:g}"
        first, second = (f"avg_over_time({series}[{pace.window(window)}])" for window in (long, short))
        said.append((first, f"{limit} and {second} {limit}"))
    (measured, condition), *more = said
    return measured, "\n".join([condition, *(f"or {first} {rest}" for first, rest in more)])


def _age_now(kind: str) -> str:
    """Return a template of the age at this moment, in words."""
    series = f"""{AGE}{{job='%s',host='%s',kind='{kind}'}}"""
    return (
        f'{{{{ with printf "{series}" $labels.job $labels.host | query }}}}'
        "{{ . | first | value | humanizeDuration }}{{ end }}"
    )


def _broken(name: str, kind: str, what: str, pace: Pace) -> Alert:
    measured, condition = _burn(f'{{kind="{kind}"}}', FAST, pace)
    return Alert(
        name=f"Bootpoint{name}ObjectiveBroken",
        severity=Severity.CRITICAL,
        measured=measured,
        condition=condition,
        summary=f"Job {{{{ $labels.job }}}}: its newest boot point {what}on {{{{ $labels.host }}}} is too old",
        description=(
            f"The newest boot point {what}of job {{{{ $labels.job }}}} on host {{{{ $labels.host }}}} is "
            f"{_age_now(kind)} old, and that is more than its objective allows. If the machine is lost now, all "
            "since then is lost with it. `bootpoint job show {{ $labels.job }}` says why there is no newer "
            "one."
        ),
    )


def _slipping(pace: Pace) -> Alert:
    measured, condition = _burn("", SLOW, pace)
    return Alert(
        name="BootpointObjectiveSlipping",
        severity=Severity.WARNING,
        measured=measured,
        condition=condition,
        summary="Job {{ $labels.job }} is late on {{ $labels.host }} again and again",
        description=(
            "In {{ $value | humanizePercentage }} of the last days the newest boot point ({{ $labels.kind "
            "}}) of job {{ $labels.job }} on host {{ $labels.host }} was older than its objective "
            "allows. Its runs take too long, or fail too often, for what is promised."
        ),
    )


def _no_success(pace: Pace) -> Alert:
    window = pace.window(6 * HOUR)
    return Alert(
        name="BootpointNoSuccess",
        severity=Severity.CRITICAL,
        measured=f'sum(increase(bootpoint_run_total{{result="succeeded"}}[{window}]))',
        condition=f'== 0 and sum(increase(bootpoint_run_total{{result="failed"}}[{window}])) > 0',
        summary="Runs fail, and none has succeeded for hours",
        description=(
            "No run of any job has succeeded in the last 6 hours, and some have failed: what they have in common "
            "is broken, such as the broker, the database or a host. `bootpoint run list --failed` says what they "
            "failed of."
        ),
    )
