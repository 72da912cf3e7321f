"""libvirt's daemons for the demo: those of the machine where they run, else children that end with the demo."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bootpoint_common.errors import Code, error

#: Daemon -> sockets on which it, or what serves in its place, can be reached.
SOCKETS = {
    "virtlogd": ("/run/libvirt/virtlogd-sock",),
    "libvirtd": ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"),
}

#: Seconds until a daemon must answer, and must have ended.
PATIENCE = 90.0

_INTERVAL = 0.05

#: Runs a program for which QEMU can't open /dev/kvm: a device in its place is closed. One that opens and then doesn't
#: work, as with some nested virtualisation, costs libvirtd 10 s and more whenever it asks what QEMU can do, and it asks
#: again each time. It has to be a device that stays: libvirt gives each guest a /dev of its own and moves mounts there.
_HIDE_KVM = """
closed=$0
if [ -c /dev/kvm ] && [ "$(stat -c %a /dev/kvm)" != 0 ]; then
  [ -c "$closed" ] || mknod -m 0 "$closed" c 1 3
  mount --bind "$closed" /dev/kvm
fi
exec "$@"
"""


@contextmanager
def daemons(log: Path, closed: Path | None) -> Iterator[tuple[str, ...]]:
    """Have libvirt's daemons running while the context lasts.

    What runs, or what systemd starts at the first connection, is used and left as it is. Call it in the main thread:
    the kernel ends the others with the thread that started them.

    Args:
        log: File that gets their output.
        closed: Where guests are emulated, a device to be made that hides /dev/kvm; None where they need it.

    Yields:
        The names of those that were started, and end with the context.

    Raises:
        FatalError: ``host_unsupported``: one is missing, or doesn't start.
    """
    with ExitStack() as stack:
        log.write_bytes(b"")
        prefix = [] if closed is None or not _may_hide(closed) else _hiding(closed)
        started = []
        for name, sockets in SOCKETS.items():
            if not any(_answers(path) for path in sockets):
                stack.enter_context(_daemon(name, sockets, log, prefix))
                started.append(name)
        yield tuple(started)


@contextmanager
def _daemon(name: str, sockets: tuple[str, ...], log: Path, prefix: list[str]) -> Iterator[None]:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    program = shutil.which(name, path=path)
    if program is None:
        raise error(Code.HOST_UNSUPPORTED, f"{name} is missing", hint="apt-get install libvirt-daemon-system")
    with log.open("ab") as output:
        child = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "--", *prefix, program],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Ctrl-C is for the demo, which still has VMs to end; then it ends its daemons.
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not any(_answers(socket_path) for socket_path in sockets):
            if child.poll() is not None or time.monotonic() > deadline:
                raise error(Code.HOST_UNSUPPORTED, f"{name} does not start", value=name, hint=f"read the end of {log}")
            time.sleep(_INTERVAL)
        yield
    finally:
        _end(child)


def _hiding(closed: Path) -> list[str]:
    # What is mounted on the machine later is seen within.
    return ["unshare", "--mount", "--propagation", "slave", "--", "sh", "-ec", _HIDE_KVM, str(closed)]


def _may_hide(closed: Path) -> bool:
    """Say whether this machine lets root have devices and mounts of its own; some containers don't."""
    return subprocess.run([*_hiding(closed), "true"], capture_output=True).returncode == 0


def _end(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _answers(path: str) -> bool:
    """Say whether somebody accepts connections; a socket's file alone may be a dead daemon's."""
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
        client.connect(path)
        return True
    return False
