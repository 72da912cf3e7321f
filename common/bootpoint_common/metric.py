"""The metrics that a process counts itself, for Prometheus.

Only workers and operators' processes import this: it needs prometheus-client, which the agent's install doesn't
hold. An agent counts into its messages (the seal carries what was scanned, changed and sent), and the worker
that takes them counts here. What follows from the database (ages, points, outbox) is the exporter's, under the
names of `STATE_GAUGES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bootpoint_common.config import Listen
from bootpoint_common.errors import Code, error

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

#: Prefix of every metric of ours.
PREFIX = "bootpoint"

#: Upper bounds in seconds: from an increment of seconds to a full copy of days.
RUN_SECONDS = (5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400, 172800)

#: Upper bounds in seconds: merging a point into the one below it.
_CONSOLIDATION_SECONDS = (1, 5, 15, 60, 300, 900, 3600, 14400)

#: Gauges that the exporter reads from the database: name without prefix, help, labels.
STATE_GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "newest_point_age_seconds": ("Age of the newest committed boot point.", ("job", "host")),
    "newest_bootable_point_age_seconds": ("Age of the newest boot point proven bootable.", ("job", "host")),
    "objective_seconds": ("Allowed age of the newest point.", ("job", "kind")),
    "runs_waiting": ("Runs that wait for a place.", ()),
    "open_points": ("Boot points being written.", ("host",)),
    "points": ("Committed boot points.", ("job", "host")),
    "outbox_pending": ("Messages not yet relayed.", ()),
    "outbox_lag_seconds": ("Age of the oldest message that is due and not yet relayed.", ()),
    "notices_pending": ("Notices to people that are not yet sent.", ("channel",)),
    "agent_last_seen_seconds": ("Time since the agent was heard.", ("agent",)),
    "target_free_bytes": ("Free bytes of a storage.", ("host", "storage")),
    "target_size_bytes": ("Size of a storage.", ("host", "storage")),
    "retention_blocked": ("1 where no point may go at the next run.", ("job", "host")),
    "backup_age_seconds": ("Age of the newest backup of the control plane.", ()),
    "unprotected_disks": ("Eligible disks in no job.", ("agent",)),
}

#: Counts that the exporter reads from the database, which keeps every run: name without prefix, help, labels.
STATE_COUNTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "run_total": ("Runs that ended.", ("result", "reason")),
    "run_duration_seconds": ("From the start of a run to its end.", ()),
}


class Metrics:
    """Counters of one process; make one for each registry.

    Args:
        registry: Where they are registered; a registry of its own for each process and test.

    Raises:
        FatalError: `host_unsupported`, prometheus-client isn't installed.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        try:
            from prometheus_client import Counter, Gauge, Histogram
        except ImportError as exc:
            raise _missing() from exc

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace=PREFIX, registry=registry)

        def histogram(name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, namespace=PREFIX, registry=registry, buckets=bounds)

        self.registry = registry
        self.scanned_bytes = counter("source_scanned_bytes_total", "Bytes read from source disks.")
        self.changed_bytes = counter("changed_bytes_total", "Bytes found changed.")
        self.wire_bytes = counter("wire_bytes_total", "Encrypted bytes taken from streams.")
        self.applied_bytes = counter("applied_bytes_total", "Bytes written and flushed on targets.")
        self.credit_wait = counter("credit_wait_seconds_total", "Time that agents waited for credit.")
        self.consolidation = histogram("consolidation_seconds", "Merging of points.", _CONSOLIDATION_SECONDS)
        self.boot_checks = counter("boot_check_total", "Boot checks that ended.", "verdict")
        self.verifications = counter("verify_total", "Verifications that ended.", "result")
        self.fallbacks = counter("tracker_fallback_total", "Full scans in place of a change tracker.", "reason")
        self.rejected = counter("rejected_messages_total", "Messages and bundles that were refused.", "reason")
        self.sample_misses = counter("tracker_sample_miss_total", "Changes that a tracker had missed.", "agent")
        self.worker_up = Gauge(
            "worker_up", "1 while a worker of the pool runs.", ("pool",), namespace=PREFIX, registry=registry
        )


def serve(registry: CollectorRegistry, listen: Listen) -> tuple[int, Callable[[], None]]:
    """Serve a registry over HTTP from a thread.

    Returns:
        The port (the one chosen where ``listen`` says 0), and what ends the server.

    Raises:
        FatalError: `host_unsupported`, prometheus-client isn't installed.
        OSError: The address is taken or not ours.
    """
    try:
        from prometheus_client import start_http_server
    except ImportError as exc:
        raise _missing() from exc
    server, thread = start_http_server(listen.port, listen.address, registry)

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return server.server_port, close


def _missing() -> Exception:
    return error(
        Code.HOST_UNSUPPORTED,
        "metrics need the Python package prometheus-client",
        hint="install bootpoint with its extra: pip install 'bootpoint[worker]'",
    )
