"""Joining two connections, so that what runs here can speak to a socket on the host.

::

    libnbd ──socketpair──► pump ──► exec channel "nc -U PATH" ──SSH──► qemu-nbd
    libvirt ──private listening socket──► pump ──► Session.dial ──────► libvirtd
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
from typing import Protocol

from bootpoint_worker.targets.kvm.session import Session

#: Bytes moved at once; large, since each move costs a switch of threads.
PIECE = 256 * 1024


class Stream(Protocol):
    """What can be pumped: a socket, or an SSH channel."""

    def recv(self, size: int, /) -> bytes:
        """Return what has come, empty at the end."""

    def sendall(self, data: bytes, /) -> None:
        """Send all of it."""

    def shutdown(self, how: int, /) -> None:
        """End one direction."""

    def close(self) -> None:
        """End both."""


def pump(source: Stream, sink: Stream) -> None:
    """Move bytes until the source ends, then end that direction of the sink; either may break at any time."""
    try:
        while piece := source.recv(PIECE):
            sink.sendall(piece)
    except (OSError, EOFError):
        # A broken connection ends both directions: the other thread must not wait for bytes that never come.
        with contextlib.suppress(OSError, EOFError):
            source.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError, EOFError):
        sink.shutdown(socket.SHUT_WR)


def join(one: Stream, other: Stream) -> None:
    """Pump in both directions, in threads that end with the connections, and close both afterwards."""

    def first() -> None:
        back = threading.Thread(target=pump, args=(other, one), name="tunnel-back", daemon=True)
        back.start()
        pump(one, other)
        back.join()
        for stream in (one, other):
            with contextlib.suppress(OSError, EOFError):
                stream.close()

    threading.Thread(target=first, name="tunnel", daemon=True).start()


class Tunnel:
    """A private listening socket on this machine that leads to one unix socket of a host; one connection each.

    Args:
        session: The way to the host.
        remote: Path of the socket there.
    """

    def __init__(self, *, session: Session, remote: str) -> None:
        self._session = session
        self._remote = remote
        self._ends: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._directory = ""

    def open(self) -> str:
        """Connect to the host, start to listen, and return the listening socket's path.

        Raises:
            OSError: Nobody listens there.
            BootpointError: What `Session.dial` says.
        """
        # Here and not in the thread, so that the caller is told why a host can't be reached.
        far = self._session.dial(self._remote)
        self._ends.append(far)
        self._directory = tempfile.mkdtemp(prefix="bp-")
        path = f"{self._directory}/s"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(1)
        threading.Thread(target=self._serve, args=(self._listener, far), name="tunnel-accept", daemon=True).start()
        return path

    def _serve(self, listener: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            near, _ = listener.accept()
            self._ends.append(near)
            join(near, far)

    def close(self) -> None:
        """End the connection and stop listening; whoever waits on it gets an error; may be called twice."""
        for end in (self._listener, *self._ends):
            if end is None:
                continue
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._listener = None
        self._ends.clear()
        shutil.rmtree(self._directory, ignore_errors=True)
