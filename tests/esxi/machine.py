"""A virtual machine: how it is made, changed, kept in its files, and thrown away."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from tests.esxi import hardware, shown
from tests.esxi.config import apply
from tests.esxi.guest import Guest
from tests.esxi.inventory import Entity
from tests.esxi.managed import Managed, operation, task, writing
from tests.esxi.tree import Snapshots
from tests.esxi.wire import dump

if TYPE_CHECKING:
    from tests.esxi.world import World

#: The message of a state that forbids an operation, as hosts send it.
WRONG_STATE = "The attempted operation cannot be performed in the current state ({})."

#: What a machine asks that was registered somewhere else before ("uuid.action", Broadcom KB 320246).
MOVED = "msg.uuid.altered: This virtual machine might have been moved or copied."

#: Setting that answers `MOVED` beforehand.
ANSWER = "uuid.action"


class Machine(Entity):
    """One machine.

    Attributes:
        directory: Its folder.
        config: As clients see it.
        snapshots: Its tree.
        guest: What runs it.
        busy: The task that works on it.
    """

    kind = vim.VirtualMachine

    def __init__(self, world: World, config: Any, directory: Path, pool: Managed) -> None:
        super().__init__(world, world.names.machine(), config.name, world.machines)
        self.config = config
        self.directory = directory
        self.pool = pool
        self.snapshots = Snapshots(self)
        self.guest = Guest(self)
        self.busy: Managed | None = None
        self.moved = False
        self.lock = threading.RLock()

    # --- properties

    @property
    def runtime(self) -> Any:
        """Its state."""
        return shown.runtime(self)

    @property
    def summary(self) -> Any:
        """The short of it."""
        return shown.summary(self)

    @property
    def layout_ex(self) -> Any:
        """Its files."""
        return shown.layout(self)

    @property
    def snapshot(self) -> Any:
        """Its snapshots; unset while there are none."""
        return self.snapshots.info()

    @property
    def root_snapshot(self) -> list[Any]:
        """Snapshots without parent."""
        return [each.reference for each in self.snapshots.roots]

    @property
    def datastore(self) -> list[Any]:
        """Where its files are."""
        return [self.world.datastore_of(self.config.files.vmPathName).reference]

    @property
    def network(self) -> list[Any]:
        """What it is connected to."""
        cards = [each for each in self.config.hardware.device if isinstance(each, vim.vm.device.VirtualEthernetCard)]
        names = {card.backing.deviceName for card in cards}
        return [each.reference for each in self.world.networks if each.name in names]

    @property
    def resource_pool(self) -> Any:
        """Its share of the host."""
        return self.pool.reference

    @property
    def environment_browser(self) -> Any:
        """What it may become."""
        return self.world.environment.reference

    @property
    def guest_heartbeat_status(self) -> str:
        """Gray: no tools speak."""
        return "gray"

    @property
    def leaves(self) -> list[Path]:
        """The files that its disks are written to."""
        return [self.world.locate(disk.backing.fileName) for disk in hardware.disks(self.config.hardware.device)]

    def disk_files(self) -> set[Path]:
        """Return all files of all its disks and snapshots."""
        return set(shown.all_files(self))

    @operation
    def refresh_storage_info(self) -> None:
        """Bring what is known of its files up to date, which hosts do now and then; here it always is."""

    # --- changes

    def need_off(self) -> None:
        """Check that it doesn't run.

        Raises:
            vim.fault.InvalidPowerState: It does.
        """
        if self.guest.on:
            raise vim.fault.InvalidPowerState(
                requestedState="poweredOff", existingState="poweredOn", msg=WRONG_STATE.format("Powered on")
            )

    def need_unlocked(self) -> None:
        """Check that nobody has opened its disks.

        Raises:
            vim.fault.FileLocked: Somebody has.
        """
        for leaf in self.leaves:
            if self.world.leases.below(leaf):
                raise self.world.file_locked(self.world.name_of(leaf))

    @task
    def reconfig_vm(self, spec: Any) -> None:
        """Change what it is; devices only while it is off."""
        if spec.changeVersion and spec.changeVersion != self.config.changeVersion:
            raise vim.fault.ConcurrentAccess(msg="The configuration was changed by somebody else.")
        if spec.deviceChange or spec.numCPUs or spec.memoryMB:
            self.need_off()
        if spec.name and spec.name != self.name:
            self._rename(spec.name)
        apply(self.world, self.config, spec, self.directory)
        self.save()

    @task
    def rename(self, new_name: str) -> None:
        """Give it another name; its files keep theirs (VMware KB 1029513)."""
        self._rename(new_name)
        self.save()

    def _rename(self, name: str) -> None:
        self.world.need_free_name(name)
        self.name = self.config.name = name

    @task
    def destroy(self) -> None:
        """Delete it with its files; other files in its folder stay, as on a host (Destroy_Task, vSphere API)."""
        self.need_off()
        self.need_unlocked()
        shown.delete_files(self)
        self._leave()

    @writing
    def unregister_vm(self) -> None:
        """Take it out of the inventory; its files stay."""
        self.need_off()
        self.save()
        self._leave()

    def _leave(self) -> None:
        self.snapshots.forget()
        self.forget()

    @task
    def create_snapshot(self, name: str, memory: bool, quiesce: bool, description: str | None = None) -> Any:
        """Freeze its disks as they are."""
        self.need_unlocked()
        made = self.snapshots.create(name, description or "", memory=memory and self.guest.on)
        self.save()
        return made.reference

    @task
    def revert_to_current_snapshot(self, host: Any = None, suppress_power_on: bool | None = None) -> None:
        """Go back to the snapshot that it stands on."""
        if self.snapshots.current is None:
            raise vim.fault.NotFound(msg="The machine has no snapshot.")
        self.revert(self.snapshots.current)

    def revert(self, snapshot: Any) -> None:
        """Go back to a snapshot: what was written since is thrown away, and it is off, for no snapshot has memory."""
        self.need_unlocked()
        self.guest.power_off()
        self.snapshots.revert(snapshot)
        self.name = self.config.name
        self.save()

    @task
    def remove_all_snapshots(self, consolidate: bool | None = None) -> None:
        """Merge all into the base, which then shows what the machine shows now."""
        for snapshot in self.snapshots.oldest_first():
            self.snapshots.remove(snapshot, consolidate=consolidate is not False)
        self.save()

    @task
    def consolidate_vmdisks(self) -> None:
        """Merge the files that removed snapshots have left."""
        self.snapshots.consolidate()
        self.save()

    # --- power

    @task
    def power_on_vm(self, host: Any = None) -> None:
        """Start it."""
        if self.guest.on:
            raise vim.fault.InvalidPowerState(
                requestedState="poweredOn", existingState="poweredOn", msg=WRONG_STATE.format("Powered on")
            )
        self.need_unlocked()
        self.guest.ask(self.world.trouble.question or self._moved_question())
        self.moved = False
        self.guest.power_on()

    def _moved_question(self) -> str | None:
        answered = any(option.key == ANSWER for option in self.config.extraConfig)
        return MOVED if self.moved and not answered else None

    @task
    def power_off_vm(self) -> None:
        """Stop it at once."""
        if not self.guest.on:
            raise vim.fault.InvalidPowerState(
                requestedState="poweredOff", existingState="poweredOff", msg=WRONG_STATE.format("Powered off")
            )
        self.guest.power_off()

    @writing
    def shutdown_guest(self) -> None:
        """Ask the guest to stop: refused, for none here has VMware's tools."""
        raise vim.fault.ToolsUnavailable(msg="Cannot complete operation because VMware Tools is not running.")

    @writing
    def answer_vm(self, question_id: str, answer_choice: str) -> None:
        """Answer what it asks."""
        if not self.guest.answer(question_id):
            raise vmodl.fault.InvalidArgument(invalidProperty="questionId", msg="It asks no such thing.")

    @task
    def create_screenshot(self) -> str:
        """Save what its screen shows beside its files, and return where."""
        if not self.guest.on:
            raise vim.fault.InvalidPowerState(
                requestedState="poweredOn", existingState="poweredOff", msg=WRONG_STATE.format("Powered off")
            )
        return self.guest.save_screen()

    # --- files

    def save(self) -> None:
        """Write what it is into its folder, as the .vmx and .vmsd of a real machine."""
        vmx = self.world.locate(self.config.files.vmPathName)
        if not vmx.parent.is_dir():
            return
        # Paths in a .vmx are relative to it, which lets a folder be moved; where it was is known by its first line.
        place = f"{self.world.name_of(self.directory)}/"
        vmx.write_text(f"{place}\n" + dump(self.config).replace(place, "[] "))
        vmx.with_suffix(".vmsd").write_text(self.snapshots.saved().replace(place, "[] "))
