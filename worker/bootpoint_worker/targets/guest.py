"""What a driver has found out about the machine within a boot point, and what starting it on this host takes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

#: How a scratch layer is made to boot: a few files edited in a sandbox, virt-v2v-in-place, only by hardware that the
#: source knows, or not at all.
ROUTES = ("light", "v2v", "hardware", "none")


@dataclass(frozen=True, slots=True)
class GuestSystem:
    """An operating system.

    Attributes:
        family: ``linux``, ``windows`` or ``unknown``.
        name: For people: ``Debian GNU/Linux``; empty where that isn't known.
        version: Likewise: ``12``.
    """

    family: str = "unknown"
    name: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """What can't be done for a machine, and whether it boots all the same.

    Attributes:
        text: A sentence.
        bootable: False when the machine won't boot because of it.
    """

    text: str
    bootable: bool = True


@dataclass(frozen=True, slots=True)
class Profile:
    """What `examine` found.

    Attributes:
        point_id: The point that was looked into.
        made_at: When; aware, UTC.
        system: The operating system.
        firmware: ``bios`` or ``uefi``, by the partition table; None where that can't be told.
        boot_disk: Slot of the disk with the boot loader; None when no disk has one.
        route: One of `ROUTES`: what ``auto`` does at a start.
        bus: Disk bus that the machine boots from as it is, without conversion; None: the job's.
        nic_model: Network card that it knows as it is; None: the job's.
        loader: Boot loader on its EFI partition that a firmware without memory doesn't find by itself, such as
            ``EFI/debian/shimx64.efi``; None where it finds it.
        actions: What a start does to the scratch layer, each a sentence.
        problems: What it can't do.
    """

    point_id: UUID
    made_at: datetime
    system: GuestSystem = GuestSystem()
    firmware: str | None = None
    boot_disk: str | None = None
    route: str = "none"
    bus: str | None = None
    nic_model: str | None = None
    loader: str | None = None
    actions: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def bootable(self) -> bool:
        """False when it is known that the machine won't boot."""
        return all(problem.bootable for problem in self.problems)
