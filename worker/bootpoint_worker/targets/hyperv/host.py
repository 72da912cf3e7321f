"""What all of the driver shares: the session with one host, its volumes, and its paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bootpoint_common.errors import Code, error
from bootpoint_worker.smb import path as smb_path
from bootpoint_worker.targets.host import Cluster, HostAccess, HostInfo
from bootpoint_worker.targets.hyperv.cluster import Nodes
from bootpoint_worker.targets.hyperv.inspect import inspect_host
from bootpoint_worker.targets.hyperv.runbook import RUNBOOK
from bootpoint_worker.targets.hyperv.session import CALL_TIMEOUT, HyperVSession
from bootpoint_worker.targets.hyperv.store import Volume
from bootpoint_worker.targets.snapshots import host as shared
from bootpoint_worker.targets.snapshots.host import no_step
from bootpoint_worker.targets.snapshots.vm import Vm

#: First bytes of MAC addresses that are Microsoft's, for Hyper-V (IEEE's registry: 00-15-5D).
MAC_PREFIX = "00:15:5d"


class Host(shared.Host):
    """One Hyper-V host.

    Args:
        access: How it is reached.
        step: As in `shared.Host`.

    Attributes:
        access: How it is reached.
        session: The session with the host.
        nodes: The sessions with the other nodes of its cluster.
    """

    buses = {"virtio": "vmbus", "scsi": "vmbus"}  # noqa: RUF012 - never changed
    mac_prefix = MAC_PREFIX
    suffixes = (".vhdx", ".avhdx")
    runbook = RUNBOOK
    page = "docs/hyperv.md"

    def __init__(self, access: HostAccess, step: Callable[[str], None] = no_step) -> None:
        super().__init__(access.name, step)
        self.access = access
        self.session = HyperVSession(access)
        self.nodes = Nodes(self.session)
        self._cluster: tuple[Cluster | None] | None = None
        self._seen: dict[str, Any] = {}
        self._info: HostInfo | None = None

    def sessions(self) -> list[HyperVSession]:
        """Return the sessions with the host, and with the other nodes that are up of its cluster."""
        cluster = self.cluster()
        if cluster is None:
            return [self.session]
        # Hosts write their names in either case.
        own = cluster.node.casefold()
        others = [node.name for node in cluster.nodes if node.state == "up" and node.name.casefold() != own]
        return [self.session, *map(self.nodes.of_node, others)]

    def cluster(self) -> Cluster | None:
        """Return the cluster that the host is a node of, as it was when this session began; None: it is in none."""
        if self._cluster is None:
            self._cluster = (self.info().cluster,)
        return self._cluster[0]

    def ask(self, operation: str, vm: Vm, **arguments: Any) -> Any:
        """Carry out an operation about a VM that only reads, where the VM is."""
        return session_of(vm).call(operation, {"id": vm.id, **arguments}, safe=True)

    def do(self, operation: str, vm: Vm, timeout: float = CALL_TIMEOUT, **arguments: Any) -> Any:
        """Carry out an operation that changes a VM, where it is.

        Args:
            operation: Its name.
            vm: The VM.
            timeout: Seconds.
            arguments: What else it is given.
        """
        self.forget()
        return session_of(vm).call(operation, {"id": vm.id, **arguments}, timeout=timeout)

    def look_at(self, vm: Vm) -> Any:
        """Return what the module says of a VM: asked once, until something is done, or the VMs are listed again.

        Every verb begins with the list. PowerShell takes seconds to start on a host, and a verb looks often.
        """
        if vm.id not in self._seen:
            self._seen[vm.id] = self.ask("state", vm)
        return self._seen[vm.id]

    def info(self) -> HostInfo:
        """Return what the host is and has, asked as seldom as `look_at` asks."""
        if self._info is None:
            self._info = inspect_host(self.session)
        return self._info

    def forget(self) -> None:
        """Forget what was seen of VMs, and of the host."""
        self._seen.clear()
        self._info = None

    def store(self, name: str) -> Volume:
        """Return a volume; see `shared.Host.store`."""
        found = self.info().storages
        volume = next((each for each in found if each.name.casefold() == name.rstrip("\\").casefold()), None)
        if volume is None:
            known = ", ".join(each.name for each in found) or "none"
            raise error(
                Code.STORAGE_UNKNOWN,
                f"host {self.name} has no volume {name!r}; there are: {known}",
                key="storage.name",
                value=name,
                host=self.name,
            )
        return self._volume(self.session, volume.name, volume.path)

    def store_of(self, vm: Vm) -> Volume:
        """See `shared.Host.store_of`."""
        return self._volume(session_of(vm), vm.folder, vm.folder)

    def _volume(self, session: HyperVSession, name: str, path: str) -> Volume:
        return Volume(session.files, name, path.rstrip("\\"), lambda: self._free(path))

    def _free(self, path: str) -> int:
        """Return the free bytes of a path's volume: that of a cluster lies below a drive, and counts."""
        self._info = None
        fitting = [each for each in self.info().storages if _is_below(path, each.path)]
        return max(fitting, key=lambda each: len(each.path)).free_bytes if fitting else 0

    def join(self, directory: str, *names: str) -> str:
        """See `shared.Host.join`."""
        return smb_path.join(directory, *names)

    def parent(self, path: str) -> str:
        """See `shared.Host.parent`."""
        return smb_path.parent(path)

    def name_of(self, path: str) -> str:
        """See `shared.Host.name_of`."""
        return path.rpartition("\\")[2]

    def serial_log(self, directory: str, wanted: str | None) -> str | None:  # noqa: ARG002 - ports are named pipes here
        """See `shared.Host.serial_log`."""
        return None

    def close(self) -> None:
        """See `shared.Host.close`."""
        self.nodes.close()
        self.session.close()


def _is_below(path: str, root: str) -> bool:
    return f"{path}\\".casefold().startswith(root.rstrip("\\").casefold() + "\\")


def session_of(vm: Vm) -> HyperVSession:
    """Return the session with the host, or the node, that a VM is on."""
    session: HyperVSession = vm.entity
    return session
