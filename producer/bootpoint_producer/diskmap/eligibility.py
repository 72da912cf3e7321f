"""Why a disk can't be a source: the reasons of ``disk list``, in the order in which they are looked for."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from bootpoint_producer.diskmap.device import Device
from bootpoint_producer.diskmap.layout import EXTENDED, Layout

#: Sizes of a logical sector that a standby's disk can have; which buses of a host can do 4,096 the preflight knows.
SECTOR_SIZES = (512, 4096)

#: Words of the kernel for a disk that doesn't answer: SCSI's (Documentation/scsi) and NVMe's.
_DEAD = ("offline", "transport-offline", "deleting", "dead", "deleting (no IO)")

#: Types of the partitions of a dynamic disk: of an MBR; of a GPT (metadata and data), as Microsoft assigned them.
_LDM = ("42", "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "af9b60a0-1431-4f62-bc68-3311714a69ad")
#: Type of the partition that a member of a Storage Spaces pool has.
_STORAGE_SPACES = "e75caf8f-f680-4cee-afa3-b001e56efc2d"
#: Partitions that hold nothing: they only hold others, or are kept free for Windows (Microsoft Reserved).
_EMPTY = (*EXTENDED, "e3c9e316-0b5c-4db8-817d-f92df00215ae")


class Reason(StrEnum):
    """Why a disk can't be protected."""

    #: The system doesn't reach it.
    OFFLINE = "offline"
    #: It, or what is in it, is made to be taken out.
    REMOVABLE = "removable"
    #: Its sectors have a size that no standby's disk can have.
    SECTOR_SIZE = "sector_size"
    #: A member of a Storage Spaces pool of Windows.
    STORAGE_SPACES = "storage_spaces"
    #: A dynamic disk of Windows.
    LDM = "ldm"
    #: Neither a partition table nor anything known is on it.
    UNINITIALISED = "uninitialised"
    #: It has a partition table without partitions.
    UNPARTITIONED = "unpartitioned"
    #: There is nothing but swap space on it.
    SWAP_ONLY = "swap_only"


def of_device(disk: Device) -> Reason | None:
    """Return what stands against a disk before anybody reads it."""
    if disk.state in _DEAD:
        return Reason.OFFLINE
    if disk.removable or disk.usb:
        return Reason.REMOVABLE
    return None if disk.logical_sector_bytes in SECTOR_SIZES else Reason.SECTOR_SIZE


def of_layout(layout: Layout, partitions: Sequence[dict[str, Any]], *, ldm_header: bool) -> Reason | None:
    """Return what stands against a disk by what is on it.

    A header of LDM counts only where nothing else is found: one that a repartitioned disk was left
    with says nothing, unless nobody could be asked for the partitions' types.
    """
    types = {part.type for part in layout.parts}
    if _STORAGE_SPACES in types:
        return Reason.STORAGE_SPACES
    if types & set(_LDM) or (ldm_header and (not partitions or types == {None})):
        return Reason.LDM
    empty = {(part.number, part.start_bytes) for part in layout.parts if part.type in _EMPTY}
    real = [part for part in partitions if (part["number"], part["start_bytes"]) not in empty]
    return Reason.SWAP_ONLY if real and all(part["fs"] == "swap" for part in real) else None


def of_emptiness(layout: Layout, partitions: Sequence[dict[str, Any]]) -> Reason | None:
    """Return whether a disk has nothing on it; nobody asks this of a file that somebody listed."""
    empty = sum(part.type in _EMPTY for part in layout.parts)
    if len(partitions) > empty:
        return None
    return Reason.UNPARTITIONED if layout.table is not None else Reason.UNINITIALISED
