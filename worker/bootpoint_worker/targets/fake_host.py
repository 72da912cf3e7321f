"""The world of the fake target: a host that outlives every session, worker and power cut.

It stands for one machine with its hypervisor. Sessions (`FakeTarget`) come and go; the host is found again by
its address. What a test does to it (`crash`, `kill_writers`, `operator_start`, the faults of `Faults`) and what
only a test may look at (`content`) are methods of the host, never of the target.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from random import Random
from typing import ClassVar
from uuid import NAMESPACE_URL, UUID, uuid5

from bootpoint_common.errors import Code, error
from bootpoint_common.units import TiB
from bootpoint_worker.targets.fake_fault import Faults
from bootpoint_worker.targets.fake_journal import Manifest
from bootpoint_worker.targets.fake_machine import FakeVm, Machine

#: Size of the one storage of a host that was made without saying any.
DEFAULT_STORAGES: Mapping[str, int] = {"default": 16 * TiB}


class FakeHost(Machine, Faults):
    """A host in memory; thread-safe.

    Args:
        name: Its address.
        storages: Size in bytes of every storage, by name.
        networks: Names of its networks.
        password: What a session has to give; None lets everybody in.
        fingerprint: What it shows at the contact.
    """

    _known: ClassVar[dict[str, FakeHost]] = {}
    _known_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self,
        name: str,
        *,
        storages: Mapping[str, int] = DEFAULT_STORAGES,
        networks: tuple[str, ...] = ("default",),
        password: str | None = None,
        fingerprint: str = "SHA256:fake",
    ) -> None:
        super().__init__(name, storages, networks)
        self.password = password
        self.fingerprint = fingerprint

    @classmethod
    def at(cls, address: str) -> FakeHost:
        """Return the host of that address; the first call makes it, with the default sizes."""
        with cls._known_lock:
            return cls._known.setdefault(address, cls(address))

    @classmethod
    def install(cls, host: FakeHost) -> FakeHost:
        """Make ``host`` the one that its address leads to, in place of an earlier one; returns it."""
        with cls._known_lock:
            cls._known[host.name] = host
        return host

    # --- faults -------------------------------------------------------------------------------------------

    def crash(self, random: Random) -> None:
        """Cut the power and put it on again: a random part of what wasn't flushed is lost, everybody is out."""
        with self.lock:
            self.boot += 1
            self.end_holds(lambda _hold: True, self.unreachable)
            for identity in sorted(self.layers):
                self.layers[identity].lose(random, power=True)
            for vm in self.vms.values():
                vm.state = "off"

    def kill_writers(self, random: Random | None = None) -> None:
        """Kill every writer's server process; the host's page cache keeps what they wrote.

        Args:
            random: Given, a random part of what wasn't flushed is lost as well: what the server process still
                had in a cache of its own, as qemu-nbd has with qcow2's tables.
        """
        with self.lock:
            self.end_holds(lambda _hold: True, lambda: self.failed("its server process was killed"))
            if random is not None:
                for identity in sorted(self.layers):
                    self.layers[identity].lose(random, power=False)

    def crash_at(self, verb: str, step: str, random: Random, *, after: int = 0) -> None:
        """Cut the power when a call reaches a step; the call raises ``host_unreachable``."""
        self.act_at(verb, step, lambda _session: self.crash(random), after=after)

    def disconnect_at(self, verb: str, step: str, *, after: int = 0, times: int = 1) -> None:
        """Cut the session at a step: its writers end, the call raises ``host_unreachable``; the next one gets in."""

        def act(session: object) -> None:
            self.end_session(session)
            raise self.unreachable()

        self.act_at(verb, step, act, after=after, times=times)

    def end_session(self, session: object) -> None:
        """End the writers that came through a session."""
        with self.lock:
            self.end_holds(lambda hold: hold.session is session, self.unreachable)

    # --- what people do on the host -----------------------------------------------------------------------

    def add_vm(self, name: str) -> None:
        """Define a VM that isn't bootpoint's."""
        with self.lock:
            self.vms[name] = FakeVm(name, str(uuid5(NAMESPACE_URL, name)))

    def operator_start(self, vm_name: str) -> None:
        """Start a VM with the hypervisor's own tools, behind bootpoint's back."""
        with self.lock:
            self.vms[vm_name].state = "running"

    def operator_stop(self, vm_name: str) -> None:
        """Stop a VM with the hypervisor's own tools."""
        with self.lock:
            self.vms[vm_name].state = "off"

    def guest_write(self, vm_name: str, slot: str, offset: int, data: bytes) -> None:
        """Write to a disk of a VM, as its guest does, and flush."""
        with self.lock:
            layer = self.layers[(self.vms[vm_name].layers or {})[slot]]
            layer.write(offset, len(data), data)
            layer.flush()

    def lose_layer(self, identity: str) -> None:
        """Delete a layer's file; its writer fails from now on."""
        with self.lock:
            self.end_holds(lambda hold: hold.identity == identity, lambda: self.layer_lost(identity))
            del self.layers[identity]

    def damage(self, identity: str) -> None:
        """Make the target's own check of a layer fail."""
        with self.lock:
            self.layers[identity].damaged = True

    def rot(self, replica_id: UUID, point_id: UUID, slot: str, offset: int) -> None:
        """Flip one byte of a disk in the point's own layer, unnoticed by the host."""
        with self.lock:
            self.layers[self._identity(replica_id, point_id, slot)].rot(offset)

    # --- what only a test looks at ------------------------------------------------------------------------

    def content(self, replica_id: UUID, point_id: UUID, slot: str) -> bytes:
        """Return all bytes of a disk of a committed or open point.

        Raises:
            NotFoundError: ``no_such_point``.
        """
        with self.lock:
            layer = self.layers[self._identity(replica_id, point_id, slot)]
            return layer.read(0, layer.size_bytes)

    def manifest_of(self, replica_id: UUID) -> Manifest | None:
        """Return a replica's manifest wherever it lies."""
        with self.lock:
            return next((m for m in self.manifests.values() if m.replica.replica_id == replica_id), None)

    def writers(self, identity: str) -> int:
        """Return how many writers hold a layer now."""
        with self.lock:
            return sum(hold.identity == identity for hold in self._holds)

    def _identity(self, replica_id: UUID, point_id: UUID, slot: str) -> str:
        manifest = self.manifest_of(replica_id)
        if manifest is not None:
            point = manifest.point(point_id)
            if point is not None:
                return next(disk.identity for disk in point.disks if disk.slot == slot)
            if manifest.open_point_id == point_id:
                return next(layer.identity for layer in manifest.open_layers if layer.slot == slot)
        raise error(Code.NO_SUCH_POINT, f"host {self.name} has no boot point {point_id}", host=self.name)
