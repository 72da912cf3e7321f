"""Writing the disks of a boot point to files of other hypervisors' formats, with ``qemu-img`` on this machine.

A file appears under its name when it is whole: until then it is ``.<name>.<random>.part`` beside it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bootpoint_common.durable import sync_folder
from bootpoint_common.errors import Code, error
from bootpoint_common.units import MiB, format_size, round_up
from bootpoint_ops.reached import Reached
from bootpoint_worker.targets.share import Share


@dataclass(frozen=True, slots=True)
class Format:
    """A format of disk files.

    Attributes:
        extension: Of its files.
        options: What ``qemu-img -o`` gets.
        overhead_bytes: What a file takes at most beside its content, for a small disk.
        unit: The disk's size is rounded up to a multiple of it; what is added reads as zero.
    """

    extension: str
    options: str | None = None
    overhead_bytes: int = 2 * MiB
    unit: int | None = None


#: Formats by name.
#: vhdx: dynamic, as Hyper-V makes it; blocks of 1 MiB are what Microsoft advises for Linux guests, and take least room.
#: Hyper-V knows whole MiB only, and 7-Zip opens no disk that ends within 4 KiB.
#: vmdk: monolithicSparse, one file that Workstation, VirtualBox and qemu attach and write as it is, and that ESXi's
#: vmkfstools -i imports. streamOptimized (compressed, for OVA) can only be read in order and has to be converted first.
FORMATS = {
    "raw": Format("raw"),
    "qcow2": Format("qcow2", "compat=1.1"),
    "vhdx": Format("vhdx", "subformat=dynamic,block_size=1048576", 16 * MiB, MiB),
    "vmdk": Format("vmdk", "subformat=monolithicSparse"),
}

#: Of a disk's content, what the tables of a format take at most: one part in this many.
TABLES = 256

#: What qemu-img prints under -p.
_PROGRESS = re.compile(rb"\(\s*(\d+(?:\.\d+)?)/100%\)")


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written.

    Attributes:
        slot: Which disk.
        path: The file.
        size_bytes: Size of the disk.
        file_bytes: Bytes that the file takes here.
    """

    slot: str
    path: Path
    size_bytes: int
    file_bytes: int


def export(
    reached: Reached, directory: Path, form: str, slot: str | None, progress: Callable[[str, float], None]
) -> list[Exported]:
    """Write a point's disks, or one of them, to files ``<vm>-<slot>-<point>.<extension>``.

    Args:
        reached: The point.
        directory: Where to, on this machine.
        form: A key of `FORMATS`.
        slot: Which disk; None for all.
        progress: Called with a slot and how much of it is done, between 0 and 1.

    Raises:
        NotFoundError: ``no_such_disk``.
        UsageError: ``spec_invalid``: a file of that name is there already.
        FatalError: ``host_unsupported``: this machine lacks qemu-img, or the host can't share points;
            ``host_full``: the directory lacks room.
        RetryableError: ``target_write_error``: qemu-img failed.
    """
    if shutil.which("qemu-img") is None:
        hint = "install qemu-utils (Debian) or qemu-img (Red Hat)"
        raise error(Code.HOST_UNSUPPORTED, "this machine lacks qemu-img", hint=hint)
    slots = reached.slots(slot)
    chosen = FORMATS[form]
    paths = {slot: _path(reached, directory, slot, chosen) for slot in slots}
    for path in paths.values():
        if path.exists() or path.is_symlink():
            raise error(
                Code.SPEC_INVALID, f"{path} is there already", key="--to", value=str(path),
                hint="move it away, or name another directory",
            )  # fmt: skip
    if reached.target.can_share:  # else the first share says why not
        _require_room(reached, directory, slots, chosen)
    found = []
    for name in slots:
        with reached.share(name) as share:
            found.append(_write(share, paths[name], form, progress))
    return found


def _path(reached: Reached, directory: Path, slot: str, form: Format) -> Path:
    return directory / f"{reached.replica.vm_name}-{slot}-{reached.point.name}.{form.extension}"


def _require_room(reached: Reached, directory: Path, slots: list[str], form: Format) -> None:
    """Refuse before the first byte what doesn't fit: all that doesn't read as zero is written."""
    needed = 0
    for slot in slots:
        with closing(reached.target.open_reader(reached.replica, reached.point.point_id, slot)) as reader:
            content = sum(length for _, length, zero in reader.extents(0, reader.size_bytes) if not zero)
        needed += content + content // TABLES + form.overhead_bytes
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise error(
            Code.HOST_FULL,
            f"{directory} has {format_size(free)} free, and {reached.point.name} needs {format_size(needed)}",
            key="--to",
            value=str(directory),
            hint="free space, name another directory, or choose one disk with --disk",
        )


def _write(share: Share, path: Path, form: str, progress: Callable[[str, float], None]) -> Exported:
    chosen = FORMATS[form]
    options = [] if chosen.options is None else ["-o", chosen.options]
    with _part(path) as part:
        progress(share.slot, 0.0)
        if chosen.unit is not None:
            size = str(round_up(share.size_bytes, chosen.unit))
            _run(["qemu-img", "create", "-q", "-f", form, *options, str(part), size], share.slot, progress)
            options = ["-n", "--target-is-zero"]
        command = ["qemu-img", "convert", "-p", "-f", "raw", "-O", form, *options, share.uri, str(part)]
        _run(command, share.slot, progress)
        progress(share.slot, 1.0)
        with part.open("r+b") as file:
            if form == "raw":
                file.truncate(share.size_bytes)  # what is shared ends at a sector
            os.fsync(file.fileno())
    return Exported(share.slot, path, share.size_bytes, path.stat().st_blocks * 512)


@contextlib.contextmanager
def _part(path: Path) -> Iterator[Path]:
    """Give the name under which a file is written, and give it its own when the block has ended well."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        try:
            os.link(part, path)  # never replaces what somebody else put there meanwhile
        except OSError as exc:
            if isinstance(exc, FileExistsError) or path.exists():
                raise error(Code.SPEC_INVALID, f"{path} is there already", key="--to", value=str(path)) from exc
            part.rename(path)  # a file system without links
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _run(command: list[str], slot: str, progress: Callable[[str, float], None]) -> None:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None  # noqa: S101 - for the type checker; it was asked for above
    assert process.stderr is not None  # noqa: S101 - likewise
    try:
        with process.stdout, process.stderr:
            while piece := os.read(process.stdout.fileno(), 4096):
                for done in _PROGRESS.findall(piece):
                    progress(slot, float(done) / 100)
            said = process.stderr.read().decode(errors="replace").strip()
            code = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if code != 0:
        full = "No space left" in said or "Disk quota exceeded" in said
        raise error(
            Code.HOST_FULL if full else Code.TARGET_WRITE_ERROR, f"disk {slot} could not be written: {said[-500:]}"
        )
