"""nbdkit's vddk plugin, as Debian's next release has it, and the stand-in of VMware's library that it loads.

Debian 12 leaves the plugin out; the next release has it in contrib, for it is of no use without VMware's library. It
runs with Debian 12's nbdkit, for nbdkit's interface of plugins is kept stable (nbdkit-plugin(3)).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bootpoint_ops.guest_tree import SUITE, mirror, run_tool
from tests.service.cached import cached
from tests.service.process import Server

#: The release after Debian 12.
NEXT = "trixie"

#: The package.
PACKAGE = "nbdkit-plugin-vddk"

#: Where the library's source is, and the name of what is made of it: 8 is the major version of VMware's newest.
SOURCE, LIBRARY = Path(__file__).parents[1] / "esxi/vddk", "lib64/libvixDiskLib.so.8"


@dataclass(frozen=True, slots=True)
class Vddk:
    """What nbdkit needs for the disks of the stand-in.

    Attributes:
        plugin: The plugin's file.
        libdir: The value of its parameter ``libdir``.
    """

    plugin: Path
    libdir: Path


def vddk() -> Vddk:
    """Return plugin and library, fetched and made now when they aren't in the cache.

    Raises:
        BootpointError: ``host_unsupported`` when Debian's package can't be had, or the compiler is missing.
    """
    return Vddk(cached(f"vddk-plugin-{NEXT}", _fetch) / "nbdkit-vddk-plugin.so", library())


def library() -> Path:
    """Return the directory of the library, made now when it isn't in the cache."""
    sources = b"".join(path.read_bytes() for path in sorted(SOURCE.glob("*.[ch]")))
    digest = hashlib.sha256(sources).hexdigest()[:12]
    return cached(f"vddk-library-{digest}", _compile)


def _compile(directory: Path) -> None:
    library = directory / LIBRARY
    library.parent.mkdir()
    sources = [str(path) for path in sorted(SOURCE.glob("*.c"))]
    libraries = ["-lnbd", "-lssl", "-lcrypto"]
    run_tool(["clang", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), *sources, *libraries])


def _fetch(directory: Path) -> None:
    """Get the package past the machine's own lists, which stay as they are."""
    work = directory / "work"
    (work / "lists/partial").mkdir(parents=True)
    (work / "archives/partial").mkdir(parents=True)
    source = mirror().replace(f" {SUITE} main", f" {NEXT} main contrib")
    (work / "sources.list").write_text(f"{source}\n")
    options = {
        "Dir::Etc::SourceList": work / "sources.list", "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": work / "lists",
        "Dir::Cache::Archives": work / "archives", "Dir::Cache::PkgCache": "", "Dir::Cache::SrcPkgCache": "",
        "Dir::Etc::Preferences": "-", "Dir::Etc::PreferencesParts": "-", "Acquire::Retries": 3,
        "Acquire::Languages": "none", "APT::Sandbox::User": "root",
    }  # fmt: skip
    apt = ["apt-get", "-q", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    run_tool([*apt, "update"])
    run_tool(["sh", "-c", 'cd "$0" && exec "$@"', str(work), *apt, "download", f"{PACKAGE}/{NEXT}"])
    (package,) = work.glob("*.deb")
    run_tool(["dpkg-deb", "-x", str(package), str(work / "tree")])
    (plugin,) = (work / "tree").rglob("nbdkit-vddk-plugin.so")
    shutil.copy(plugin, directory)
    shutil.rmtree(work)


@contextmanager
def serving(vddk: Vddk, directory: Path, **parameters: str) -> Iterator[Server]:
    """Run nbdkit with the plugin, at ``disk.sock`` in a directory, with its log in ``nbdkit.log``.

    Args:
        vddk: What it loads.
        directory: Where socket and log are.
        parameters: The plugin's; ``password`` goes to it by a file.
    """
    password = directory / "password"
    password.write_text(parameters.pop("password"))
    words = [f"{name}={value}" for name, value in parameters.items() if name != "readonly"]
    # nbdkit writes its pid file when it takes connections (nbdkit(1), --pidfile).
    ready = directory / "nbdkit.pid"
    command = ["nbdkit", "--foreground", f"--unix={directory / 'disk.sock'}", f"--pidfile={ready}"]
    command += ["--filter=blocksize"]
    command += ["--readonly"] if "readonly" in parameters else []
    command += [str(vddk.plugin), "minblock=512", "maxdata=2M", f"libdir={vddk.libdir}", f"password=+{password}"]
    server = Server([*command, *words], log=directory / "nbdkit.log")
    for file in (ready, directory / "disk.sock"):
        file.unlink(missing_ok=True)
    server.start(ready.exists, "nbdkit")
    try:
        yield server
    finally:
        server.stop()
