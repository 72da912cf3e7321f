"""docs/operations.md, pasted into a shell as it stands, on a machine where docs/getting-started.md was followed.

The control plane is ended where the page says that it is dead. What is mounted takes libguestfs's VM half a minute.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootpoint_common.units import MiB
from bootpoint_worker.verdict import GREETING
from tests.service.component import need
from tests.service.guide import REPOSITORY, Machine, Pasted, machine
from tests.service.process import run
from tests.system.test_guide import BOOT, FENCED, MARKER, SIZE
from tests.system.test_guide import blocks as guide_blocks

#: Seconds for both pages on a loaded machine.
PATIENCE = 1500.0

PAGE = REPOSITORY / "docs/operations.md"

#: From this heading on the page has nothing but the host.
DEAD = "## The control plane is dead"

REPORT = "what the report says\n"


def make_disk(path: Path, tree: Path) -> None:
    """Make a disk that prints a marker when it boots, and has a file system with a report."""
    path.parent.mkdir()
    tree.mkdir()
    (tree / "report.txt").write_text(REPORT)
    path.touch()
    os.truncate(path, SIZE)
    run(["mkfs.ext4", "-q", "-d", str(tree), "-E", f"offset={MiB}", str(path), "32M"])
    with path.open("r+b") as disk:
        disk.write((BOOT + f"{GREETING} {MARKER}\r\n\0".encode()).ljust(446, b"\0"))
        # A partition table with one entry: its type (Linux), first sector and length. By hand, for sfdisk syncs every
        # file system of the machine, and waits where another test has frozen one.
        disk.write(struct.pack("<4xB3xII", 0x83, MiB // 512, 32 * MiB // 512).ljust(64, b"\0") + b"\x55\xaa")


def blocks(text: str) -> list[str]:
    """Return the page's blocks."""
    return [block for language, block in FENCED.findall(text) if language == "sh"]


@pytest.fixture(scope="module")
def reader() -> Iterator[Machine]:
    need("guestfish", "fuse")
    with machine() as made:
        make_disk(made.path("/var/lib/bootpoint-demo/disk.raw"), made.directory / "tree")
        yield made


@pytest.fixture(scope="module")
def pasted(reader: Machine) -> Pasted:
    """Both pages: how the machine came to be protected, and what is done on the worst day."""
    guide = guide_blocks()
    (last,) = [number for number, block in enumerate(guide) if "bootpoint point list erp\n" in block]
    before = [re.sub("^make ", "make -n ", block, flags=re.MULTILINE) for block in guide[: last + 1]]
    alive, dead = PAGE.read_text().split(DEAD)
    pages = [*blocks(alive), "kill $up; wait $up || true", *blocks(dead)]
    found = reader.paste([*before, *pages], PATIENCE)
    assert found.code == 0, "\n".join([*found.outputs, found.rest])
    return Pasted(found.code, found.outputs[len(before) :], found.rest)


def output_of(pasted: Pasted, command: str) -> str:
    """Return what the first block with this command printed."""
    alive, dead = PAGE.read_text().split(DEAD)
    pages = [*blocks(alive), "", *blocks(dead)]
    return next(output for block, output in zip(pages, pasted.outputs, strict=True) if command in block)


@pytest.mark.long
@pytest.mark.timeout(PATIENCE)
def test_the_worst_day_goes_as_the_page_says(pasted: Pasted, reader: Machine) -> None:
    newest, older = re.findall(r"^(V\d{8}_\d{6})  kvm1", output_of(pasted, "bootpoint run list"), re.MULTILINE)
    assert MARKER in output_of(pasted, "--test look --serial-log")
    reverted = output_of(pasted, 'vm start "$HOST" "$VM" --yes\nbootpoint vm list')
    assert f"erp-standby stands on {older}, and stays there" in reverted
    assert f"erp-standby is running, from {older}" in reverted
    assert f"erp-standby stands on {newest}, and follows the newest point" in output_of(pasted, "job enable")
    assert reader.path("/root/report.txt").read_text() == REPORT
    assert f"erp-standby was reverted to {older}" in output_of(pasted, 'vm points "$HOST"')
    checked = output_of(pasted, "bootpoint point check")
    assert f"{newest} on kvm1 boots" in checked
    assert re.search(r"^test \d+ has ended$", checked, re.MULTILINE)
    assert "last before the malware" in output_of(pasted, "bootpoint point pin")
    assert f"erp-standby is running, from {newest}" in output_of(pasted, 'vm start "$VM" --direct')
    assert f"erp-standby stands on {older}, and stays there" in output_of(pasted, 'vm revert "$VM" "$POINT" --direct')
    assert "started" in output_of(pasted, "RUNBOOK.txt")


@pytest.mark.long
@pytest.mark.timeout(PATIENCE)
def test_what_was_exported_is_the_readers_disk(pasted: Pasted, reader: Machine) -> None:
    export, disk = reader.path("/srv/export"), reader.path("/srv/erp.raw")
    (qcow2,), (raw,) = export.glob("*.qcow2"), export.glob("*.raw")
    subprocess.run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", qcow2, disk], check=True)
    done = subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "raw", raw, disk], capture_output=True, text=True)
    assert "Content mismatch" in done.stdout, "the older point has not what was changed after it"
