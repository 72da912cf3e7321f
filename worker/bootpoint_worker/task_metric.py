"""dramatiq's own metrics, as its middleware counts them, in a registry of ours.

The middleware is made for dramatiq's command line, which starts processes that share files and a server of their own.
Here it counts in memory, and the process serves what it counted together with its other metrics.
"""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.middleware.prometheus import Prometheus

# Imported here, and so before the middleware wants it to count in files: that is settled by the first import.
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

#: What the middleware sets, for processes that it doesn't have here.
_VARIABLES = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")


class TaskMetrics(Prometheus):
    """dramatiq's middleware, with the names of our own actors and queues only: a message makes no new series.

    Args:
        registry: Where its metrics are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        before = {name: os.environ.get(name) for name in _VARIABLES}
        self.after_process_boot(None)  # type: ignore[no-untyped-call]
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for metric in vars(self).values():
            if isinstance(metric, Counter | Gauge | Histogram):
                registry.register(metric)

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Do nothing: there are no files to tidy up."""

    def after_nack(self, broker: dramatiq.Broker, message: Any) -> None:
        """Count a message that could not be handled, where its actor and its queue are known."""
        if message.actor_name in broker.actors and message.queue_name in broker.queues:
            super().after_nack(broker, message)  # type: ignore[no-untyped-call]
