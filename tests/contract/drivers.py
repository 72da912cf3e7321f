"""The drivers that the contract suite runs over, each with what it takes to try it.

A driver is a factory: a context manager that takes a directory of its own and yields a `Driver`. The KVM
driver's stands in `driver_kvm.py` as ``FACTORY``; ESXi's stands in `driver_esxi.py`, and the suite runs over it in
``tests/long``, for it takes minutes there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from bootpoint_common.identity import new_id
from bootpoint_worker.targets.base import Target
from bootpoint_worker.targets.fake import FakeHost, connect
from bootpoint_worker.targets.host import HostAccess, VirtualMachine
from bootpoint_worker.targets.layer import Layer
from bootpoint_worker.targets.replica import Replica


class Hooks(Protocol):
    """What a test does to the host behind the driver's back."""

    def kill_writers(self) -> None:
        """Kill every writer's server process at once, as ``kill -9`` does."""

    def lose_layer(self, replica: Replica, layer: Layer) -> None:
        """Delete the file of an open layer."""

    def add_vm(self, name: str) -> None:
        """Define a VM that isn't bootpoint's."""

    def guest_write(self, replica: Replica, vm: VirtualMachine, slot: str, offset: int, data: bytes) -> None:
        """Write to a disk of a paused VM, as its guest would, through its scratch layer."""


@dataclass(frozen=True, slots=True)
class Driver:
    """A driver with a host to try it on.

    Attributes:
        name: Key of `FACTORIES`.
        connect: Makes a new session with the same host; the suite closes it.
        hooks: What a test does to the host.
        storage: A storage of the host with at least 1 GiB free.
        network: A network of the host; None when the driver's replicas are tried without a card.
        carries_tests: Whether a test goes on standing on a point into which another one is merged; else it is refused.
    """

    name: str
    connect: Callable[[], Target]
    hooks: Hooks
    storage: str
    network: str | None = None
    carries_tests: bool = True


Factory = Callable[[Path], AbstractContextManager[Driver]]


@dataclass(frozen=True, slots=True)
class _FakeHooks:
    """`Hooks` of the fake host."""

    host: FakeHost = field(repr=False)

    def kill_writers(self) -> None:
        self.host.kill_writers()

    def lose_layer(self, replica: Replica, layer: Layer) -> None:
        self.host.lose_layer(layer.identity)

    def add_vm(self, name: str) -> None:
        self.host.add_vm(name)

    def guest_write(self, replica: Replica, vm: VirtualMachine, slot: str, offset: int, data: bytes) -> None:
        self.host.guest_write(vm.name, slot, offset, data)


@contextmanager
def _fake(directory: Path) -> Iterator[Driver]:
    host = FakeHost.install(FakeHost(f"contract-{new_id()}"))
    access = HostAccess(name="contract", kind="fake", address=host.name, port=0, user="root")
    yield Driver("fake", lambda: connect(access), _FakeHooks(host), "default", "default")


#: Every driver that the suite runs over.
FACTORIES: dict[str, Factory] = {"fake": _fake}

if find_spec("tests.contract.driver_kvm") is not None:
    FACTORIES["kvm"] = import_module("tests.contract.driver_kvm").FACTORY
