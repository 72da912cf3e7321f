"""A machine of its own for what a reader of the guide pastes.

Paths and ports of the guide stay as they are, for the shell has namespaces of its own: process, network (its loopback
interface is nobody else's), host name, and mounts::

    <directory>/machine/etc      on  /etc       a copy, without keys and clusters of the machine's own services
    <directory>/machine/root     on  /root      empty, as are /run, /srv, /var/lib and /var/log
    <directory>/libvirt/lib      on  /var/lib/libvirt, and so on: see tests.service.libvirt

What hides there and is needed all the same, libvirt's directories and the installation under test, is mounted again.
libvirtd, virtlogd and an sshd that lets root in by password run before the first block; everything ends with the shell.
"""

from __future__ import annotations

import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.service.component import need
from tests.service.libvirt import OWN, apart, prepare
from tests.service.process import run

REPOSITORY = Path(__file__).parents[2]

#: Directories that the guide's commands, and the services that they start, write to.
HIDDEN = ("/etc", "/root", "/run", "/srv", "/var/lib", "/var/log")

#: Where the reader has cloned the repository.
CLONE = "/root/bootpoint"

#: What Debian's packages make for their services in the hidden directories: owner by path.
PLACES = {
    "run/lock": "root", "run/sshd": "root", "run/postgresql": "postgres", "var/lib/postgresql": "postgres",
    "var/log/postgresql": "postgres", "var/lib/rabbitmq": "rabbitmq", "var/log/rabbitmq": "rabbitmq",
}  # fmt: skip

#: Where the machine's own services keep what is nobody else's.
FORGOTTEN = ("etc/bootpoint", "etc/postgresql/*", "etc/rabbitmq/*", "etc/ssh/ssh_host_*", "etc/ssh/sshd_config.d")

SSHD = "PermitRootLogin yes\nUsePAM no\nHostKey /etc/ssh/ssh_host_ed25519_key\n"

#: Answers what ssh asks a reader: whether that is the host's key, and root's password.
ASKPASS = '#!/bin/sh\ncase "$1" in *fingerprint*) echo yes ;; *) echo {password} ;; esac\n'

#: As after the start of a Debian machine with the packages that the guide names; the network is within.
STARTED = """
ip link set lo up
virtlogd --pid-file /run/libvirt/virtlogd.pid >/var/log/virtlogd 2>&1 &
libvirtd --pid-file /run/libvirt/libvirtd.pid >/var/log/libvirtd 2>&1 &
/usr/sbin/sshd -E /var/log/sshd
pg_createcluster 15 main -- --no-sync >/var/log/pg_createcluster 2>&1
until virsh -q version >/dev/null 2>&1; do sleep 0.1; done
"""


@dataclass(frozen=True)
class Pasted:
    """What became of the blocks.

    Attributes:
        code: Exit code of the shell, which ends at the first command that fails.
        outputs: What each block printed; fewer than blocks when one failed.
        rest: What the failing block printed, and which command failed.
    """

    code: int
    outputs: Sequence[str]
    rest: str


@dataclass(frozen=True)
class Machine:
    """The machine; see the module.

    Attributes:
        directory: Where its directories lie.
    """

    directory: Path

    def path(self, name: str) -> Path:
        """Return where one of its paths is seen from outside."""
        own = next((key for key, path in OWN.items() if Path(name).is_relative_to(path)), None)
        if own is not None:
            return self.directory / "libvirt" / own / Path(name).relative_to(OWN[own])
        return self.directory / "machine" / name.removeprefix("/")

    def make(self) -> None:
        """Make its directories."""
        (self.directory / "libvirt").mkdir()
        prepare(self.directory / "libvirt")
        self.path("/var/log/libvirt/qemu").mkdir()  # comes with the package, not with the daemon
        machine = self.directory / "machine"
        for name in HIDDEN:
            self.path(name).mkdir(parents=True)
        run(["cp", "-a", "/etc/.", str(machine / "etc")])
        for pattern in FORGOTTEN:
            for path in machine.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name, user in PLACES.items():
            (machine / name).mkdir(parents=True)
            shutil.chown(machine / name, user, user)
        (machine / "etc/hosts").write_text("127.0.0.1 localhost guide\n")
        self._make_sshd()
        clone = self.path(CLONE)
        clone.mkdir()
        (clone / "Makefile").symlink_to(REPOSITORY / "Makefile")
        (clone / ".venv").symlink_to(sys.prefix)

    def _make_sshd(self) -> None:
        password, ssh = secrets.token_hex(12), self.path("/etc/ssh")
        (ssh / "sshd_config").write_text(SSHD)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(ssh / "ssh_host_ed25519_key")])
        shadow = self.path("/etc/shadow")
        hashed = run(["openssl", "passwd", "-6", "-stdin"], text=password).strip()
        shadow.write_text(re.sub(r"(?m)^root:[^:]*", f"root:{hashed}", shadow.read_text()))
        askpass = self.path("/root/askpass")
        askpass.write_text(ASKPASS.format(password=password))
        askpass.chmod(0o700)

    def paste(self, blocks: Sequence[str], timeout: float) -> Pasted:
        """Let a shell of root's read the blocks, one after the other."""
        shell = "set -eE\ntrap 'echo \"failed: $BASH_COMMAND\"' ERR\n" + "".join(
            f"{block}\n{{ set +x; }} 2>/dev/null; echo '=== pasted'\n" for block in blocks
        )
        self.path("/root/guide.sh").write_text(f"exec 2>&1\n{STARTED}cd {CLONE}\n{shell}")
        # bash stays the first process of the namespace, and so the one that collects guests that have ended.
        script = f"{self._mounts()}\nunshare --net --uts sh -c 'hostname guide; exec bash /root/guide.sh'\nexit $?"
        done = subprocess.run(
            apart(self.directory / "libvirt", script), env=self._environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, cwd="/",
        )  # fmt: skip
        *outputs, rest = done.stdout.split("=== pasted\n")
        return Pasted(done.returncode, outputs, rest)

    def _mounts(self) -> str:
        # supermin, which makes libguestfs's VM, asks dpkg what is installed.
        kept = [*OWN.values(), "/var/lib/dpkg", str(REPOSITORY), sys.prefix, sys.base_prefix]
        lines = []
        for hidden in HIDDEN:
            own = shlex.quote(str(self.directory / "machine"))
            for path in (path for path in kept if Path(path).is_relative_to(hidden)):
                lines += [f"mkdir -p {own}{path}", f"mount --rbind {path} {own}{path}"]
            lines.append(f"mount --rbind {own}{hidden} {hidden}")
        return "\n".join(lines)

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "SSH_ASKPASS": "/root/askpass",
            "SSH_ASKPASS_REQUIRE": "force",
        }


@contextmanager
def machine() -> Iterator[Machine]:
    """Make a machine; nothing runs there yet."""
    need("root", "libvirt", "libvirt-python", "qemu", "qemu-img", "qemu-nbd", "libnbd", "pgserver")
    need("sshd", "postgresql", "rabbitmq")
    # Guests run as libvirt-qemu, which can't enter ``tmp_path``.
    with tempfile.TemporaryDirectory(prefix="bootpoint-guide-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        made = Machine(Path(name))
        made.make()
        yield made
