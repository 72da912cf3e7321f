"""The driver for Hyper-V."""

from __future__ import annotations

from collections.abc import Callable

from bootpoint_worker.targets.host import HostAccess, Role
from bootpoint_worker.targets.hyperv.cluster import set_role
from bootpoint_worker.targets.hyperv.host import session_of
from bootpoint_worker.targets.hyperv.hypervisor import HyperV
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.snapshots import place
from bootpoint_worker.targets.snapshots.host import no_step
from bootpoint_worker.targets.snapshots.target import SnapshotTarget


class HyperVTarget(SnapshotTarget):
    """A Hyper-V host, or a node of a cluster; see `Target`.

    Args:
        access: How it is reached. Settings: see `way`.
        step: Called with a name before each step that a crash could separate from the one before it.
    """

    #: A VM has at most 50 checkpoints (Microsoft, "Plan for Hyper-V scalability"): these, and room for a person's.
    point_limit = 30
    #: Seconds; opening a disk over SMB takes little, and PowerShell's start some.
    slice_seconds = 300.0
    host: HyperV

    def __init__(self, *, access: HostAccess, step: Callable[[str], None] = no_step) -> None:
        super().__init__(HyperV(access, step))

    def set_role(self, replica: Replica, *, add: bool) -> Role:
        """See `Clustered.set_role`."""
        vm = place.must_read(self.host, replica).vm
        return set_role(session_of(vm), vm.id, add=add)
