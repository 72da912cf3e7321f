"""How much memory something takes at its peak."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bootpoint_common.units import KiB


@contextmanager
def peak_below(limit_bytes: int) -> Iterator[None]:
    """Check that this process grows by less than ``limit_bytes`` within the context."""
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): sets the peak back to what is resident now
    yield
    grown = _status("VmHWM") - before
    assert grown < limit_bytes, f"grew by {grown} bytes"


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * KiB
