"""Work on a host with nothing but its own credentials: no database, no broker, no workers, no other installation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootpoint_common.errors import Code, error
from bootpoint_ops.reached import Reached
from bootpoint_worker.hostinfo import (
    LATEST,
    journal_as_json,
    machines_as_json,
    point_of,
    start_point,
    started_as_json,
    started_vm,
    vm_as_json,
)
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.kvm import FoundReplica, KvmTarget, connect, fetch_fingerprint


@dataclass(frozen=True, kw_only=True)
class Direct:
    """How a host is reached without the database.

    Attributes:
        address: DNS name or address; ``local`` for this machine.
        user: Account.
        port: TCP port of its SSH server.
        ssh_key: File with the private key.
        password_file: File with the password.
        fingerprint: The key that it must show; None where none is known.
        virt_type: ``kvm`` or ``qemu``.
        virtio_win: Path on the host of an ISO with drivers for Windows.
    """

    address: str
    user: str = "root"
    port: int = 22
    ssh_key: Path | None = None
    password_file: Path | None = None
    fingerprint: str | None = None
    virt_type: str = "kvm"
    virtio_win: str | None = None

    def access(self) -> HostAccess:
        """Return it as drivers want it."""
        return HostAccess(
            name=self.address,
            kind="kvm",
            address=self.address,
            port=self.port,
            user=self.user,
            fingerprint=self.fingerprint,
            ssh_key=None if self.ssh_key is None else self.ssh_key.read_text(),
            password=None if self.password_file is None else self.password_file.read_text().rstrip("\n"),
            settings={
                "virt_type": self.virt_type,
                **({"virtio_win": self.virtio_win} if self.virtio_win else {}),
            },
        )


def fingerprint(direct: Direct) -> str | None:
    """Return the key that the host shows; None for this machine."""
    return None if direct.address == "local" else fetch_fingerprint(direct.address, direct.port)


@contextmanager
def _session(direct: Direct) -> Iterator[KvmTarget]:
    target = connect(direct.access())
    try:
        yield target
    finally:
        target.close()


def _found(target: KvmTarget, direct: Direct, vm: str) -> FoundReplica:
    found = target.find_by_vm(vm)
    if found is None:
        raise error(
            Code.NO_SUCH_VM, f"host {direct.address} has no standby {vm} of bootpoint", key="vm", value=vm,
            host=direct.address, hint="`bootpoint vm list --direct` lists its VMs",
        )  # fmt: skip
    return found


@contextmanager
def reach_point(direct: Direct, vm: str, name: str | None) -> Iterator[Reached]:
    """Open a session with a point's host; nothing refers to the point, for there is no database.

    Raises:
        NotFoundError: ``no_such_vm``, ``no_such_point``.
    """
    with _session(direct) as target:
        found = _found(target, direct, vm)
        yield Reached(target, found.replica, point_of(found.journal, name), direct.address, direct.virt_type)


def vm_list(direct: Direct) -> list[dict[str, Any]]:
    """Return the host's VMs, standbys and tests with their points."""
    with _session(direct) as target:
        return machines_as_json(target.inspect_host().vms, [found.journal for found in target.find_replicas()])


def vm_points(direct: Direct, vm: str) -> dict[str, Any]:
    """Return a standby and its boot points, as its host's journal has them.

    Raises:
        NotFoundError: ``no_such_vm``.
    """
    with _session(direct) as target:
        return journal_as_json(_found(target, direct, vm).journal)


def job_of(direct: Direct, vm: str) -> str:
    """Return the name of the job that a standby belongs to.

    Raises:
        NotFoundError: ``no_such_vm``.
    """
    with _session(direct) as target:
        return _found(target, direct, vm).journal.job


def vm_start(
    direct: Direct, vm: str, point: str | None, *, test_id: str | None, serial_log: str | None, conversion: str = "auto"
) -> dict[str, Any]:
    """Start a standby from a boot point.

    Raises:
        NotFoundError: ``no_such_vm``, ``no_such_point``.
        RefusedError: ``standby_running``.
        FatalError: ``conversion_failed``.
    """
    with _session(direct) as target:
        found = _found(target, direct, vm)
        chosen = start_point(found.journal, point, test_id)
        request = StartRequest(
            point_id=chosen.point_id, test_id=test_id, serial_log=serial_log, conversion=conversion
        )
        started = target.start(found.replica, request)
        journal = target.inspect(found.replica)
        profile = journal.profile if journal is not None else None
        return {**started_as_json(started, profile), "point": chosen.name, "addresses": []}  # KVM tells no guest


def vm_stop(direct: Direct, vm: str, *, test_id: str | None) -> dict[str, Any]:
    """Stop a standby, or a test of it.

    Raises:
        NotFoundError: ``no_such_vm``.
    """
    with _session(direct) as target:
        found = _found(target, direct, vm)
        name = started_vm(found.journal, test_id)
        target.stop(found.replica, test_id)
        return {"name": name, "state": "off", "replica_id": str(found.journal.replica_id)}


def vm_revert(direct: Direct, vm: str, point: str) -> dict[str, Any]:
    """Let a standby stand on a boot point; ``latest`` lets it follow the newest again.

    Raises:
        NotFoundError: ``no_such_vm``, ``no_such_point``.
        RefusedError: ``standby_running``.
    """
    with _session(direct) as target:
        found = _found(target, direct, vm)
        chosen, held = point_of(found.journal, point), point != LATEST
        machine = target.revert(found.replica, chosen.point_id if held else None)
        return {**vm_as_json(machine), "point": chosen.name, "held": held}
