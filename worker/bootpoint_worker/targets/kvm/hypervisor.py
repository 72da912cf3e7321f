"""libvirt on a host, through the session: one kept connection, with a time limit on every call."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from bootpoint_common.errors import Code, error
from bootpoint_common.units import KiB
from bootpoint_worker.targets.host import VirtualMachine
from bootpoint_worker.targets.kvm import domain
from bootpoint_worker.targets.kvm.session import Session, unreachable
from bootpoint_worker.targets.kvm.tunnel import Tunnel

if TYPE_CHECKING:
    import libvirt

#: Seconds that a call of libvirt may take; starting a VM with many disks on a loaded host needs some.
CALL_TIMEOUT = 120.0

#: Sockets of libvirt's daemons, the one that serves all drivers first.
SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")


class Hypervisor:
    """libvirt on one host.

    Args:
        session: The way to the host.
        socket: Path of libvirt's socket there; None for the usual ones.
    """

    def __init__(self, *, session: Session, socket: str | None = None) -> None:
        self._session = session
        self._sockets = (socket,) if socket else SOCKETS
        self._tunnel: Tunnel | None = None
        self._connection: libvirt.virConnect | None = None

    @contextlib.contextmanager
    def connection(self) -> Iterator[libvirt.virConnect]:
        """Give the connection for some calls; what libvirt raises becomes our errors.

        Raises:
            RetryableError: ``host_unreachable``, also when the calls don't end in time.
            FatalError: ``host_permission``, ``host_unsupported``.
        """
        libvirt = self._module()
        # A connection can't be interrupted from outside, but its tunnel can: the call then ends with an error.
        timer = threading.Timer(CALL_TIMEOUT, self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield self._opened(libvirt)
        except libvirt.libvirtError as exc:
            raise self._mapped(libvirt, exc) from exc
        finally:
            timer.cancel()

    def close(self) -> None:
        """End the connection; may be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # A connection that broke can't be closed in good order.
            with contextlib.suppress(self._module().libvirtError):
                connection.close()
        self._cut()
        self._tunnel = None

    def look_up(self, name: str) -> libvirt.virDomain | None:
        """Return the VM of that name; None when there is none."""
        libvirt = self._module()
        with self.connection() as connection:
            try:
                return connection.lookupByName(name)
            except libvirt.libvirtError as exc:
                if exc.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return None
                raise

    def machines(self) -> list[tuple[VirtualMachine, domain.Mark | None]]:
        """Return all VMs of the host, with our mark where bootpoint made them."""
        libvirt = self._module()
        found = []
        with self.connection() as connection:
            for machine in connection.listAllDomains():
                try:
                    mark = domain.mark_of(machine.XMLDesc())
                    running = bool(machine.isActive())
                except libvirt.libvirtError as exc:
                    if exc.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                        continue  # removed since it was listed
                    raise
                state = "running" if running else "off"
                replica_id = mark.replica_id if mark else None
                found.append((VirtualMachine(machine.name(), machine.UUIDString(), state, replica_id), mark))
        return found

    def running_disks(self) -> dict[str, list[str]]:
        """Return the disks' files of every VM that runs, by its name."""
        libvirt = self._module()
        found = {}
        with self.connection() as connection:
            for machine in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
                try:
                    found[machine.name()] = domain.disk_files(machine.XMLDesc())
                except libvirt.libvirtError as exc:
                    if exc.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:  # else it ended since it was listed
                        raise
        return found

    def running_memory_bytes(self) -> int:
        """Return the memory that all running VMs have been given."""
        libvirt = self._module()
        total = 0
        with self.connection() as connection:
            for machine in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
                try:
                    total += machine.info()[1] * KiB
                except libvirt.libvirtError as exc:
                    if exc.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:  # it ended since it was listed
                        raise
        return total

    def state(self, name: str) -> tuple[str, str] | None:
        """Return whether a VM is ``running`` or ``off``, and its persistent definition; None when there is none."""
        libvirt = self._module()
        with self.connection():
            machine = self.look_up(name)
            if machine is None:
                return None
            active = "running" if machine.isActive() else "off"
            return active, machine.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)

    def define(self, definition: domain.Definition) -> None:
        """Write a persistent definition, in place of the one of the same name and id; never started by the host."""
        with self.connection() as connection:
            connection.defineXML(domain.domain_xml(definition)).setAutostart(0)

    def start(self, name: str) -> None:
        """Start a defined VM; nothing when it runs.

        A memory that libvirt saved for it is dropped: a start would go on there, with the disks of then.
        """
        libvirt = self._module()
        with self.connection() as connection:
            try:
                connection.lookupByName(name).createWithFlags(libvirt.VIR_DOMAIN_START_FORCE_BOOT)
            except libvirt.libvirtError as exc:
                if exc.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                    raise

    def power_off(self, name: str) -> None:
        """End a VM and let QEMU write out what it holds; nothing when it doesn't run."""
        libvirt = self._module()
        with self.connection():
            machine = self.look_up(name)
            if machine is None or not machine.isActive():
                return
            try:
                machine.destroyFlags(libvirt.VIR_DOMAIN_DESTROY_GRACEFUL)
            except libvirt.libvirtError:
                if machine.isActive():
                    machine.destroy()

    def undefine(self, name: str) -> None:
        """Remove a VM's definition with all that libvirt keeps for it; nothing when there is none."""
        libvirt = self._module()
        with self.connection():
            machine = self.look_up(name)
            if machine is not None and machine.isPersistent():
                machine.undefineFlags(
                    libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
                    | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
                )

    def pools(self) -> dict[str, str]:
        """Return the active storage pools that are directories: name -> absolute path."""
        found = {}
        with self.connection() as connection:
            for pool in connection.listAllStoragePools():
                if not pool.isActive():
                    continue
                xml = ET.fromstring(pool.XMLDesc())  # noqa: S314 - libvirtd made it
                path = xml.findtext("./target/path")
                if path and xml.get("type") in ("dir", "fs", "netfs"):
                    found[pool.name()] = path
        return found

    def networks(self) -> dict[str, str]:
        """Return the active libvirt networks: name -> kind."""
        found = {}
        with self.connection() as connection:
            for network in connection.listAllNetworks():
                if network.isActive():
                    forward = ET.fromstring(network.XMLDesc()).find("./forward")  # noqa: S314 - libvirtd made it
                    mode = "isolated" if forward is None else forward.get("mode", "nat")
                    found[network.name()] = mode if mode in ("nat", "route", "bridge", "isolated") else "route"
        return found

    def _opened(self, libvirt: Any) -> libvirt.virConnect:
        if self._connection is not None:
            if self._alive(libvirt):
                return self._connection
            self.close()
        last: Exception | None = None
        for path in self._sockets:
            self._tunnel = Tunnel(session=self._session, remote=path)
            try:
                self._connection = libvirt.open(f"qemu+unix:///system?socket={self._tunnel.open()}")
            except (OSError, libvirt.libvirtError) as exc:
                self._cut()
                last = exc
                continue
            return self._connection
        raise unreachable(
            self._session.host, f"libvirt doesn't listen on {' or '.join(self._sockets)}; start libvirtd ({last})"
        )

    def _alive(self, libvirt: Any) -> bool:
        try:
            # isAlive() alone says what was known at the last call: ask for something that travels.
            return bool(self._connection and self._connection.getLibVersion())
        except libvirt.libvirtError:
            return False  # it broke: the reason doesn't matter any more

    def _cut(self) -> None:
        if self._tunnel is not None:
            self._tunnel.close()

    def _module(self) -> Any:
        try:
            import libvirt
        except ImportError as exc:
            raise error(
                Code.HOST_UNSUPPORTED,
                "this worker lacks libvirt's Python module: install python3-libvirt, or pip install 'bootpoint[kvm]'",
                host=self._session.host,
            ) from exc
        libvirt.registerErrorHandler(_silent, None)
        return libvirt

    def _mapped(self, libvirt: Any, exc: Any) -> Exception:
        host = self._session.host
        code = exc.get_error_code()
        if self._connection is None or not self._alive(libvirt):
            return unreachable(host, f"libvirt: {exc}")
        if code in (libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_ERR_ACCESS_DENIED, libvirt.VIR_ERR_OPERATION_DENIED):
            return error(Code.HOST_PERMISSION, f"libvirt on host {host} refuses: {exc}", host=host)
        if "Failed to get " in str(exc) and " lock" in str(exc):  # QEMU's own, while a point beneath is being merged
            return error(Code.BUSY, f"libvirt on host {host}: {exc}", host=host)
        if code == libvirt.VIR_ERR_NO_NETWORK:
            return error(Code.NETWORK_UNKNOWN, f"libvirt on host {host}: {exc}", host=host)
        return error(Code.HOST_UNSUPPORTED, f"libvirt on host {host} says: {exc}", host=host)


def _silent(_context: object, _error: object) -> None:
    """Keep libvirt from printing what is raised anyway."""
