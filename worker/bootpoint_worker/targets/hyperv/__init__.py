"""Hyper-V hosts: WinRM for orders, the administrative shares for bytes, and nothing installed there.

`session` carries orders out, by our PowerShell module in ``module/``; `bootpoint_worker.smb` reads and writes files.

Start reading at `hypervisor`, and in `snapshots` for what is done with it.
"""

from __future__ import annotations

from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.hyperv.target import HyperVTarget


def connect(access: HostAccess) -> HyperVTarget:
    """Make the driver of a host; the session opens with the first verb."""
    return HyperVTarget(access=access)


__all__ = ["HyperVTarget", "connect"]
