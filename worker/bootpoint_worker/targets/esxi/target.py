"""The driver for ESXi and vCenter."""

from __future__ import annotations

from collections.abc import Callable

from bootpoint_worker.targets.esxi.hypervisor import Vsphere
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.snapshots.host import no_step
from bootpoint_worker.targets.snapshots.target import SnapshotTarget


class EsxiTarget(SnapshotTarget):
    """An ESXi host, or a vCenter; see `Target`.

    Args:
        access: How it is reached. Settings: ``vddk_plugin`` and ``vddk_libdir``, see `vddk`.
        step: Called with a name before each step that a crash could separate from the one before it.
    """

    #: A VM has at most 32 levels of snapshots (VMware Configuration Maximums): these, the one that is being made before
    #: the oldest goes, and one to spare.
    point_limit = 30
    #: Seconds; opening a disk through VDDK takes some.
    slice_seconds = 600.0
    host: Vsphere

    def __init__(self, *, access: HostAccess, step: Callable[[str], None] = no_step) -> None:
        super().__init__(Vsphere(access, step))
