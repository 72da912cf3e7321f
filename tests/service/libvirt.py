"""libvirt for the tests: virtlogd and libvirtd started by hand, apart from the machine's own.

libvirt's directories are compiled in, so both daemons run in a mount namespace of their own in which those
directories are ours::

    <directory>/run    on  /run/libvirt        the sockets are reached from outside at <directory>/run
    <directory>/lib    on  /var/lib/libvirt
    <directory>/etc    on  /etc/libvirt
    …

So any number of test runs go on beside each other and beside a libvirtd of the machine, and none meets the
others' VMs. Everything else, storage among it, is seen at its usual place from within.

A process namespace of their own has two more uses: whoever kills its first process ends the guests too, and that
process collects the dead at once (libvirt waits until a guest's process is gone from the process table, and some
machines' init takes seconds).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.component import need
from tests.service.process import Server, run, wait_for

#: Directories that libvirt calls its own, by the name of ours that takes their place.
OWN = {
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "etc": "/etc/libvirt",
    "cache": "/var/cache/libvirt",
    "log": "/var/log/libvirt",
}

#: First ports for the displays of guests, of which each libvirtd takes a hundred: above libvirt's own, below those that
#: the kernel gives to anybody.
DISPLAYS = range(6000, 32600, 100)


def prepare(directory: Path) -> None:
    """Make the directories that take the place of libvirt's own; those that are there stay as they are."""
    for name, path in OWN.items():
        Path(path).mkdir(parents=True, exist_ok=True)
        (directory / name).mkdir(mode=0o755, exist_ok=True)
    for configuration in Path(OWN["etc"]).glob("*.conf"):
        shutil.copy(configuration, directory / "etc")
    first = secrets.choice(DISPLAYS)
    with (directory / "etc/qemu.conf").open("a") as settings:
        # A guest's own mount namespace would try to carry our mount over /dev/kvm along, and fail.
        settings.write("\nnamespaces = []\n")
        # Two libvirtd that don't know of each other would give two guests the same port of the machine.
        settings.write(f"remote_display_port_min = {first}\nremote_display_port_max = {first + 99}\n")


def apart(directory: Path, script: str) -> list[str]:
    """Return the command that runs a bash script where libvirt's directories are ours, in namespaces of its own.

    Args:
        directory: What `prepare` has made.
        script: What is run; it ends with everything that it has started.
    """
    mounts = "".join(f"mount --bind {directory}/{name} {path}\n" for name, path in OWN.items())
    if Path("/dev/kvm").exists():
        # Guests run by TCG here, so that every machine shows the same. A /dev/kvm that opens and then does not
        # work, as nested virtualisation has it, would cost seconds whenever libvirtd asks what qemu can do: it
        # asks again each time. So in its place is a device that qemu's user can't open; a device, for libvirt gives
        # each guest a /dev of its own, to which it could not move a mount over a plain file.
        closed = directory / "no-kvm"
        if not closed.exists():
            os.mknod(closed, stat.S_IFCHR, os.makedev(1, 3))
        mounts += f"mount --bind {closed} /dev/kvm\n"
    # "slave": what is mounted on the machine later, such as a test's storage, is seen within.
    namespaces = ["unshare", "--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return [*namespaces, "bash", "-c", f"set -e\n{mounts}{script}"]


class LibvirtHost:
    """A private libvirtd that runs guests by TCG (``<domain type='qemu'>``).

    Args:
        directory: Where its state goes; open to be traversed by any user, and of a short name, for the
            sockets below it must stay under 108 bytes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.socket = directory / "run/libvirt-sock"
        #: What libvirt-python and ``virsh -c`` take.
        self.uri = f"qemu+unix:///system?socket={self.socket}"
        #: An environment in which plain ``virsh`` means this libvirtd.
        self.environment = {**os.environ, "LIBVIRT_DEFAULT_URI": self.uri}
        # The pid files' usual place, /run itself, is shared with the machine's own daemons.
        run_log = "virtlogd --pid-file /run/libvirt/virtlogd.pid"
        run_daemon = "libvirtd --pid-file /run/libvirt/libvirtd.pid"
        command = apart(directory, f"{run_log} &\nwhile true; do {run_daemon} || sleep 0.2; done")
        self.server = Server(command, log=directory / "output")

    def start(self) -> None:
        """Start both daemons, and return when libvirt answers."""
        prepare(self._directory)
        self.server.start(self._answers, "libvirtd")

    def _answers(self) -> bool:
        if not self.socket.exists():
            return False
        try:
            return bool(self.virsh("version"))
        except RuntimeError:
            return False

    @property
    def first_pid(self) -> int:
        """The pid of the first process of its namespaces, by which they are entered."""
        return _children(self.server.pid)[0]

    @property
    def daemon_pid(self) -> int:
        """The pid of libvirtd (another one after a restart); 0 when there is none at this moment."""
        return next((pid for pid in _children(self.first_pid) if _name(pid) == "libvirtd"), 0)

    def restart(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """End libvirtd, by default in order, and return when it answers anew; the guests go on running."""
        before = self.daemon_pid
        os.kill(before, with_signal)
        wait_for(lambda: self.daemon_pid not in (0, before) and self._answers(), "libvirtd to come back")

    def stop(self) -> None:
        """End both daemons and every guest."""
        # The kernel ends a namespace with its first process; unshare waits until that is done.
        with contextlib.suppress(RuntimeError, IndexError):
            os.kill(_children(self.server.pid)[0], signal.SIGKILL)
        self.server.stop()

    def virsh(self, *arguments: str) -> str:
        """Run ``virsh`` on it and return what it prints.

        Raises:
            RuntimeError: It failed; the message holds its output.
        """
        return run(["virsh", "-q", *arguments], environment=self.environment)

    def wait_until_off(self, domain: str, timeout: float = 120.0) -> None:
        """Return when a domain has powered itself off."""
        wait_for(lambda: self.virsh("domstate", domain).strip() == "shut off", f"{domain} to power off", timeout)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


@pytest.fixture(scope="session")
def libvirt_host() -> Iterator[LibvirtHost]:
    """The private libvirtd. What a test defines there it names by itself, and removes."""
    need("root", "libvirt", "libvirt-python", "qemu")
    with tempfile.TemporaryDirectory(prefix="bpv-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        host = LibvirtHost(Path(directory))
        try:
            host.start()
            yield host
        finally:
            host.stop()


@pytest.fixture
def storage_directory() -> Iterator[Path]:
    """A directory of the test's own for replicas; guests run as libvirt-qemu, which can't enter ``tmp_path``."""
    with tempfile.TemporaryDirectory(prefix="bootpoint-storage-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)
