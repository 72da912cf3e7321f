"""The way to the disks: what a real host does on its port 902, for the stand-in of VMware's disk library
(vddk/).

The real protocol (NFC) is VMware's own. Here the library connects to the host's only port, over TLS like all else,
and asks for one disk by ``POST /disk``; while its connection lives, the disk is open and locked, served by a qemu-nbd
on a socket of this machine that the answer names. So a library that dies lets go of its disk at once, and a host that
dies takes the disks with it. What a host refuses is refused with the codes of VIX (vix.h of VMware's open-vm-tools).
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from tests.esxi import chain
from tests.service.process import Server

if TYPE_CHECKING:
    from tests.esxi.world import World

#: Codes of VIX: no such file; the file can't be opened; it is open elsewhere; the login is wrong; no rights; no such
#: machine.
NO_FILE, NO_ACCESS, LOCKED, LOGIN, RIGHTS, NO_MACHINE = 4, 13, 15, 3014, 3014, 4000

#: What reading and writing a disk ask for ("Required privileges", Virtual Disk Development Kit Programming Guide).
READ, WRITE = "VirtualMachine.Provisioning.DiskRandomRead", "VirtualMachine.Provisioning.DiskRandomAccess"


class RefusedError(Exception):
    """The disk is not to be had.

    Attributes:
        code: VIX's.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code

    def answer(self) -> bytes:
        """Return what the library is told."""
        return f"{self.code}\n{self}\n".encode()


@dataclass(frozen=True, slots=True)
class Wish:
    """What the library asks for.

    Attributes:
        user: Its login.
        password: Likewise.
        machine: The machine's id, as ``moref=`` gives it.
        snapshot: Id of the snapshot whose disk it is; empty for none.
        path: The disk, such as ``[datastore1] vm/vm-000001.vmdk``; empty to ask only whether a disk may be asked for.
        read_only: Whether it is only to be read.
    """

    user: str
    password: str
    machine: str
    snapshot: str
    path: str
    read_only: bool

    @classmethod
    def read(cls, body: bytes) -> Wish:
        """Read what the library sends: a line for each of these, the last one ``read`` or ``write``."""
        user, password, machine, snapshot, path, how = body.decode().rstrip("\n").split("\n")
        return cls(user, password, machine, snapshot, path, how == "read")


@dataclass(frozen=True, slots=True)
class Lease:
    """An open disk.

    Attributes:
        wish: What was asked for.
        files: All files of its chain.
        socket: Where it is served.
        size_bytes: Of the disk.
        server: What serves it.
    """

    wish: Wish
    files: tuple[Path, ...]
    socket: Path
    size_bytes: int
    server: Server

    def answer(self) -> bytes:
        """Return what the library is told."""
        return f"{self.socket}\n{self.size_bytes}\n{len(self.files)}\n".encode()


class Leases:
    """All open disks of a host.

    Attributes:
        history: Everything that was ever opened.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._lock = threading.Lock()
        self._open: list[Lease] = []
        self.history: list[Wish] = []

    @property
    def current(self) -> list[Lease]:
        """The open disks."""
        return list(self._open)

    def below(self, path: Path) -> bool:
        """Tell whether a file, or one in a folder, is part of an open chain."""
        # One that is just being opened counts.
        with self._lock:
            return any(file.is_relative_to(path) for lease in self._open for file in lease.files)

    @contextmanager
    def hold(self, wish: Wish) -> Iterator[Lease]:
        """Open a disk while a block lasts.

        Raises:
            RefusedError: It is not to be had.
        """
        with self._lock:
            files = self._allow(wish)
            lease = self._serve(wish, files)
            self._open.append(lease)
            self.history.append(wish)
        try:
            yield lease
        finally:
            # SIGTERM lets qemu-nbd write what it holds; a host that fails is `kill`ed.
            lease.server.stop()
            with self._lock:
                self._open.remove(lease)

    def kill(self) -> None:
        """End all servers as a power cut would."""
        for lease in self.current:
            lease.server.kill()

    def admit(self, wish: Wish) -> Any:
        """Return the machine whose disks are wanted.

        Raises:
            RefusedError: The login is wrong or may not, or there is no such machine or snapshot.
        """
        try:
            user = self._world.sessions.authenticate(wish.user, wish.password)
        except vim.fault.InvalidLogin as exc:
            raise RefusedError(LOGIN, exc.msg) from exc
        privilege = READ if wish.read_only else WRITE
        if not user.may(privilege):
            raise RefusedError(RIGHTS, f"Permission to perform this operation was denied: {privilege}")
        machine = self._world.objects.get(wish.machine)
        if machine is None or machine.kind is not vim.VirtualMachine:
            raise RefusedError(NO_MACHINE, f"The virtual machine {wish.machine} cannot be found")
        if wish.snapshot and wish.snapshot not in self._world.objects:
            raise RefusedError(NO_ACCESS, f"The snapshot {wish.snapshot} cannot be found")
        return machine

    def _allow(self, wish: Wish) -> tuple[chain.Link, ...]:
        machine = self.admit(wish)
        links = self._links(machine, wish)
        if machine.busy is not None:
            raise RefusedError(LOCKED, f"{wish.path}: a task works on the virtual machine")
        top = links[-1].path
        # A running machine's own leaf is open for writing, which excludes everybody else; files below it can be read.
        if self._world.running_below(top) and (not wish.read_only or top in self._world.running_leaves()):
            raise RefusedError(LOCKED, f"{wish.path}: the file is in use by a virtual machine that is powered on")
        for lease in self._open:
            shared = wish.read_only and (lease.wish.read_only or top != lease.files[-1])
            if top in lease.files and not shared:
                raise RefusedError(LOCKED, f"{wish.path}: the file is already in use")
        return tuple(links)

    def _links(self, machine: Any, wish: Wish) -> list[chain.Link]:
        try:
            links = chain.links(self._world.locate(wish.path))
        except (FileNotFoundError, vim.fault.InvalidDatastorePath, vim.fault.InvalidDatastore):
            raise RefusedError(NO_FILE, f"{wish.path}: a file was not found") from None
        if links[-1].path not in machine.disk_files():
            raise RefusedError(NO_ACCESS, f"{wish.path} is no disk of the virtual machine {wish.machine}")
        return links

    def _serve(self, wish: Wish, links: tuple[chain.Link, ...]) -> Lease:
        name = self._world.sockets / f"{uuid.uuid4().hex[:12]}.nbd"
        top = links[-1]
        limit = top.extent.stat().st_size + self._world.datastore_of(wish.path).free_bytes
        # Beyond what the datastore has left, a write to the extent fails with EFBIG, which NBD calls "no space".
        full = ["env", "--ignore-signal=XFSZ", "prlimit", f"--fsize={limit}"]
        # The pid file is written when the socket takes connections.
        ready = name.with_suffix(".pid")
        command = ["qemu-nbd", "--persistent", "--format=qcow2", f"--socket={name}", f"--pid-file={ready}"]
        how = ["--read-only", str(top.extent)] if wish.read_only else [str(top.extent)]
        server = Server([*full, *command, *how], log=self._world.sockets / "disks.log")
        server.start(ready.exists, f"a server of {wish.path}")
        return Lease(wish, tuple(link.path for link in links), name, top.size_bytes, server)
