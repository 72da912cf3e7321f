"""What this machine needs to reach the disks of ESXi: nbdkit, its vddk plugin, and VMware's disk library (VDDK).

VMware lets nobody but its customers pass the library on, so the operator downloads it; here is said what is missing.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bootpoint_worker.targets.host import HostAccess

#: Setting: the vddk plugin, by its name where it is installed, or as the path of its file.
PLUGIN_SETTING = "vddk_plugin"

#: Setting: the directory that holds the library's ``lib64``; an open replacement of the library may be there.
LIBDIR_SETTING = "vddk_libdir"

#: Where VMware's download is put by custom.
LIBDIR = "/opt/vmware-vix-disklib-distrib"

#: Seconds for nbdkit to load the library and say so; it is some 100 MiB on a disk that may be busy.
PROBE_TIMEOUT = 60.0

#: Oldest library: the first that can flush. Source: nbdkit-vddk-plugin(1), "Supported versions of VDDK".
OLDEST = (6, 0)

#: Releases of vSphere and of the library, which are named alike. A library serves hosts of its own release, of the two
#: before and of the one after it. Source: VDDK release notes, "Compatibility notices".
RELEASES = ((5, 1), (5, 5), (6, 0), (6, 5), (6, 7), (7, 0), (8, 0), (9, 0))

#: Way out where the library is missing.
_DOWNLOAD = (
    "download VMware's Virtual Disk Development Kit (VDDK) for Linux from developer.broadcom.com, and unpack it there;"
    " or name its directory with `bootpoint host set {name} --vddk-libdir DIR`"
)

#: Way out where the plugin is missing.
_INSTALL = (
    "install nbdkit-plugin-vddk (Debian 13 and later, contrib; Ubuntu) or nbdkit-vddk-plugin (Red Hat), or name its"
    " file with `bootpoint host set {name} --vddk-plugin FILE`"
)


@dataclass(frozen=True, slots=True)
class Means:
    """What was found.

    Attributes:
        description: Versions, for people; None where it can't be used.
        problems: What is missing, each a sentence with its remedy.
        hints: What may not work.
    """

    description: str | None
    problems: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()


def find_means(access: HostAccess, vsphere: str) -> Means:
    """Ask nbdkit for its plugin and the library; nothing is opened.

    Args:
        access: The host, whose settings may name plugin and library.
        vsphere: Version of host or vCenter: ``8.0.3``.
    """
    libdir = str(access.settings.get(LIBDIR_SETTING) or LIBDIR)
    plugin = str(access.settings.get(PLUGIN_SETTING) or "vddk")
    try:
        asked = subprocess.run(
            ["nbdkit", "--dump-plugin", plugin, f"libdir={libdir}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT,
        )
    except FileNotFoundError:
        return Means(None, ("nbdkit is missing on the worker's machine: install nbdkit",))
    except subprocess.TimeoutExpired:
        return Means(None, (f"nbdkit did not load VMware's disk library within {PROBE_TIMEOUT:.0f} s: try again",))
    said = dict(line.partition("=")[::2] for line in asked.stdout.splitlines())
    if asked.returncode != 0 or "vddk_library_version" not in said:
        return Means(None, (_refusal(asked.stderr, access.name, plugin, libdir),))
    return judged(said, vsphere)


def _refusal(said: str, host: str, plugin: str, libdir: str) -> str:
    """Return what is missing, by what nbdkit said; without a library its plugin loads, and says nothing."""
    errors = "; ".join(line.partition("error: ")[2] for line in said.splitlines() if "error: " in line)
    if "cannot open plugin" in errors:
        return f"nbdkit has no plugin {plugin} ({errors}): {_INSTALL.format(name=host)}"
    why = errors or "none is there"
    return f"nbdkit finds no disk library of VMware in {libdir} ({why}): {_DOWNLOAD.format(name=host)}"


def judged(said: dict[str, str], vsphere: str) -> Means:
    """Return what a library is good for.

    Args:
        said: What ``nbdkit --dump-plugin`` prints.
        vsphere: Version of host or vCenter.
    """
    library = _library_version(said)
    shown = ".".join(str(part) for part in library)
    description = f"nbdkit-vddk-plugin {said.get('version', 'unknown')}, VDDK {shown}"
    if library < OLDEST:
        text = f"VDDK {shown} can't flush what it has written: install VDDK {OLDEST[0]}.{OLDEST[1]} or later"
        return Means(description, (text,))
    ours, theirs = _release(library), _release(_numbers(vsphere))
    if ours - 2 <= theirs <= ours + 1:
        return Means(description)
    text = f"VMware does not support VDDK {shown} with vSphere {vsphere}: where disks can't be opened, install one of a"
    return Means(description, hints=(f"{text} version near the host's",))


def _library_version(said: dict[str, str]) -> tuple[int, ...]:
    """Return the version of the library: of its file's name where that tells it (``libvixDiskLib.so.8.0.3``)."""
    name = Path(said.get("vddk_dll", "")).resolve().name
    return max(_numbers(name.partition(".so.")[2]), _numbers(said["vddk_library_version"]), key=len)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _release(version: tuple[int, ...]) -> int:
    """Return the place in `RELEASES` of a version's release: the newest that isn't newer than it."""
    # Of a major number alone the newest release is meant.
    wanted = (*version, 99)[:2]
    return max((place for place, release in enumerate(RELEASES) if release <= wanted), default=0)
