"""Every metric of bootpoint: its name, what it means, and which labels it may have.

What happens is counted in rows of the database (`store.count`), in the transaction that makes it true; how things stand
is read from the rows themselves (`store.gauge`). So one exporter serves all of it, whatever process did the work, and a
restart or a kill neither loses nor repeats anything. docs/metrics.md is made of this module.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from bootpoint_common.cipher import Reject
from bootpoint_common.errors import Code

#: Prefix of every metric of ours.
PREFIX = "bootpoint"

#: What a label says in place of a value that is none of its own: what others may choose makes no new series.
OTHER = "other"

#: The reason of a message that was delivered twice, or comes from an incarnation that is gone.
REPLAYED = "replayed"

#: Most storages of a host that are shown, first by name: what a host says of itself makes no more series than this.
MOST_STORAGES = 64

#: Upper bounds in seconds: from an increment of seconds to a full copy of days.
_RUN_SECONDS = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 43200.0, 86400.0, 172800.0)

#: Upper bounds in seconds: merging a point into the one below it.
_CONSOLIDATION_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)


class Kind(enum.StrEnum):
    """What Prometheus makes of a metric."""

    GAUGE = "gauge"  #: goes up and down
    COUNTER = "counter"  #: only grows
    HISTOGRAM = "histogram"  #: counts by size


class Unit(enum.StrEnum):
    """What a metric's number is."""

    NUMBER = "number"
    BYTES = "bytes"
    SECONDS = "seconds"
    FLAG = "0 or 1"


@dataclass(frozen=True, slots=True)
class Label:
    """A label: its name, whose values it has, and those values where they are a closed list."""

    name: str
    text: str
    values: frozenset[str] | None = None

    def admit(self, value: str) -> str:
        """Return a value that may be shown: itself, or `OTHER` where it isn't in the list."""
        return value if self.values is None or value in self.values else OTHER


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        name: Its name without the prefix; a counter's ends with ``_total``.
        kind: What Prometheus makes of it.
        unit: What its number is.
        text: What it means, as a sentence.
        labels: Its labels, in the order in which their values are given.
        bounds: Upper bounds of a histogram, ascending.
    """

    name: str
    kind: Kind
    unit: Unit
    text: str
    labels: tuple[Label, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        """The name that Prometheus knows."""
        return f"{PREFIX}_{self.name}"

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of its labels."""
        return tuple(label.name for label in self.labels)

    def admit(self, values: tuple[str, ...]) -> tuple[str, ...]:
        """Return the values of its labels as they may be shown."""
        return tuple(label.admit(value) for label, value in zip(self.labels, values, strict=True))


def _values(*of: str) -> frozenset[str]:
    return frozenset(of)


_JOB = Label("job", "jobs")
_HOST = Label("host", "hosts")
_AGENT = Label("agent", "enrolled agents")
_POOL = Label("pool", "pools of hosts, agents and workers")
_STORAGE = Label("storage", f"storages of the host, {MOST_STORAGES} at most")
_OBJECTIVE = Label("kind", "`point`, `bootable`", _values("point", "bootable"))
_CHANNEL = Label("channel", "`mail`, `webhook`", _values("mail", "webhook"))
_RESULT = Label(
    "result",
    "`succeeded`, `failed`, `cancelled`, `skipped`",
    _values("succeeded", "failed", "cancelled", "skipped"),
)
_CODE = Label("reason", "codes ([codes.md](codes.md)), or empty", frozenset({"", *map(str, Code)}))
_VERDICT = Label("verdict", "`boots`, `does_not_boot`, `unknown`", _values("boots", "does_not_boot", "unknown"))
_VERIFIED = Label("result", "`verified`, `damaged`, `failed`", _values("verified", "damaged", "failed"))
_FALLBACKS = ("first", "base_lost", "boot_id", "tracker_lost", "disk_identity", "overflow", "sample_miss", "grown")
_FALLBACK = Label("reason", ", ".join(f"`{reason}`" for reason in (*_FALLBACKS, OTHER)), frozenset(_FALLBACKS))
_REFUSAL = Label(
    "reason",
    ", ".join(f"`{reason}`" for reason in (*Reject, REPLAYED)) + ", codes",
    frozenset({REPLAYED, *map(str, Reject), *map(str, Code)}),
)


def _gauge(name: str, unit: Unit, text: str, *labels: Label) -> Metric:
    return Metric(name=name, kind=Kind.GAUGE, unit=unit, text=text, labels=labels)


def _counter(name: str, unit: Unit, text: str, *labels: Label) -> Metric:
    return Metric(name=name, kind=Kind.COUNTER, unit=unit, text=text, labels=labels)


def _histogram(name: str, text: str, bounds: tuple[float, ...]) -> Metric:
    return Metric(name=name, kind=Kind.HISTOGRAM, unit=Unit.SECONDS, text=text, bounds=bounds)


#: How things stand: read from the rows by `store.gauge`.
GAUGES = (
    _gauge(
        "newest_point_age_seconds", Unit.SECONDS,
        "Age of the newest committed boot point of a replica; absent as long as there is none.", _JOB, _HOST,
    ),
    _gauge(
        "newest_bootable_point_age_seconds", Unit.SECONDS,
        "Age of the newest boot point of a replica that was proven to boot; absent as long as there is none.",
        _JOB, _HOST,
    ),
    _gauge(
        "objective_seconds", Unit.SECONDS,
        "Age that the job's objective allows to its newest point, and to its newest bootable point; absent where it has"
        " none, and while the job is disabled or paused.", _JOB, _OBJECTIVE,
    ),
    _gauge("runs_waiting", Unit.NUMBER, "Runs in the line."),
    _gauge("open_points", Unit.NUMBER, "Boot points that are being written to a host.", _HOST),
    _gauge("points", Unit.NUMBER, "Committed boot points of a replica.", _JOB, _HOST),
    _gauge("outbox_pending", Unit.NUMBER, "Messages that are written down and not yet handed to the broker."),
    _gauge(
        "outbox_lag_seconds", Unit.SECONDS,
        "Age of the oldest message that is due and not yet handed to the broker; 0 where there is none.",
    ),
    _gauge("notices_pending", Unit.NUMBER, "Notices to people that are due and not yet sent.", _CHANNEL),
    _gauge(
        "agent_last_seen_seconds", Unit.SECONDS,
        "Time since an agent was heard, which says something every 10 seconds; absent until it has joined, and once it"
        " is revoked.", _AGENT,
    ),
    _gauge(
        "worker_up", Unit.NUMBER,
        "Worker processes that serve a pool and were alive within 15 seconds; 0 for a pool that a host or an agent"
        " needs and nobody serves.", _POOL,
    ),
    _gauge(
        "target_free_bytes", Unit.BYTES, "Free space of a host's storage, as the host last said.", _HOST, _STORAGE
    ),
    _gauge("target_size_bytes", Unit.BYTES, "Size of a host's storage, as the host last said.", _HOST, _STORAGE),
    _gauge(
        "retention_blocked", Unit.FLAG, "1 where the next run of a replica will be refused because no point may go.",
        _JOB, _HOST,
    ),
    _gauge(
        "backup_age_seconds", Unit.SECONDS,
        "Age of the newest backup of the database. Absent in this version: no command makes one, so nothing is known.",
    ),
    _gauge("unprotected_disks", Unit.NUMBER, "Disks of a machine that can be protected and are in no job.", _AGENT),
)  # fmt: skip

RUNS = _counter("run_total", Unit.NUMBER, "Runs that ended, and starts that were skipped.", _RESULT, _CODE)
RUN_SECONDS = _histogram("run_duration_seconds", "From the start of a run to its end.", _RUN_SECONDS)
SCANNED = _counter(
    "source_scanned_bytes_total", Unit.BYTES, "Bytes that agents read of their disks, counted at a stream's end."
)
CHANGED = _counter("changed_bytes_total", Unit.BYTES, "Bytes that agents found changed, counted at a stream's end.")
WIRE = _counter("wire_bytes_total", Unit.BYTES, "Encrypted bytes taken from streams and flushed on targets.")
APPLIED = _counter("applied_bytes_total", Unit.BYTES, "Bytes of disks written to targets and flushed.")
CREDIT_WAIT = _counter(
    "credit_wait_seconds_total",
    Unit.SECONDS,
    "Time that streams stood still because the target was slower than the source, as agents say every 10 seconds.",
)
CONSOLIDATION = _histogram(
    "consolidation_seconds", "Merging of a boot point into the next one, on the host.", _CONSOLIDATION_SECONDS
)
BOOT_CHECKS = _counter("boot_check_total", Unit.NUMBER, "Boot checks that ended.", _VERDICT)
VERIFICATIONS = _counter("verify_total", Unit.NUMBER, "Verifications that ended.", _VERIFIED)
FALLBACKS = _counter(
    "tracker_fallback_total",
    Unit.NUMBER,
    "Disks of a run that were read whole, or whose block map was made anew, in place of what the change tracker says.",
    _FALLBACK,
)
REFUSED = _counter(
    "rejected_messages_total",
    Unit.NUMBER,
    "Messages and bundles that were refused. Counted in each process and added up every 5 seconds, so that a flood"
    " costs no transactions: a process that is killed takes its last seconds with it.",
    _REFUSAL,
)
SAMPLE_MISSES = _counter(
    "tracker_sample_miss_total",
    Unit.NUMBER,
    "Disks of a run in which a change was found that the change tracker had missed.",
    _AGENT,
)

#: What happened: added up by `store.count`.
COUNTS = (
    RUNS, RUN_SECONDS, SCANNED, CHANGED, WIRE, APPLIED, CREDIT_WAIT, CONSOLIDATION, BOOT_CHECKS, VERIFICATIONS,
    FALLBACKS, REFUSED, SAMPLE_MISSES,
)  # fmt: skip
