"""Chains of VHDX files as disks for programs that speak NBD: nbdkit with its Python plugin, which runs `nbdplugin`.

::

    qemu, libnbd ──unix socket──► nbdkit (python plugin) ──► `Chain` or `VhdxWriter` ──► local files, or SMB 3

Each connection opens the files anew. Sources: nbdkit-python-plugin(3), nbdkit(1).
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.smb import SmbAccess, SmbFiles
from bootpoint_worker.targets import nbdkit
from bootpoint_worker.targets.share import Share
from bootpoint_worker.vhdx.chain import Chain
from bootpoint_worker.vhdx.file import LocalFile, RandomAccess
from bootpoint_worker.vhdx.writer import VhdxWriter

#: The plugin's text, which nbdkit runs.
PLUGIN = Path(__file__).with_name("nbdplugin.py")

#: How Python ends the report of an error of ours.
_RAISED = re.compile(r"^ ?bootpoint_common\.errors\.\w+: (.+)$", re.MULTILINE)

#: Seconds within which the files must be open: the plugin logs in to the host first.
OPEN_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A chain that is to be seen as a disk.

    Attributes:
        files: Paths of the leaf, then of each one's parent, to the one that stands alone.
        access: How the host that has them is reached; None for files of this machine.
        writable: Whether the leaf may be changed; it has no child then, and one connection at a time.
    """

    files: tuple[str, ...]
    access: SmbAccess | None = None
    writable: bool = False

    def host(self) -> SmbFiles | None:
        """Return the host that has the files; nothing is sent before the first use."""
        return SmbFiles(self.access) if self.access is not None else None

    def open(self, host: SmbFiles | None, *, read_only: bool = False) -> Chain:
        """Open the files.

        Args:
            host: What `host` has returned.
            read_only: The leaf is only read, whatever may be done.

        Raises:
            BootpointError: See `Chain` and `RandomAccess`.
        """
        writable = self.writable and not read_only
        opened: list[RandomAccess] = []
        try:
            for number, path in enumerate(self.files):
                leaf = writable and number == 0
                opened.append(host.open(path, writable=leaf) if host else LocalFile(Path(path), writable=leaf))
        except BaseException:
            for file in opened:
                file.close()
            raise
        return Chain(opened)

    def write(self, host: SmbFiles | None) -> VhdxWriter:
        """Open the files to change the leaf; see `open`.

        Raises:
            BootpointError: See `VhdxWriter`.
        """
        chain = self.open(host)
        try:
            return VhdxWriter(chain)
        except BaseException:
            chain.close()
            raise


class Server(nbdkit.Server):
    """A running nbdkit that shows a chain."""

    def said(self) -> str:
        """Return the error that the plugin raised, which nbdkit logs with where it came from; else nbdkit's own."""
        raised: list[str] = _RAISED.findall((self.directory / "log").read_text(errors="replace"))
        return raised[-1] if raised else super().said()

    def explain(self, said: str, what: str) -> BootpointError:
        """Return what the plugin said as an error of ours: its own, when it raised one."""
        code = next((code for code in Code if said.startswith(f"{code}: ")), None)
        if code is None and "python" in said and ("cannot open plugin" in said or "No module" in said):
            return _missing(self.host, said)
        said = said.removeprefix(f"{code}: ")
        return error(code or Code.TARGET_WRITE_ERROR, f"host {self.host} {what}: {said}", host=self.host)


def serve(host: str, view: View, *, lasting: bool = False) -> Server:
    """Start a server of a chain; it opens the files with each connection.

    Args:
        host: Name of the host, for messages.
        view: The chain.
        lasting: It serves several connections until it is ended, or the calling thread ends.

    Raises:
        FatalError: ``host_unsupported``: there is no nbdkit.
    """
    directory = Path(tempfile.mkdtemp(prefix="bootpoint-vhdx-"))
    # The plugin has an interpreter of its own, of the distribution's Python: it has to find what we are made of, to see
    # nothing of a user's, and to leave nothing among our files.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment |= {"PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    with nbdkit.secret(msgspec.json.encode(view).decode()) as secret:
        words = ["--exit-with-parent", *([] if view.writable else ["--readonly"])]
        words += ["python", str(PLUGIN), f"view={secret}"]
        process = nbdkit.spawn(
            words,
            directory,
            secret,
            lasting=lasting,
            missing=_missing(host, "this worker has no nbdkit"),
            environment=environment,
        )
        server = Server(host, process, directory)
        try:
            server.wait()
        except BaseException:
            process.terminate()
            server.end()
            raise
    return server


@contextlib.contextmanager
def shared(host: str, view: View, slot: str) -> Iterator[Share]:
    """Share a chain with programs of this machine while a block lasts.

    Args:
        host: Name of the host, for messages.
        view: The chain.
        slot: Which disk of a replica it is.

    Raises:
        BootpointError: The files can't be opened; see `View.open`.
    """
    server = serve(host, view, lasting=True)
    try:
        # The first connection tells whether the files can be opened.
        client = nbdkit.connected(server, timeout=OPEN_TIMEOUT)
        size = client.handle.get_size()
        client.close()
        yield Share(slot=slot, socket=str(server.socket), size_bytes=size)
    finally:
        server.process.terminate()
        server.end()


def _missing(host: str, said: str) -> BootpointError:
    return error(
        Code.HOST_UNSUPPORTED,
        f"{said}: by nbdkit's Python plugin programs see disks of Hyper-V",
        hint="install nbdkit and nbdkit-plugin-python on the worker's machine: docs/hyperv.md",
        host=host,
    )
