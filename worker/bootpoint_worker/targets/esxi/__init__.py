"""ESXi hosts and vCenters: the vSphere API, and nbdkit's vddk plugin for bytes.

Start reading at `target`; `journal` explains how a replica lies on the host.
"""

from __future__ import annotations

from bootpoint_worker.targets.esxi.target import EsxiTarget
from bootpoint_worker.targets.host import HostAccess


def connect(access: HostAccess) -> EsxiTarget:
    """Make the driver of a host; the session opens with the first verb."""
    return EsxiTarget(access=access)


__all__ = ["EsxiTarget", "connect"]
