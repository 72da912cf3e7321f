"""The tree of a machine's snapshots.

A snapshot freezes the files that the machine wrote to and puts empty ones above. Going back to one puts empty files
above its own and deletes those that the machine wrote to. Removing one merges the file above its own into it, when
just one stands there; all that referred to the merged file then refers to the lower one ("Snapshot Files" and "Delete
Snapshots", vSphere Virtual Machine Administration; "Confirming a virtual machine's snapshot delta disk layout",
Broadcom KB 304387).
"""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from tests.esxi import chain
from tests.esxi.merging import Chains, files
from tests.esxi.snapshot import Snapshot
from tests.esxi.wire import dump, load

if TYPE_CHECKING:
    from tests.esxi.machine import Machine

#: Most snapshots above each other ("Best practices for using VMware snapshots", VMware KB 1025279).
MOST_LEVELS = 32

#: The least that must be free for a snapshot's new files.
LEAST_FREE_BYTES = 1 << 20


class Snapshots:
    """The tree of one machine.

    Attributes:
        current: The snapshot that the machine stands on.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._all: list[Snapshot] = []
        self._last = 0
        self.current: Snapshot | None = None
        self._chains = Chains(machine, lambda: [machine.config, *(each.config for each in self._all)])

    @property
    def needs_consolidation(self) -> bool:
        """Whether files of removed snapshots are left that could be merged."""
        return bool(self._chains.redundant)

    @property
    def roots(self) -> list[Snapshot]:
        """Snapshots without parent."""
        return [each for each in self._all if each.above is None]

    def children(self, of: Snapshot) -> list[Snapshot]:
        """Return those that stand on one."""
        return [each for each in self._all if each.above is of]

    def branch(self, top: Snapshot) -> list[Snapshot]:
        """Return a snapshot and all above it, the highest first."""
        return [*(each for child in self.children(top) for each in self.branch(child)), top]

    def oldest_first(self) -> list[Snapshot]:
        """Return all."""
        return list(self._all)

    def depth(self) -> int:
        """Return how many snapshots the machine stands on."""
        count, each = 0, self.current
        while each is not None:
            count, each = count + 1, each.above
        return count

    def info(self) -> Any:
        """Return the tree as clients see it."""
        if not self._all:
            return None
        current = None if self.current is None else self.current.reference
        return vim.vm.SnapshotInfo(currentSnapshot=current, rootSnapshotList=[self._tree(each) for each in self.roots])

    def _tree(self, snapshot: Snapshot) -> Any:
        return vim.vm.SnapshotTree(
            snapshot=snapshot.reference, vm=self._machine.reference, name=snapshot.name,
            description=snapshot.description, id=snapshot.number, createTime=snapshot.created, state="poweredOff",
            quiesced=False, childSnapshotList=[self._tree(each) for each in self.children(snapshot)],
        )  # fmt: skip

    # --- changes

    def create(self, name: str, description: str, *, memory: bool) -> Snapshot:
        """Freeze the machine.

        Raises:
            vmodl.fault.NotSupported: Its memory is wanted, too.
            vim.fault.TooManySnapshotLevels: It stands on as many as may be.
            vim.fault.NoDiskSpace: There is no room for new files.
        """
        if memory:
            raise vmodl.fault.NotSupported(msg="The stand-in keeps no memory.")
        if self.depth() >= MOST_LEVELS:
            raise vim.fault.TooManySnapshotLevels(msg="Snapshot hierarchy is too deep.")
        world, machine = self._machine.world, self._machine
        world.datastore_of(machine.config.files.vmPathName).demand(LEAST_FREE_BYTES)
        frozen = copy.deepcopy(machine.config)
        self._last += 1
        moid = world.names.snapshot(machine.moid, self._last)
        made = Snapshot(
            machine, moid, number=self._last, name=name, description=description, above=self.current, config=frozen,
            created=datetime.now(UTC),
        )  # fmt: skip
        for path in files(world, machine.config):
            self._chains.point(machine.config, path, chain.push(path).path)
        self._all.append(made)
        self.current = made
        return made

    def revert(self, snapshot: Snapshot) -> None:
        """Put the machine above a snapshot, in new files."""
        machine = self._machine
        # The new files are made before the old ones go, so that a leaf never keeps its name.
        old = files(machine.world, machine.config)
        config = copy.deepcopy(snapshot.config)
        config.name = machine.config.name
        for path in snapshot.frozen:
            self._chains.point(config, path, chain.push(path).path)
        machine.config = config
        self.current = snapshot
        for path in old:
            self._chains.drop(path)

    def remove(self, snapshot: Snapshot, *, consolidate: bool) -> None:
        """Take a snapshot out of the tree, then merge its files.

        Raises:
            vim.fault.FileLocked: A file is open; the snapshot is gone all the same, and its files are to be
                consolidated.
            vim.fault.NoDiskSpace: Likewise.
        """
        for child in self.children(snapshot):
            child.above = snapshot.above
        if self.current is snapshot:
            self.current = snapshot.above
        self._all.remove(snapshot)
        snapshot.forget()
        for path in snapshot.frozen if consolidate else []:
            self._chains.settle(path)

    def consolidate(self) -> None:
        """Merge all files that no snapshot needs.

        Raises:
            vim.fault.FileLocked: A file is open.
            vim.fault.NoDiskSpace: There is no room.
        """
        while redundant := self._chains.redundant:
            self._chains.settle(redundant[0])

    def forget(self) -> None:
        """Let all go with their machine."""
        for snapshot in self._all:
            snapshot.forget()

    # --- the .vmsd

    def saved(self) -> str:
        """Return what the machine's .vmsd keeps."""
        numbers = {None: None} | {each: each.number for each in self._all}
        return json.dumps(
            {
                "last": self._last, "current": numbers[self.current],
                "snapshots": [
                    {"number": each.number, "name": each.name, "description": each.description,
                     "above": numbers[each.above], "created": each.created.isoformat(), "config": dump(each.config)}
                    for each in self._all
                ],
            }
        )  # fmt: skip

    def restore(self, text: str) -> None:
        """Read what `saved` gave."""
        kept = json.loads(text)
        known: dict[int | None, Snapshot | None] = {None: None}
        for each in kept["snapshots"]:
            moid = self._machine.world.names.snapshot(self._machine.moid, each["number"])
            known[each["number"]] = made = Snapshot(
                self._machine, moid, number=each["number"], name=each["name"], description=each["description"],
                above=known[each["above"]], config=load(each["config"]),
                created=datetime.fromisoformat(each["created"]),
            )  # fmt: skip
            self._all.append(made)
        self.current = known[kept["current"]]
        self._last = kept["last"]
