"""What a process counts in memory until it adds it to the sums of all: refusals, which may come in floods."""

from __future__ import annotations

import threading
from collections import defaultdict

from bootpoint_common.metric import REFUSED, Metric

#: How much came to a metric, by it and the values of its labels.
Amounts = dict[tuple[Metric, tuple[str, ...]], float]


class Tally:
    """Counts of one process that are not in the database yet; used by all of its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._amounts: Amounts = defaultdict(float)

    def refused(self, reason: str) -> None:
        """Count a message or a bundle that was refused.

        Args:
            reason: A `Reject`, a code, or `metric.REPLAYED`.
        """
        self.back({(REFUSED, REFUSED.admit((reason,))): 1.0})

    def take(self) -> Amounts:
        """Return what was counted since the last call; who can't write it down gives it `back`."""
        with self._lock:
            taken, self._amounts = self._amounts, defaultdict(float)
        return dict(taken)

    def back(self, amounts: Amounts) -> None:
        """Add amounts."""
        with self._lock:
            for key, amount in amounts.items():
                self._amounts[key] += amount
