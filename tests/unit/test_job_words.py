"""Settings of a job as people read them."""

from __future__ import annotations

import pytest

from bootpoint_common.job import read_toml, words

JOB = """
name = "erp"
time_zone = "Europe/Rome"
[source]
agent = "erp"
skip = ["swap"]
[[target]]
host = "kvm1"
{more}
"""


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ('weekly = ["mon", "tue", "wed", "thu", "fri"]', "Monday to Friday, at 00:00"),
        ('weekly = ["mon", "tue"]', "Monday and Tuesday, at 00:00"),
        ('weekly = ["mon", "wed", "sun"]', "Monday, Wednesday and Sunday, at 00:00"),
        (
            'weekly = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]\nevery = "30m"',
            "every day, every 30 min",
        ),
        (
            'weekly = ["sat", "sun"]\nwindow = ["07:00", "20:00"]\nevery = "2h"',
            "Saturday and Sunday, every 2 h from 07:00 to 20:00",
        ),
        (
            'monthly = [1, 15, "last"]\nwindow = ["22:00", "02:00"]\nevery = "1h"',
            "on days 1, 15 and the last of each month, every 1 h from 22:00 to 02:00 of the next day",
        ),
        ('monthly = ["last"]\nwindow = ["03:00", "04:00"]', "on the last day of each month, at 03:00"),
        ("monthly = [31]", "on day 31 of each month, at 00:00"),
        ("once = 2026-12-01T22:00:00", "once, at 2026-12-01 22:00"),
        (
            'weekly = ["mon"]\neffective = [2026-12-01T00:00:00, 2027-12-01T00:00:00]',
            "Monday, at 00:00, from 2026-12-01 00:00 up to 2027-12-01 00:00",
        ),
    ],
)
def test_a_schedule_reads_as_a_sentence(rule: str, text: str) -> None:
    spec = read_toml(JOB.format(more=f"[[schedule]]\n{rule}"))
    assert words.when(spec) == [f"{text} (Europe/Rome)"]


def test_what_starts_a_job_is_named() -> None:
    assert words.when(read_toml(JOB.format(more=""))) == ["by hand only"]
    spec = read_toml(JOB.format(more='[run]\non_restart = true\non_shutdown = { enabled = true, deadline = "90s" }'))
    assert words.when(spec) == ["when the machine shuts down, within 1 min 30 s", "when the machine has started"]


def test_options_are_named_with_their_values() -> None:
    more = """
    objective = { point = "60h" }
    [scripts]
    before_snapshot = { run = ["/bin/pause", "now"], user = "db" }
    [limits]
    nice = 5
    read_bytes_per_second = 1048576
    network_kb_per_second = [ { from = "08:00", to = "18:00", value = 20480 }, { value = 0 } ]
    [check]
    boot = "never"
    [notify]
    mail = { to = ["ops@example.org"], on = "both" }
    """
    top, _, rest = more.partition("[scripts]")
    text = top + JOB.format(more=f"[scripts]{rest}")
    found: dict[str, list[str]] = {}
    for name, value in words.options(read_toml(text)):
        found.setdefault(name, []).append(value)
    assert found == {
        "objective": ["newest point at most 2 d 12 h old"],
        "retry": ["3 times, 5 min apart, after a failure that may pass by itself"],
        "catch up": ["a missed run, up to 1 d late"],
        "level": ["at least fs"],
        "left out": ["swap"],
        "script before_snapshot": ["/bin/pause now as db, its failure stops the run"],
        "verify": ["every 7 d"],
        "boot check": ["never"],
        "priority": ["nice 5"],
        "reading": ["1.0 MiB a second"],
        "network": ["20.0 MiB a second from 08:00 to 18:00", "no limit"],
        "mail": ["to ops@example.org on both"],
    }
