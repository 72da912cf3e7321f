"""The board of one job."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from bootpoint_ops.monitoring.objective import AGE, LATE, USED
from bootpoint_ops.monitoring.panel import (
    BAD,
    DOUBTFUL,
    GOOD,
    LATE_WORDS,
    NONE,
    AnyPanel,
    board,
    document,
    filled,
    graph,
    number,
    query,
    states,
    steps,
    variable,
)

#: The job and the hosts that were chosen, as labels.
WHERE = '{job="$job",host=~"$host"}'


def job_board() -> Dashboard:
    """Return the board of one job: its points' ages against what it allows."""
    chosen = [
        variable("job", "Job", "bootpoint_points", several=False),
        variable("host", "Host", 'bootpoint_points{job="$job"}', several=True),
    ]
    made = board("bootpoint-job", "bootpoint: job", "How old a job's boot points are, and what it allows.", chosen)
    made = made.link(document("Jobs", "job.md"))
    return filled(made, {"Now": _numbers(), "Ages": _ages()})


def _numbers() -> list[AnyPanel]:
    """Return the ages as shares of what is allowed, and what there is of points."""
    used = steps(GOOD, (0.75, DOUBTFUL), (1, BAD))
    numbers: list[AnyPanel] = [
        number(
            f"{name}, of what is allowed",
            f"{text} 100 % is the objective.",
            "percentunit",
            f'max({USED}{{job="$job",host=~"$host",kind="{kind}"}})',
            used,
        )
        for kind, name, text in (
            ("bootable", "Bootable point", "Age of the newest point proven to boot."),
            ("point", "Newest point", "Age of the newest point."),
        )
    ]
    numbers += [
        number(
            "Points",
            "Committed boot points, of all hosts chosen.",
            "short",
            f"sum(max by (host) (bootpoint_points{WHERE}))",
            steps(BAD, (1, GOOD)),
        ),
        number(
            "Retention blocked",
            "Hosts on which no point may go: the next run will be refused.",
            "short",
            f"sum(max by (host) (bootpoint_retention_blocked{WHERE}))",
            NONE,
        ),
    ]
    return numbers


def _ages() -> list[AnyPanel]:
    """Return how the ages went, and what made them grow."""
    objective = 'max(bootpoint_objective_seconds{job="$job",kind="%s"})'
    ages: list[AnyPanel] = [
        graph(
            f"Age of the newest {name}",
            "A saw: it grows until a run commits. The line named objective is what is allowed.",
            "s",
            query(f'max by (host) ({AGE}{{job="$job",host=~"$host",kind="{kind}"}})', "{{host}}"),
            query(objective % kind, "objective"),
        )
        for kind, name in (("bootable", "bootable point"), ("point", "point"))
    ]
    ages += [
        states(
            "Late",
            "Red while the newest point is older than allowed.",
            query(f'max by (host, kind) ({LATE}{{job="$job",host=~"$host"}})', "{{host}} {{kind}}"),
            LATE_WORDS,
        ),
        graph(
            "Points on hosts",
            "They grow to the job's `points`, and then one goes for each that comes.",
            "short",
            query(f"max by (host) (bootpoint_points{WHERE})", "{{host}}"),
        ),
        graph(
            "Failed runs of all jobs",
            "By reason, an hour; docs/codes.md has the way out of each.",
            "short",
            query('sum by (reason) (increase(bootpoint_run_total{result!="succeeded"}[1h]))', "{{reason}}"),
        ),
    ]
    return ages
