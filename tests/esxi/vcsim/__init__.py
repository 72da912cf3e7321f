"""vcsim, VMware's simulator of ESXi and vCenter: built of Debian's library, kept in the cache, started for a test.

What it has and lacks against a real host: it stores nearly everything and enforces little. A disk is one file, whatever
snapshots there are; disk.go lends it to the stand-in of VMware's library.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bootpoint_ops.guest_tree import cache_directory
from bootpoint_worker.targets.certificate import fetch_fingerprint
from bootpoint_worker.targets.host import HostAccess
from tests.service.component import need
from tests.service.process import Server, free_port, listens

#: The program's source.
SOURCES = sorted(Path(__file__).parent.glob("*.go"))

#: Where Debian puts Go's libraries.
LIBRARIES = "/usr/share/gocode"

#: Seconds for a build of everything that the program stands on, on a loaded machine.
BUILD_PATIENCE = 900.0

#: The only account of a started vcsim, and its password.
USER, PASSWORD = "root", "correct horse"


def built() -> Path:
    """Return the program; it is built where the cache has none of this source and these libraries."""
    need("vcsim")
    listed = subprocess.run(
        ["dpkg-query", "-W", "golang-go", "golang-github-vmware-govmomi-dev"], capture_output=True, check=True
    )
    texts = (source.read_bytes() for source in SOURCES)
    key = hashlib.sha256(b"".join((*texts, listed.stdout))).hexdigest()[:12]
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    program = cache / f"vcsim-{key}"
    with (cache / "vcsim.lock").open("w") as lock:
        # Test processes that begin together build it once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _build(program, cache / "vcsim-build")
    return program


def _build(program: Path, cache: Path) -> None:
    draft = program.with_suffix(".draft")
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": LIBRARIES, "GOCACHE": str(cache), "GOFLAGS": ""}
    command = ["go", "build", "-o", str(draft), *map(str, SOURCES)]
    subprocess.run(command, env=environment, check=True, timeout=BUILD_PATIENCE)
    draft.rename(program)


@dataclass(frozen=True, slots=True)
class Vcsim:
    """A running vcsim.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        server: The process.
        files: Where its datastores lie.
    """

    port: int
    server: Server
    files: Path

    def access(self, *, name: str = "esx1", password: str | None = PASSWORD, **settings: object) -> HostAccess:
        """Return how it is reached, with the certificate that it shows now."""
        legacy = bool(settings.get("legacy_tls"))
        return HostAccess(
            name=name,
            kind="esxi",
            address="127.0.0.1",
            port=self.port,
            user=USER,
            password=password,
            fingerprint=fetch_fingerprint("127.0.0.1", self.port, legacy=legacy),
            settings=settings,
        )


@contextmanager
def vcsim(directory: Path, *flags: str) -> Iterator[Vcsim]:
    """Run a vcsim of its own while a block lasts.

    Args:
        directory: For its log and its datastores.
        flags: See main.go: ``-vcenter``, ``-edition=esxBasic``, …
    """
    port = free_port()
    command = [str(built()), f"-listen=127.0.0.1:{port}", f"-user={USER}", f"-password={PASSWORD}", *flags]
    files = directory / f"vcsim-{port}"
    files.mkdir()
    server = Server(command, log=directory / f"vcsim-{port}.log", environment={**os.environ, "TMPDIR": str(files)})
    server.start(lambda: listens(port), "vcsim")
    try:
        yield Vcsim(port, server, files)
    finally:
        server.stop()
