"""A Windows host with Hyper-V: WinRM, shares, drives, VMs."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PureWindowsPath
from typing import Self
from uuid import UUID, uuid4

from bootpoint_common.units import GiB
from tests.hyperv import avhdx, powershell, vhdtest
from tests.hyperv.avhdx import Vhdx
from tests.hyperv.cluster import Cluster
from tests.hyperv.guise import GUISES
from tests.hyperv.holding import OWN_SHARE, Holds, InUseError, Sharing
from tests.hyperv.machine import Machine, Switch
from tests.hyperv.merging import Merger
from tests.hyperv.pwsh.failure import failure
from tests.hyperv.pwsh.files import Access, Drives
from tests.hyperv.server import WinRm
from tests.hyperv.shell import Process
from tests.hyperv.trouble import Trouble
from tests.hyperv.vmms import Vmms
from tests.service.process import run
from tests.service.realm import Member
from tests.service.samba import SambaServer

#: Suffixes of files that the host may have open.
DISKS = (".vhdx", ".avhdx", ".vhd", ".avhd")


class Host:
    """A host whose WinRM runs in this process, and whose shares are a Samba's.

    Args:
        directory: Where all of it is; a drive is a directory in it.
        guise: A key of `tests.hyperv.guise.GUISES`.
        name: The host's.
        address: Of this machine, where it listens.
        volumes: Sizes of the drives in bytes, by their letters.
        switches: Its virtual switches.
        tls: Whether WinRM is by TLS.
        encrypt: Whether SMB has to be encrypted.
        hyperv: Whether the role and its module are installed.
        runs_guests: Whether a VM that is started is run by a QEMU.
        limited: Sizes of drives that are file systems of that size in memory, so that they can be full.
        cluster: The failover cluster that it is a node of.
        member: The computer of a domain that it is: tickets of Kerberos let users of the domain in.

    Attributes:
        trouble: What is to go wrong.
        winrm: Its WinRM service.
        samba: Its shares.
        holds: Files that it has open itself.
        vmms: Its VMs.
        merger: Its merges.
        lock: Held while a command works.
        starter: Its thread starts what is to live as long as the host.
    """

    def __init__(
        self,
        directory: Path,
        guise: str = "2022",
        *,
        name: str = "HV1",
        address: str = "127.0.0.1",
        volumes: Mapping[str, int] | None = None,
        switches: Mapping[str, Switch] | None = None,
        tls: bool = False,
        encrypt: bool = False,
        hyperv: bool = True,
        runs_guests: bool = False,
        limited: Mapping[str, int] | None = None,
        cluster: Cluster | None = None,
        member: Member | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.guise = GUISES[guise]
        self.name = name
        self.address = address
        self.hyperv = hyperv and self.guise.commands is not None
        self.trouble = Trouble()
        self.cluster = cluster
        self.processors, self.memory = 8, 64 * GiB
        self.lock = threading.RLock()
        self.runs_guests = runs_guests
        self.starter = ThreadPoolExecutor(1, "starter")
        self._limited = dict(limited or {})
        self.volumes = {"C": 64 * GiB, "D": 200 * GiB} | dict(volumes or {}) | self._limited
        self.switches = dict(switches or {"LAN": Switch.External})
        self.switch_ids: dict[str, UUID] = {each: uuid4() for each in self.switches}
        self.roots = {letter: directory / "drives" / letter for letter in self.volumes}
        for root in self.roots.values():
            root.mkdir(parents=True, exist_ok=True)
        (self.roots["C"] / "Windows").mkdir(exist_ok=True)
        self.winrm = WinRm(
            directory, self._execute, self.trouble, address=address, name=name, tls=tls, member=member
        )
        self.samba = self._make_samba(encrypt=encrypt, member=member)
        self.holds = Holds(self.samba, directory)
        self.vmms = Vmms(self)
        self.merger = Merger(self)
        self.drives = Drives(self.roots, self._check)
        self.set_password(self.samba.password)
        if cluster is not None:
            cluster.nodes.append(self)

    def _make_samba(self, *, encrypt: bool, member: Member | None) -> SambaServer:
        shares = {f"{letter}$": root for letter, root in self.roots.items()}
        shares |= {"ADMIN$": self.roots["C"] / "Windows", OWN_SHARE: self.directory}
        state = self.directory / "samba"
        state.mkdir(exist_ok=True)
        server = SambaServer(
            state, shares, address=self.address, encrypt=encrypt, name=self.name, own=OWN_SHARE, member=member
        )
        server.create()
        return server

    def __enter__(self) -> Self:
        for letter, size in self._limited.items():
            run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "bootpoint-test", str(self.roots[letter])])
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.starter.shutdown()
        for letter in self._limited:
            run(["umount", "--lazy", str(self.roots[letter])])

    @property
    def username(self) -> str:
        """The administrator."""
        return self.samba.username

    @property
    def password(self) -> str:
        """The administrator's password."""
        return self.samba.password

    def set_password(self, password: str) -> None:
        """Give the administrator another password."""
        self.samba.set_password(password)
        self.winrm.set_password(self.username, password)

    def filter(self, *, filtered: bool = True) -> None:
        """Let the administrator be a local one whom UAC filters over the network: no commands, and no shares."""
        self.trouble.filtered = filtered
        self.samba.refuse(refused=filtered)

    # --- how it comes and goes

    def start(self) -> None:
        """Start it; merges that were cut go on from their beginning."""
        if self.cluster is not None:
            self.cluster.mount(self)
        self.samba.start()
        self.winrm.start()
        self.merger.start()
        self.vmms.start_up()

    def stop(self) -> None:
        """End it with all that runs on it; may be called twice."""
        self.winrm.stop()
        self.merger.stop()
        self.holds.close()
        self.samba.stop()
        self.vmms.cut()
        if self.cluster is not None:
            self.cluster.unmount(self)

    def cut(self) -> None:
        """Let it be gone as by a power cut; `start` brings it back, with all VMs off."""
        self.winrm.stop()
        self.merger.stop()
        if self.samba.server.alive:
            self.samba.cut()
        self.stop()

    def _execute(self, process: Process) -> int:
        return powershell.execute(self, process)

    # --- files

    def locate(self, path: str) -> Path:
        """Return the file here of a path there."""
        return self.drives.resolve(path, Access.LOOK)

    def name_of(self, path: Path) -> str:
        """Return the path there of a file here."""
        letter, root = next((letter, root) for letter, root in self.roots.items() if path.is_relative_to(root))
        return str(PureWindowsPath(f"{letter}:\\", *path.relative_to(root).parts))

    def _check(self, path: Path, access: Access) -> None:
        """Refuse a program on the host what is open.

        Raises:
            Failure: Another has the file open.
        """
        if access is Access.LOOK or path.suffix.lower() not in DISKS or not path.is_file():
            return
        try:
            self.holds.probe(path, Sharing.READING if access is Access.READ else Sharing.ALONE)
        except InUseError as exc:
            name = self.name_of(path)
            text = f"The process cannot access the file '{name}' because it is being used by another process."
            raise failure("System.IO.IOException", text, "IOException", "WriteError") from exc

    def find_parent(self, child: Path, locator: dict[str, str]) -> Path:
        """Return where a disk's parent is: by the path in its locator, else beside it."""
        named = self.locate(locator["absolute_win32_path"])
        return named if named.exists() else avhdx.beside(child, locator)

    def parent_of(self, path: Path) -> Path | None:
        """Return what a disk's file stands on; None for a base."""
        with Vhdx(path, find=self.find_parent) as disk:
            return disk.parent_path

    def chain_below(self, path: Path) -> Sequence[Path]:
        """Return the files below one, from above."""
        below = self.parent_of(path)
        return [] if below is None else [below, *self.chain_below(below)]

    def check_chain(self, path: Path) -> None:
        """Do what Test-VHD does.

        Raises:
            VhdxError: Something is wrong.
        """
        vhdtest.check_chain(path, self.find_parent)

    def is_attached(self, path: str) -> bool:
        """Tell whether a running VM has a file."""
        running = (each for each in self.vmms.machines if each._holds)
        return any(drive.path.lower() == path.lower() for each in running for drive in each._settings.drives)

    def used_bytes(self, letter: str) -> int:
        """Return how many bytes of a drive are taken."""
        return sum(each.stat().st_blocks * 512 for each in self.roots[letter].rglob("*") if each.is_file())

    def free_bytes(self, path: str) -> int:
        """Return how many bytes of a path's drive are free."""
        letter = PureWindowsPath(path).drive.removesuffix(":").upper()
        if letter in self._limited:
            return shutil.disk_usage(self.roots[letter]).free
        return max(0, self.volumes[letter] - self.used_bytes(letter))

    # --- what tests do behind everybody's back

    def machine(self, name: str) -> Machine:
        """Return the VM of a name."""
        (found,) = (each for each in self.vmms.machines if each.name == name)
        return found

    def guest_write(self, machine: Machine, number: int, offset: int, data: bytes) -> None:
        """Write to a disk of a VM as its guest would: to the topmost file."""
        path = self.locate(machine._settings.drives[number].path)
        with Vhdx(path, writable=True, find=self.find_parent) as disk:
            disk.write(offset, data)

    def guest_read(self, machine: Machine, number: int, offset: int, length: int) -> bytes:
        """Read what a VM's disk shows."""
        with Vhdx(self.locate(machine._settings.drives[number].path), find=self.find_parent) as disk:
            return disk.read(offset, length)

    def screen(self, machine: Machine, width: int, height: int) -> bytes:
        """Return a picture of what a running VM shows; without a guest grey, and lighter towards the right."""
        if machine._guest is not None:
            return machine._guest.screen(width, height)
        return b"".join((column * 31 // width * 0x0841).to_bytes(2, "little") for column in range(width)) * height
