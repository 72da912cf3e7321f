"""Debian packages of the checkout, and a bare Debian that installs them.

The Debian holds the essential packages, apt, and what a package says it depends on: nothing that it forgot to say.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bootpoint_ops.guest_tree import SUITE, mirror, run_tool
from tests.service.linux_tree import kept

REPOSITORY = Path(__file__).parents[2]

#: Longest build or installation, in seconds.
PATIENCE = 600.0

#: What the namespaces of a command in the tree see of this machine.
_MOUNTS = """
mount -t proc proc {root}/proc; mount --rbind /sys {root}/sys; mount --rbind /dev {root}/dev
mount -t tmpfs -o mode=755 run {root}/run; mount --bind /etc/resolv.conf {root}/etc/resolv.conf
"""


def build(directory: Path, name: str) -> Path:
    """Build a package as an administrator does, and return its file."""
    command = [str(REPOSITORY / "ops/package/build"), str(directory), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.splitlines()[-1])


def field(package: Path, name: str) -> str:
    """Return a field of a package's control file."""
    return run_tool(["dpkg-deb", "--field", str(package), name]).stdout.strip()


def dependencies(package: Path) -> list[str]:
    """Return the names of what a package depends on."""
    return sorted({re.split(r"[ (|]", each.strip())[0] for each in field(package, "Depends").split(",")})


@dataclass(frozen=True)
class Debian:
    """A tree of one's own.

    Attributes:
        root: Where it lies.
    """

    root: Path

    def words(self, *words: str) -> list[str]:
        """Return the call of a command in the tree, in namespaces that end with it."""
        script = _MOUNTS.format(root=shlex.quote(str(self.root)))
        script += f"exec chroot {shlex.quote(str(self.root))} {shlex.join(words)}"
        return ["unshare", "--mount", "--propagation", "slave", "sh", "-ec", script]

    def run(self, *words: str, text: str | None = None, variables: Mapping[str, str] | None = None) -> str:
        """Run a command in the tree to its end, and return what it prints; it must succeed."""
        done = subprocess.run(
            self.words(*words), input=text, env={**self.environment, **(variables or {})}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{words} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    @property
    def environment(self) -> Mapping[str, str]:
        """What a root's shell there has."""
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {"PATH": path, "HOME": "/root", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}

    def apt(self, *words: str) -> str:
        """Let apt do something."""
        return self.run("apt-get", "-q", "-y", "--no-install-recommends", *words)

    def files(self) -> set[str]:
        """Return all paths, but for what apt and dpkg note of themselves."""
        own = ("var/lib/dpkg", "var/lib/apt", "var/cache", "var/log", "root/packages", "tmp", "dev", "proc", "sys")
        found = set()
        for path, folders, names in os.walk(self.root):
            at = os.path.relpath(path, self.root)
            folders[:] = [name for name in folders if os.path.normpath(f"{at}/{name}") not in own]
            found |= {os.path.normpath(f"{at}/{name}") for name in [*folders, *names]}
        return found


def debian(package: Path, into: Path) -> Debian:
    """Make a Debian that could install a package; what it needs of Debian's is there, and the package's file."""
    needed = dependencies(package)
    cached = kept("package", (SUITE, needed), lambda disk: _make(disk, needed))
    into.mkdir()
    run_tool(["tar", "-xf", str(cached), "-C", str(into)])
    (into / "root/packages").mkdir()
    shutil.copy(package, into / "root/packages")
    return Debian(into)


def _make(archive: Path, needed: list[str]) -> None:
    unfinished = archive.with_suffix(".tar")
    options = ["--mode=root", "--variant=apt", "--aptopt=Apt::Install-Recommends false", "--aptopt=Acquire::Retries 3"]
    run_tool(["mmdebstrap", *options, f"--include={','.join(needed)}", SUITE, str(unfinished), mirror()])
    unfinished.rename(archive)
