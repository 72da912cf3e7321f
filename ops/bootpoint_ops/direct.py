"""Work on a host with nothing but its own credentials: no database, no broker, no workers, no other installation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootpoint_common.errors import Code, error
from bootpoint_worker.hostinfo import started_as_json, vm_as_json
from bootpoint_worker.request import journal_points, point_id_of
from bootpoint_worker.targets.base import HostAccess, StartRequest
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


def vm_list(direct: Direct) -> list[dict[str, Any]]:
    """Return the host's VMs."""
    with _session(direct) as target:
        return [vm_as_json(machine) for machine in target.inspect_host().vms]


def vm_points(direct: Direct, vm: str) -> list[dict[str, Any]]:
    """Return the boot points of a standby, as its host's journal has them.

    Raises:
        NotFoundError: ``no_such_vm``.
    """
    with _session(direct) as target:
        return journal_points(_found(target, direct, vm).journal)


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
        request = StartRequest(
            point_id=point_id_of(found.journal, point), test_id=test_id, serial_log=serial_log, conversion=conversion
        )
        started = target.start(found.replica, request)
        journal = target.inspect(found.replica)
        return started_as_json(started, journal.profile if journal is not None else None)
