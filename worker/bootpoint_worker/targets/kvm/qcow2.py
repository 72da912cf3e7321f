"""Names and sizes of qcow2 layers. A layer's file name is its identity: disk name and point-disk id."""

from __future__ import annotations

import re
from uuid import UUID

from bootpoint_common.errors import Code, error
from bootpoint_common.units import SECTOR, round_up

#: What a layer's name may look like; anything else is never handed to a script.
_LAYER = re.compile(r"(?P<disk>[A-Za-z0-9_][A-Za-z0-9._+-]*)\.(?P<id>[0-9a-f]{32})\.qcow2")

#: Names of VMs, disks and tests: they become file names and words of scripts.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}")


def layer_file(disk_name: str, point_disk_id: UUID) -> str:
    """Return the name of a layer's file."""
    return f"{disk_name}.{point_disk_id.hex}.qcow2"


def layer_id(identity: str) -> str:
    """Return the id within a layer's identity: 32 hex digits, the name of its fence and of its sockets.

    Raises:
        RetryableError: ``layer_lost``: it names no layer of this kind of host.
    """
    match = _LAYER.fullmatch(identity)
    if match is None:
        raise error(Code.LAYER_LOST, f"{identity!r} names no layer", value=identity)
    return match["id"]


def disk_name(identity: str) -> str:
    """Return the disk's name within a layer's identity: what it was called when the layer was made."""
    return identity.rsplit(".", 2)[0]


def scratch_file(disk_name: str, label: str) -> str:
    """Return the name of a scratch layer's file."""
    return f"{disk_name}.scratch-{label}.qcow2"


def virtual_size(size_bytes: int) -> int:
    """Return the size of the layer for a disk: qcow2 counts in sectors, a raw file need not."""
    return round_up(size_bytes, SECTOR)


def checked_name(name: str, key: str) -> str:
    """Return a name that may become part of a path.

    Raises:
        UsageError: ``spec_invalid``.
    """
    if _NAME.fullmatch(name) is None:
        raise error(
            Code.SPEC_INVALID,
            f"{name!r} can't be a name on a KVM host: letters, digits and . _ + - are allowed, up to 100 of them",
            key=key,
            value=name,
        )
    return name
