"""Numbers as a row of bars, for a look at how they develop."""

from __future__ import annotations

from collections.abc import Sequence

#: From nothing to the greatest.
_BARS = "▁▂▃▄▅▆▇█"


def bars(values: Sequence[float]) -> str:
    """Draw a bar for each value, as high as it is beside the greatest: ``▁▃█``."""
    top = max(values, default=0)
    if top <= 0:
        return _BARS[0] * len(values)
    steps = len(_BARS) - 1
    return "".join(_BARS[min(steps, max(0, round(value / top * steps)))] for value in values)
