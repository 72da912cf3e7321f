"""A virtual disk as a chain of files: small descriptors that name each other, and extents that hold the bytes.

::

    vm.vmdk ─── vm-flat.vmdk                    the base: all of the disk
       ▲
    vm-000001.vmdk ─── vm-000001-sesparse.vmdk  what was written after a snapshot

The names are those of ESXi: a snapshot of ``vm.vmdk`` leaves it as it is and puts ``vm-000001.vmdk`` above it
("Confirming a virtual machine's snapshot delta disk layout", Broadcom KB 304387; a listing with its .vmsd:
pastebin.com/iAynb43Q). On VMFS 6 deltas are SEsparse ("VMFS 6 and SEsparse", vSphere Storage). Here every extent is a
qcow2 file backed by the lower one's. A descriptor is text with `CID`, `parentFileNameHint` and the extent's line
("Virtual Disk Format 5.0", VMware).
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from tests.service.process import run

#: Bytes of a sector, in which a descriptor counts.
SECTOR = 512

#: What a descriptor says of a disk without a parent.
NO_PARENT = "ffffffff"


@dataclass(frozen=True, slots=True)
class Link:
    """One file of a chain, read from its descriptor.

    Attributes:
        path: The descriptor.
        size_bytes: Of the disk.
        extent: The qcow2 file with the bytes.
        parent: Descriptor of the next lower link; None for the base.
        content_id: Drawn when the descriptor was written.
    """

    path: Path
    size_bytes: int
    extent: Path
    parent: Path | None
    content_id: str

    @property
    def stored_bytes(self) -> int:
        """What its extent takes on the disk."""
        return self.extent.stat().st_blocks * SECTOR


def read_link(path: Path) -> Link:
    """Read a descriptor.

    Raises:
        FileNotFoundError: There is none, or it is no descriptor.
    """
    try:
        text = path.read_text()
    except (UnicodeDecodeError, IsADirectoryError) as exc:
        raise FileNotFoundError(path) from exc
    extent = re.search(r'^RW (\d+) \S+ "(.+)"$', text, re.MULTILINE)
    if extent is None:
        raise FileNotFoundError(path)
    hint = re.search(r'^parentFileNameHint="(.+)"$', text, re.MULTILINE)
    parent = path.parent / hint[1] if hint else None
    return Link(path, int(extent[1]) * SECTOR, path.parent / extent[2], parent, _cid(text))


def links(path: Path) -> list[Link]:
    """Return a disk's links, the base first.

    Raises:
        FileNotFoundError: One is missing.
    """
    link = read_link(path)
    return [*(links(link.parent) if link.parent else []), link]


def _write(path: Path, size_bytes: int, extent: str, kind: str, parent: str | None = None) -> Link:
    below = f"parentCID={_cid((path.parent / parent).read_text()) if parent else NO_PARENT}"
    if parent:
        below += f'\nparentFileNameHint="{parent}"'
    path.write_text(
        f'# Disk DescriptorFile\nversion=1\nencoding="UTF-8"\nCID={secrets.token_hex(4)}\n{below}\n'
        f'createType="{kind.lower()}"\n\n# Extent description\nRW {size_bytes // SECTOR} {kind} "{extent}"\n'
    )
    return read_link(path)


def _cid(text: str) -> str:
    return text.partition("\nCID=")[2].partition("\n")[0]


def create(path: Path, size_bytes: int, *, thick: bool = False) -> Link:
    """Make an empty disk, and return its only link.

    Args:
        path: The descriptor.
        size_bytes: A multiple of the sector.
        thick: Take all its space now.
    """
    name = f"{path.stem}-flat.vmdk"
    how = ["-o", "preallocation=falloc"] if thick else []
    run(["qemu-img", "create", "-q", "-f", "qcow2", *how, str(path.parent / name), str(size_bytes)])
    return _write(path, size_bytes, name, "VMFS")


def push(leaf: Path, path: Path | None = None) -> Link:
    """Put an empty link above one, which is only read from now on, and return the new one.

    Args:
        leaf: Descriptor of the link that it stands on.
        path: The new link's descriptor; by default the next free name beside the lower one.
    """
    below = read_link(leaf)
    path = path or _next_name(leaf)
    name = f"{path.stem}-sesparse.vmdk"
    together = leaf.parent == path.parent
    backing = below.extent.name if together else str(below.extent)
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing]
    run([*command, str(path.parent / name), str(below.size_bytes)])
    return _write(path, below.size_bytes, name, "SESPARSE", leaf.name if together else str(leaf))


def _next_name(leaf: Path) -> Path:
    stem = re.sub(r"-\d{6}$", "", leaf.stem)
    for number in range(1, 10**6):
        path = leaf.parent / f"{stem}-{number:06d}.vmdk"
        if not path.exists():
            return path
    raise FileExistsError(leaf)


def merge(upper: Path, above: list[Path]) -> Path:
    """Write a link into its parent, and return the parent, which shows from now on what the upper one showed.

    Args:
        upper: The link that goes.
        above: The links that stood on it, and will stand on its parent.
    """
    link = read_link(upper)
    assert link.parent is not None
    below = read_link(link.parent)
    run(["qemu-img", "commit", "-q", "-f", "qcow2", "-b", str(below.extent), "-d", str(link.extent)], timeout=600)
    for path in above:
        child = read_link(path)
        command = ["qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", below.extent.name]
        run([*command, str(child.extent)])
        _write(path, child.size_bytes, child.extent.name, "SESPARSE", below.path.name)
    delete(upper)
    return below.path


def grow(path: Path, size_bytes: int) -> Link:
    """Make a disk longer that nothing stands on; the caller has looked."""
    link = read_link(path)
    run(["qemu-img", "resize", "-q", "-f", "qcow2", str(link.extent), str(size_bytes)])
    return _write(path, size_bytes, link.extent.name, "VMFS")


def copy(source: Path, destination: Path) -> Link:
    """Copy what a disk shows into a new one without parent."""
    link = read_link(source)
    name = f"{destination.stem}-flat.vmdk"
    run(["qemu-img", "convert", "-q", "-f", "qcow2", "-O", "qcow2", str(link.extent), str(destination.parent / name)])
    return _write(destination, link.size_bytes, name, "VMFS")


def delete(path: Path) -> None:
    """Remove a link, its descriptor and its extent."""
    link = read_link(path)
    link.extent.unlink(missing_ok=True)
    path.unlink()
