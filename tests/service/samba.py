"""Debian's smbd for the tests: a Windows host's administrative shares on directories of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.service.component import need
from tests.service.process import Server, free_port, listens, run
from tests.service.realm import Member

#: As a Windows server is by default since 2012: SMB 3, and every packet signed. Names of either case find a file, locks
#: and share modes are smbd's own, and nothing of it is outside its directory.
CONFIGURATION = """
[global]
workgroup = WORKGROUP
netbios name = {name}
server role = standalone server
interfaces = {address}/8
bind interfaces only = yes
smb ports = {port}
disable netbios = yes
server signing = mandatory
server min protocol = SMB3_00
server smb encrypt = {encrypt}
map to guest = never
restrict anonymous = 2
passdb backend = tdbsam
username map = {directory}/users
private dir = {directory}/private
lock directory = {directory}/lock
state directory = {directory}/state
cache directory = {directory}/cache
pid directory = {directory}/pid
ncalrpc dir = {directory}/ncalrpc
log level = 1
load printers = no
disable spoolss = yes
dns proxy = no
kernel oplocks = no
store dos attributes = no
map archive = no
{member}
include = {directory}/shares
"""

#: Of a computer of a domain: its keys open the tickets that users log in with.
MEMBER = """
realm = {realm}
kerberos method = dedicated keytab
dedicated keytab file = {keytab}
"""

#: One share, whose files are root's whoever writes them, as an administrator's are on Windows.
SHARE = """
[{name}]
path = {path}
read only = no
admin users = root
available = {available}
invalid users = {refused}
"""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file that a client has open.

    Attributes:
        path: Where it is here.
        session: The process that serves the client.
        file_id: Of the open file.
    """

    path: Path
    session: int
    file_id: int


class SambaServer:
    """An smbd with shares that one user may enter, by `username` and `password`, and the domain doesn't matter.

    Args:
        directory: Where its configuration, its state and its log go.
        shares: Directory of each share, by its name (``D$``).
        address: Of this machine, where it listens.
        own: A share that only the tests know: it is neither refused nor taken away.
        encrypt: Whether it refuses sessions that aren't encrypted.
        name: Its NetBIOS name.
        member: The computer of a domain that it is: tickets of its administrators let in as that user, too.
    """

    def __init__(
        self,
        directory: Path,
        shares: Mapping[str, Path],
        *,
        address: str = "127.0.0.1",
        own: str = "",
        encrypt: bool = False,
        name: str = "HV1",
        member: Member | None = None,
    ) -> None:
        self._directory = directory
        self._gone: set[str] = set()
        self._refused = False
        self.shares = dict(shares)
        self._own = own
        self.address = address
        self.port = free_port()
        self.encrypt = encrypt
        self.name = name
        self.member = member
        self.username = "Administrator"
        self.password = secrets.token_hex(12)
        self.configuration = directory / "smb.conf"
        self.server = Server(
            ["smbd", "--foreground", "--debug-stdout", f"--configfile={self.configuration}"], log=directory / "log"
        )

    def _domain(self) -> str:
        """Return the settings of a computer of a domain."""
        return MEMBER.format(realm=self.member.realm, keytab=self.member.keytab) if self.member else ""

    def create(self) -> None:
        """Make its directories, its configuration and its user."""
        for each in ("private", "lock", "state", "cache", "pid", "ncalrpc"):
            (self._directory / each).mkdir(exist_ok=True)
        others = [f"WORKGROUP\\{user}" for user in self.member.administrators] if self.member else []
        (self._directory / "users").write_text(f"root = {' '.join([self.username, *others])}\n")
        self._write_shares()
        settings = CONFIGURATION.format(
            directory=self._directory,
            address=self.address,
            port=self.port,
            name=self.name,
            encrypt="required" if self.encrypt else "default",
            member=self._domain(),
        )
        self.configuration.write_text(settings)
        self.set_password(self.password)

    def _write_shares(self) -> None:
        sections = [self._section(name, path) for name, path in self.shares.items()]
        (self._directory / "shares").write_text("".join(sections))

    def _section(self, name: str, path: Path) -> str:
        refused = "root" if self._refused and name != self._own else ""
        return SHARE.format(name=name, path=path, available="no" if name in self._gone else "yes", refused=refused)

    def set_password(self, password: str) -> None:
        """Give the user another password, which new sessions need."""
        self.password = password
        words = ["smbpasswd", "-c", str(self.configuration), "-s", "-a", "root"]
        run(words, text=f"{password}\n{password}\n")

    def start(self) -> None:
        """Start it, and return when it accepts connections."""
        self.server.start(lambda: listens(self.port, self.address), "smbd")

    def stop(self) -> None:
        """End it with all its sessions; may be called twice."""
        if self.server.alive:
            group = self.server.pid
            self.server.stop()
            _kill(group)

    def cut(self) -> None:
        """Let it be gone as by a power cut (SIGKILL): every session ends at once; `start` brings it back."""
        _kill(self.server.pid)
        self.server.kill()

    def remove_share(self, name: str) -> None:
        """Take a share away, from whoever uses it too."""
        self._gone.add(name)
        self._reload()
        self.control("close-share", name)

    def return_share(self, name: str) -> None:
        """Give a share back that was taken away."""
        self._gone.discard(name)
        self._reload()

    def refuse(self, *, refused: bool = True) -> None:
        """Let the user log in, but enter no share: as a local administrator who is filtered by UAC."""
        self._refused = refused
        self._reload()
        for name in self.shares:
            if name != self._own:
                self.control("close-share", name)

    def _reload(self) -> None:
        self._write_shares()
        self.control("reload-config")

    def open_files(self) -> list[OpenFile]:
        """Return the files that clients have open, but those of the tests' own share (smbstatus(1))."""
        told = run(["smbstatus", f"--configfile={self.configuration}", "--locks", "--json"])
        found = []
        for entry in json.loads(told[told.index("{") :]).get("open_files", {}).values():
            path = Path(entry["service_path"], entry["filename"])
            own = self._own and entry["service_path"] == str(self.shares[self._own])
            opens = () if own or not path.is_file() else entry["opens"].values()
            found += [OpenFile(path, int(each["server_id"]["pid"]), int(each["share_file_id"])) for each in opens]
        return found

    def end_session(self, session: int) -> None:
        """Cut a client's session, with all its open files."""
        if any(each.session == session for each in self.open_files()):
            os.kill(session, signal.SIGKILL)

    def control(self, *words: str) -> None:
        """Send a message to smbd and all its sessions (smbcontrol(1))."""
        run(["smbcontrol", f"--configfile={self.configuration}", "all", *words])


def _kill(group: int) -> None:
    """Kill smbd and its sessions: it leads a process group, and each session is a process of it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


@pytest.fixture(scope="session")
def samba_server() -> Iterator[SambaServer]:
    """An smbd with the shares ``C$`` and ``D$``. A test that stops it or takes its shares must put that right."""
    need("root", "samba")
    with tempfile.TemporaryDirectory(prefix="bootpoint-samba-") as name:
        directory = Path(name)
        shares = {f"{letter}$": directory / letter for letter in "CD"}
        for path in shares.values():
            path.mkdir()
        server = SambaServer(directory, shares)
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop()
