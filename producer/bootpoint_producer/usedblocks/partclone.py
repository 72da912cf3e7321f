"""Partclone's domain map: which ranges of a file system are used, as the file system's own maps say.

``partclone.<fs> --domain`` prints it in the format of ddrescue's map files (GNU ddrescue manual, section "Mapfile
structure"): one line for each range, position and size in hexadecimal, ``+`` used, ``?`` free::

    0x00000000  0x007CD000  +
    0x007CD000  0x00033400  ?
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

from bootpoint_common.units import KiB
from bootpoint_producer.probe import environment
from bootpoint_producer.usedblocks.facts import DoubtError, demand

#: The program for each file system, by blkid's name of it.
PROGRAMS = {
    "ext2": "partclone.extfs",
    "ext3": "partclone.extfs",
    "ext4": "partclone.extfs",
    "xfs": "partclone.xfs",
    "btrfs": "partclone.btrfs",
    "ntfs": "partclone.ntfs",
    "vfat": "partclone.fat",
    "exfat": "partclone.exfat",
}
#: Without a log file it would write to /var/log, which may lie on the disk in question; it sleeps 2 s before it looks
#: whether its progress is to be shown again, and not at all at 1 s.
_QUIETLY = ("--quiet", "--UI-fresh", "1", "--logfile", "/dev/null")
#: Seconds that one map may take: it reads about 32 MiB for each TiB, in pieces that lie all over the disk.
PATIENCE = 900.0
#: Seconds between two looks whether the run goes on.
_LOOK = 1.0
#: Bytes of what a program says that are quoted.
_QUOTED = 300


def free_ranges(fs: str, device: str, *, goes_on: Callable[[], object]) -> Iterator[tuple[int, int]]:
    """Return (first byte, end) of every free range, ascending; complete only when the iterator has ended.

    Args:
        fs: As blkid calls it.
        device: The file system's own device.
        goes_on: Called every second; what it raises ends the program.

    Raises:
        DoubtError: There is no such program, it failed, or what it printed is no map.
    """
    program = shutil.which(PROGRAMS[fs], path=environment()["PATH"])
    demand(program, f"{PROGRAMS[fs]} isn't installed (package partclone)")
    said = os.memfd_create("partclone")
    try:
        command = [str(program), "--domain", "--source", device, "--output", "-", *_QUIETLY]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, env=environment(), cwd="/"
        ) as process:
            try:
                yield from parse(_lines(process, goes_on))
                code = process.wait(_LOOK)
            except subprocess.TimeoutExpired:
                code = -1
            finally:
                process.kill()
        demand(code == 0, f"{PROGRAMS[fs]} failed: {_quoted(said)}")
    finally:
        os.close(said)


def parse(lines: Iterator[bytes]) -> Iterator[tuple[int, int]]:
    """Return the free ranges of a map.

    Raises:
        DoubtError: It isn't one: there are gaps, overlaps, or lines that mean nothing.
    """
    end, status_seen = 0, False
    for line in lines:
        if line.startswith(b"#"):
            continue
        fields = line.split()
        if not status_seen:  # the current position, which means something to ddrescue only
            demand(len(fields) in (2, 3), "its map has no beginning")
            status_seen = True
            continue
        try:
            start, length, status = int(fields[0], 16), int(fields[1], 16), fields[2]
        except (IndexError, ValueError) as failure:
            raise DoubtError(f"its map has a line that makes no sense: {line[:80]!r}") from failure
        demand(len(fields) == 3 and start == end and length > 0, f"its map has a gap at {end}")
        demand(status in (b"+", b"?"), f"its map has a status that isn't known: {line[:80]!r}")
        end = start + length
        if status == b"?":
            yield start, end


def _lines(process: subprocess.Popen[bytes], goes_on: Callable[[], object]) -> Iterator[bytes]:
    out = process.stdout
    assert out is not None  # noqa: S101 - stdout=PIPE
    deadline = time.monotonic() + PATIENCE
    rest = b""
    while True:
        goes_on()
        demand(time.monotonic() < deadline, f"its map took more than {PATIENCE:.0f} s")
        ready, _, _ = select.select([out], [], [], _LOOK)
        if not ready:
            continue
        data = os.read(out.fileno(), 64 * KiB)
        if not data:
            demand(not rest, "its map was cut off")
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from (line for line in lines if line.strip())


def _quoted(said: int) -> str:
    size = os.fstat(said).st_size
    text = os.pread(said, 64 * KiB, max(0, size - 64 * KiB)).decode(errors="replace")
    return " ".join(text.split())[-_QUOTED:]
