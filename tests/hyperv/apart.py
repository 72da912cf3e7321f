"""A host in a process of its own, which has the libraries of Kerberos: ``python -m tests.hyperv.apart DIRECTORY``.

The directory holds what it is told, in ``told.json``; what others have to know of it is in ``ready.json`` as soon as it
serves. It ends by SIGTERM.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bootpoint_worker.targets.certificate import normalised
from bootpoint_worker.targets.host import HostAccess
from tests.hyperv.cluster import Cluster
from tests.hyperv.host import Host
from tests.service.process import Server
from tests.service.realm import Member


@dataclass(frozen=True, slots=True)
class Apart:
    """A host that serves, as others see it.

    Attributes:
        name: Its DNS name.
        port: Of WinRM.
        smb_port: Of its shares.
        fingerprint: Of its certificate; None without TLS.
        root: The directory of its drive C.
    """

    name: str
    port: int
    smb_port: int
    fingerprint: str | None
    root: str

    def access(self, user: str, *, address: str | None = None, **settings: object) -> HostAccess:
        """Return how it is reached by a user's ticket."""
        given = {"winrm": "tls" if self.fingerprint else "http", "smb_port": self.smb_port, "auth": "kerberos"}
        fingerprint = normalised(self.fingerprint) if self.fingerprint else None
        return HostAccess(
            "hv1", "hyperv", address or self.name, self.port, user, fingerprint=fingerprint, settings=given | settings
        )


@contextmanager
def serving(directory: Path, member: Member, environment: Mapping[str, str], *, tls: bool = False) -> Iterator[Apart]:
    """Have a host that is a computer of a domain, and a node of a cluster.

    Args:
        directory: Where all of it is.
        member: The computer.
        environment: Of its process.
        tls: Whether WinRM is by TLS, and wants logins to be bound to it.
    """
    directory.mkdir()
    told = {"member": asdict(member) | {"keytab": str(member.keytab)}, "tls": tls}
    (directory / "told.json").write_text(json.dumps(told))
    ready = directory / "ready.json"
    words = [sys.executable, "-m", "tests.hyperv.apart", str(directory)]
    server = Server(words, log=directory / "log", environment=environment)
    server.start(ready.exists, "the host")
    try:
        yield Apart(**json.loads(ready.read_text()))
    finally:
        server.stop()


def main(directory: Path) -> None:
    """Serve until the end."""
    told = json.loads((directory / "told.json").read_text())
    said = told["member"]
    member = Member(said["name"], said["realm"], Path(said["keytab"]), tuple(said["administrators"]))
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    cluster = Cluster(directory / "shared")
    with Host(directory / "host", tls=told["tls"], cluster=cluster, member=member) as host:
        host.winrm.bound = told["tls"]
        found = Apart(
            member.name,
            host.winrm.port,
            host.samba.port,
            host.winrm.fingerprint if told["tls"] else None,
            str(host.roots["C"]),
        )
        unfinished = directory / "ready.unfinished"
        unfinished.write_text(json.dumps(asdict(found)))
        unfinished.rename(directory / "ready.json")
        ended.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
