"""Sharing a disk of a point with programs of this machine: a server on the host, and a socket here that leads to it.

::

    qemu-img, qemu ──private listening socket──► pump ──► Session.dial ──► qemu-nbd (read-only)
                                                          Session.attach ─► share.sh, which ends it

The server lives as long as the connection to its script does: whoever dies here, or loses the host, leaves none behind.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from typing import Self

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.kvm import journal, script
from bootpoint_worker.targets.kvm.place import Place
from bootpoint_worker.targets.kvm.qcow2 import layer_id
from bootpoint_worker.targets.kvm.session import Session, unreachable
from bootpoint_worker.targets.kvm.tunnel import join
from bootpoint_worker.targets.share import Share

#: Seconds within which the server must stand, or be gone.
ANSWER_TIMEOUT = 60.0

#: Connections that may wait to be taken.
BACKLOG = 8


@contextlib.contextmanager
def shared(place: Place, entry: journal.LayerEntry) -> Iterator[Share]:
    """Share one disk of a point while the block lasts; see `Target.share`."""
    session = place.session
    words = (place.directory, entry.file, layer_id(entry.file), secrets.token_hex(4))
    with session.attach(script.script("share"), *words) as connection:
        connection.settimeout(ANSWER_TIMEOUT)
        path = _answer(session, connection)
        try:
            with _Door(session=session, remote=path) as door:
                yield Share(slot=entry.slot, socket=door.path, size_bytes=entry.size_bytes)
        finally:
            # When the script has ended the server is gone for certain.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass


def _answer(session: Session, connection: socket.socket) -> str:
    said = b""
    try:
        while not said.endswith(b"\n") and (piece := connection.recv(4096)):
            said += piece
    except OSError as exc:
        raise unreachable(session.host, f"the server of a point does not start: {exc}") from exc
    text = said.decode(errors="replace").strip()
    if not text or text.startswith("error"):
        why = text.removeprefix("error ") or "its script ended"
        raise error(Code.LAYER_LOST, f"host {session.host} can't serve a boot point: {why}", host=session.host)
    return text


class _Door:
    """A listening socket on this machine, each connection to which leads to one unix socket of a host."""

    def __init__(self, *, session: Session, remote: str) -> None:
        self._session = session
        self._remote = remote
        self._directory = ""
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()

    @property
    def path(self) -> str:
        """Path of the listening socket."""
        return f"{self._directory}/s"

    def __enter__(self) -> Self:
        self._directory = tempfile.mkdtemp(prefix="bp-")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.path)
        listener.listen(BACKLOG)
        self._listener = listener
        threading.Thread(target=self._serve, args=(listener,), name="share-accept", daemon=True).start()
        return self

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:  # it was closed
                return
            threading.Thread(target=self._lead, args=(near,), name="share-dial", daemon=True).start()

    def _lead(self, near: socket.socket) -> None:
        try:
            with self._lock:  # a session is in one thread's hands at a time
                far = self._session.dial(self._remote)
        except (OSError, BootpointError):
            near.close()  # the client is told by that; the host is away
            return
        join(near, far)

    def __exit__(self, *_: object) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        shutil.rmtree(self._directory, ignore_errors=True)
