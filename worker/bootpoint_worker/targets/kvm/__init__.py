"""KVM hosts: libvirt and qcow2, on this machine or over SSH.

Start reading at `target`; `journal` explains how a replica lies on the host.
"""

from __future__ import annotations

from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.kvm.target import KvmTarget


def connect(access: HostAccess) -> KvmTarget:
    """Make the driver of a host; the session opens with the first verb."""
    return KvmTarget(access=access)


__all__ = ["KvmTarget", "connect"]
