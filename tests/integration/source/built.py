"""Disks built for the reasons why a disk can't be a source: images with the tables and headers of each case."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

from bootpoint_common.units import SECTOR, MiB
from tests.integration.source.loop import run

#: Size of a built disk.
SIZE = 64 * MiB
#: Where in an image `part_image` is put: where the first partition begins.
FIRST = MiB

LDM_METADATA, LDM_DATA = "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3", "AF9B60A0-1431-4F62-BC68-3311714A69AD"
STORAGE_SPACES, MICROSOFT_RESERVED = "E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D", "E3C9E316-0B5C-4DB8-817D-F92DF00215AE"
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"


def blank(path: Path, size: int = SIZE) -> Path:
    """An image of zeros."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def table(path: Path, script: str) -> Path:
    """Write a table with sfdisk: first line ``label: gpt`` or ``label: dos``."""
    command = ["sfdisk", "--quiet", "--wipe", "never", "--no-reread", "--no-tell-kernel", str(path)]
    subprocess.run(command, input=script, text=True, check=True)
    return path


def gpt(path: Path, *types: str) -> Path:
    """A GPT whose partitions of 8 MiB have these types."""
    blank(path)
    arguments = [word for number, kind in enumerate(types, 1) for word in (f"-n{number}:0:+8M", f"-t{number}:{kind}")]
    run("sgdisk", *(arguments or ["--clear"]), path)
    return path


def put(path: Path, content: bytes, offset: int) -> Path:
    """Write bytes into an image."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # until then the file's blocks are still being counted
    return path


def file_system(folder: Path, kind: str, size: int = 16 * MiB, *options: str) -> bytes:
    """The bytes of a fresh file system (``ext4``, ``swap`` …)."""
    image = blank(folder / f"{kind}.part", size)
    commands = {"swap": ["mkswap", "--quiet"], "vfat": ["mkfs.vfat"]}
    run(*commands.get(kind, [f"mkfs.{kind}", "-q"]), *options, image)
    content = image.read_bytes()
    image.unlink()
    return content


def private_header(size: int = SIZE, *, magic: bytes = b"PRIVHEAD", version: int = 2) -> bytes:
    """A PRIVHEAD of LDM, as block/partitions/ldm.h of Linux describes it: big-endian, for a disk of some bytes."""
    sectors = size // SECTOR
    header = bytearray(SECTOR)
    header[0:8] = magic
    struct.pack_into(">I", header, 0x08, 0x2F96)  # checksum of the rest, which no reader that we know compares
    struct.pack_into(">HH", header, 0x0C, version, 12)
    struct.pack_into(">QQQQ", header, 0x10, 0x01D0, 1, 0x7FF, 0x740)  # time, ?, size and place of the table of contents
    for at, text in ((0x30, b"11111111-2222-3333-4444-555555555555"), (0x70, b"66666666-7777-8888-9999-aaaaaaaaaaaa")):
        header[at : at + len(text)] = text
    header[0xB0:0xD4] = b"bbbbbbbb-cccc-dddd-eeee-ffffffffffff"
    header[0xF0:0xF9] = b"HostDg0\x00\x00"
    # logical disk: start and size; database: start and size, in sectors
    struct.pack_into(">QQQQ", header, 0x11B, 63, sectors - 2048 - 63, sectors - 2048, 2048)
    return bytes(header)


def dynamic(path: Path) -> Path:
    """A dynamic disk as Windows makes it of one with an MBR: type 0x42 from end to end, and three headers."""
    table(blank(path), f"label: dos\nstart=63, size={SIZE // SECTOR - 63 - 2048}, type=42\n")
    for sector in (6, SIZE // SECTOR - 2048 + 1856, SIZE // SECTOR - 1):
        put(path, private_header(), sector * SECTOR)
    return path
