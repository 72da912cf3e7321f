"""One snapshot of a machine."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from tests.esxi.managed import Managed, task, writing
from tests.esxi.merging import files

if TYPE_CHECKING:
    from tests.esxi.machine import Machine


class Snapshot(Managed):
    """One snapshot.

    Attributes:
        machine: Whose.
        number: Its number within the machine.
        name: What the user sees.
        description: Likewise.
        above: The snapshot that it stands on.
        config: The machine as it was, its disks' files those that are frozen.
        created: When.
    """

    kind = vim.vm.Snapshot

    def __init__(
        self, machine: Machine, moid: str, *, number: int, name: str, description: str, above: Snapshot | None,
        config: Any, created: datetime,
    ) -> None:  # fmt: skip
        super().__init__(machine.world, moid)
        self.machine = machine
        self.number = number
        self.name = name
        self.description = description
        self.above = above
        self.config = config
        self.created = created

    @property
    def vm(self) -> Any:
        """Whose it is."""
        return self.machine.reference

    @property
    def child_snapshot(self) -> list[Any]:
        """Those that stand on it."""
        return [each.reference for each in self.machine.snapshots.children(self)]

    @property
    def frozen(self) -> list[Path]:
        """The frozen files of its disks."""
        return files(self.world, self.config)

    @task
    def revert_to_snapshot(self, host: Any = None, suppress_power_on: bool | None = None) -> None:
        """Let the machine go back to it."""
        self.machine.revert(self)

    @task
    def remove_snapshot(self, remove_children: bool, consolidate: bool | None = None) -> None:
        """Remove it, or it and all above it; the machine itself stays as it is."""
        doomed = self.machine.snapshots.branch(self) if remove_children else [self]
        try:
            for snapshot in doomed:
                self.machine.snapshots.remove(snapshot, consolidate=consolidate is not False)
        finally:
            self.machine.save()

    @writing
    def rename_snapshot(self, name: str | None = None, description: str | None = None) -> None:
        """Give it another name or description."""
        self.name = name or self.name
        self.description = self.description if description is None else description
        self.machine.save()
