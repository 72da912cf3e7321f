r"""Paths of a Windows host, and the administrative shares on which they lie.

``D:\vm\a.vhdx`` is ``vm\a.vhdx`` on the share ``D$``; a volume of a cluster is a folder of the system drive,
``C:\ClusterStorage\Volume1``, and so on ``C$`` of every node.
"""

from __future__ import annotations

import re

from bootpoint_common.errors import Code, error

#: A drive, and what follows. A colon further on would name a stream of NTFS.
_PATH = re.compile(r"([A-Za-z]):\\([^:]*)")


def share_of(path: str) -> tuple[str, str]:
    r"""Return the share that a path lies on, and the path below it.

    Args:
        path: An absolute path: ``D:\vm\a.vhdx``.

    Returns:
        ``D$`` and ``vm\a.vhdx``; the latter is empty for the root.

    Raises:
        FatalError: ``host_unsupported``: it lies on no volume of the host.
    """
    found = _PATH.fullmatch(path.replace("/", "\\"))
    names = found[2].split("\\") if found else []
    if found is None or any(name in (".", "..") for name in names):
        raise error(
            Code.HOST_UNSUPPORTED,
            f"{path!r} is no path on a volume of the host",
            key="path",
            value=path,
            hint=r"give an absolute path on a local volume, or on a cluster's: D:\vm, C:\ClusterStorage\Volume1\vm",
        )
    return f"{found[1].upper()}$", "\\".join(name for name in names if name)


def parent(path: str) -> str:
    """Return the folder that a path lies in."""
    return path.rstrip("\\").rpartition("\\")[0]


def join(folder: str, *names: str) -> str:
    """Return the path of something below a folder."""
    return "\\".join([folder.rstrip("\\"), *names])
