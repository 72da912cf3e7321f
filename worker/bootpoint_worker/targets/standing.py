"""What stands on a boot point on its host: VMs whose disks are scratch layers over it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Standing:
    """A VM of a replica, and the point beneath it.

    Attributes:
        point_id: The point.
        vm_name: The VM: the standby, or a test's.
        test_id: Which test; None for the standby.
        held: The standby was reverted to this point, and stays there when a newer one is committed.
    """

    point_id: UUID
    vm_name: str
    test_id: str | None = None
    held: bool = False
