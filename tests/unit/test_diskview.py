"""The drawing of disks: whatever a machine has and however wide the terminal, no line breaks and the scale is right."""

from __future__ import annotations

import io
import random
from typing import Any

import pytest
from rich.console import Console

from bootpoint_common.diskview import COLUMNS, draw, lines, paint, public
from bootpoint_common.diskview.bar import Segment, merged, segments, widths
from bootpoint_common.diskview.text import cut, flowed, folded, printable
from bootpoint_common.units import GiB, MiB

WIDTHS = range(60, 201)


#: The drawing of a server's first disk, 80 columns wide.
GOLDEN = """\
Debian GNU/Linux 12  6.1.0-27-amd64  uefi  4 CPUs  16.0 GiB memory
eno1  3c:ec:ef:00:00:21  10.1.0.21/24  2001:db8::21/64  gateway 10.1.0.1
eno2  3c:ec:ef:00:00:22  no address

serial:sda
  /dev/sda  64.0 GiB  gpt  20.0 GiB used  in erp-db
  ┌─┬────────────────────────────────────────────────────────────────────┬─────┐
  │1│2 crypto_LUKS                                                       │free │
  │░│▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒│     │
  └─┴────────────────────────────────────────────────────────────────────┴─────┘
  1  /dev/sda1  512.0 MiB  vfat  /boot/efi  6.0 MiB used
  2  /dev/sda2  60.0 GiB  crypto_LUKS
     └ luks  /dev/mapper/secret  60.0 GiB  LVM2_member
       └ lv  /dev/vg0/root  30.0 GiB  ext4  /  20.0 GiB used
       └ lv  /dev/vg0/data  90.0 GiB  xfs  /srv/data  also on /dev/sdb1
  snapshot  none: nobody uses the disks
  tracker   hash: no other tracker is built in

"""


def part(number: int, start: int, size: int, fs: str | None, **more: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {"label": "", "uuid": None, "mount": None, "used_bytes": None, "holds": []}
    where = {"number": number, "path": f"/dev/sda{number}", "start_bytes": start, "size_bytes": size, "fs": fs}
    return {**where, **plain, **more}


def held(kind: str, path: str, fs: str | None, size: int, on: str, **more: Any) -> dict[str, Any]:
    plain = {"kind": kind, "path": path, "fs": fs, "size_bytes": size, "mount": None, "used_bytes": None, "on": on}
    return {**plain, **more}


def disk(name: str, size: int, *parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    plain = {
        "logical_sector_bytes": 512, "physical_sector_bytes": 4096, "table": "gpt", "eligible": True, "reason": None,
        "protected_by": ["erp-db"], "snapshot": "none", "snapshot_reason": "nobody uses the disks", "tracker": "hash",
        "tracker_reason": "no other tracker is built in", "used_bytes": None,
    }  # fmt: skip
    return {"id": f"serial:{name}", "path": f"/dev/{name}", "size_bytes": size, **plain, "partitions": [*parts], **more}


def server() -> dict[str, Any]:
    """A server of the field: EFI, LUKS with a volume group on two disks, an array, and a disk with nothing on it."""
    root = {"kind": "lv", "path": "/dev/vg0/root", "fs": "ext4", "size_bytes": 30 * GiB, "mount": "/"}
    data = {"kind": "lv", "path": "/dev/vg0/data", "fs": "xfs", "size_bytes": 90 * GiB, "mount": "/srv/data"}
    first = [
        held("luks", "/dev/mapper/secret", "LVM2_member", 60 * GiB, "/dev/sda2"),
        {**root, "on": "/dev/mapper/secret", "used_bytes": 20 * GiB},
        {**data, "on": "/dev/mapper/secret", "used_bytes": None},
    ]
    system = disk(
        "sda", 64 * GiB,
        part(1, MiB, 512 * MiB, "vfat", mount="/boot/efi", used_bytes=6 * MiB),
        part(2, 513 * MiB, 60 * GiB, "crypto_LUKS", holds=first),
        used_bytes=20 * GiB,
    )  # fmt: skip
    above = [{**data, "on": "/dev/sdb1", "used_bytes": None}]
    pv = part(1, MiB, 99 * GiB, "LVM2_member", holds=above, path="/dev/sdb1")
    empty = disk("sdc", 1 << 40, table=None, eligible=False, reason="uninitialised", protected_by=[], snapshot=None)
    machine = {
        "os": "Debian GNU/Linux 12", "kernel": "6.1.0-27-amd64", "firmware": "uefi", "cpus": 4,
        "memory_bytes": 16 * GiB,
        "nics": [
            {"name": "eno1", "mac": "3c:ec:ef:00:00:21", "addresses": ["10.1.0.21/24", "2001:db8::21/64"],
             "gateway": "10.1.0.1"},
            {"name": "eno2", "mac": "3c:ec:ef:00:00:22", "addresses": [], "gateway": None},
        ],
    }  # fmt: skip
    return {"agent": "erp-db", "machine": machine, "items": [system, disk("sdb", 100 * GiB, pv), empty]}


def hostile() -> dict[str, Any]:
    """Everything long, wide or odd at once."""
    name = "鷹" * 70 + "\x1b[31m\n" + "/very/long" * 30
    deep, on = [], "/dev/sda1"
    for level in range(30):
        deep.append(held("lv", f"/dev/{name}/{level}", "ext4", GiB, on, mount=name, used_bytes=GiB))
        on = deep[-1]["path"]
    parts = [part(number, number * MiB, MiB, "ext4", mount=name, label=name) for number in range(1, 129)]
    parts[0]["holds"] = deep
    reasons = {"snapshot_reason": name * 3, "tracker_reason": None}
    many = disk("sda", 200 * MiB, *parts, id=f"path:{name}", path=name, protected_by=[name, name], **reasons)
    extended = [part(1, MiB, 8 * GiB, None), part(5, 2 * MiB, 4 * GiB, "ext4"), part(6, 5 * GiB, GiB, "swap")]
    return {
        "machine": {"os": name, "cpus": 1, "nics": [{"name": name, "mac": None, "addresses": [name] * 9}]},
        "items": [
            many, disk("sdb", 16 * GiB, *extended, table="dos"), disk("sdc", 0), disk("sdd", 1),
            disk("sde", GiB, part(1, -5, 8 * GiB, "ext4", used_bytes=99 * GiB)), disk("sdf", GiB, part(1, 0, 0, None)),
        ],
    }  # fmt: skip


@pytest.mark.parametrize("machine", [server(), hostile(), {"items": []}], ids=["server", "hostile", "none"])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_line_is_longer_than_the_terminal(machine: dict[str, Any], ascii_only: bool) -> None:
    for width in WIDTHS if len(machine["items"]) < 4 else (60, 61, 80, 133, 200):
        for line in draw(machine, width, ascii_only=ascii_only):
            assert line.cell_len <= width
            assert line.plain.isprintable()
            assert not ascii_only or line.plain.isascii()


def test_bars_are_as_wide_as_their_terminal_and_to_scale() -> None:
    for width in WIDTHS:
        text = [line.plain for line in draw(server(), width)]
        tops = [line for line in text if line.startswith("  ┌")]
        assert {len(line) for line in tops} == {width}
        efi, luks, free = tops[0].strip()[1:-1].split("┬")
        cells = width - 6
        assert len(efi) in (1, 2, 3)
        assert abs(len(luks) - 60 / 64 * cells) <= 4
        assert abs(len(free) - 3.5 / 64 * cells) <= 4
        below = [line for line in text if line.startswith(("  │", "  └"))]
        assert all(len(line) == width for line in below if not line.startswith("  └ "))


def test_the_used_part_is_filled() -> None:
    row = next(line.plain for line in draw(server(), 126) if "▓" in line.plain)
    efi, luks, free = row.strip().strip("│").split("│")
    assert set(efi) == {"▓", "░"}
    assert abs(luks.count("▓") / len(luks) - 20 / 60) < 0.02
    assert set(luks) == {"▓", "▒"}, "how much of /srv/data is in use nobody knows"
    assert set(free) == {" "}


def test_what_a_person_looks_for_is_there() -> None:
    text = "\n".join(line.plain for line in draw(server(), 80))
    assert text.startswith(GOLDEN)
    assert "can't be protected: uninitialised, nothing is on it" in text


def test_a_pipe_gets_a_plain_table() -> None:
    assert [column.lstrip(">") for column in COLUMNS] == [
        "ID", "PATH", "SIZE", "USED", "TABLE", "ELIGIBLE", "SNAPSHOT", "TRACKER", "JOBS",
    ]  # fmt: skip
    assert lines(server()) == [
        ("serial:sda", "/dev/sda", "64.0 GiB", "20.0 GiB", "gpt", "yes", "none", "hash", "erp-db"),
        ("serial:sdb", "/dev/sdb", "100.0 GiB", "-", "gpt", "yes", "none", "hash", "erp-db"),
        ("serial:sdc", "/dev/sdc", "1.0 TiB", "-", "-", "no: uninitialised", "-", "hash", "-"),
    ]
    assert all(cell.isprintable() for line in lines(hostile()) for cell in line)


def test_only_public_keys_are_printed_and_all_of_them() -> None:
    shown = public({"items": [{"id": "serial:A", "partitions": [{"holds": [{"on": "x"}]}], "tracker_reason": "x"}]})
    assert set(shown) == {"agent", "read_at", "machine", "items"}
    (item,) = shown["items"]
    assert "tracker_reason" not in item
    assert (item["id"], item["tracker"], item["eligible"]) == ("serial:A", None, None)
    assert item["partitions"][0]["holds"] == [
        dict.fromkeys(("kind", "path", "fs", "size_bytes", "mount", "used_bytes"))
    ]


def test_colours_only_where_there_is_a_terminal() -> None:
    for colours, escapes in ((True, True), (False, False)):
        out = io.StringIO()
        paint(Console(file=out, width=80, force_terminal=colours, _environ={"TERM": "xterm-256color"}), server())
        assert ("\x1b[" in out.getvalue()) == escapes
        assert "serial:sda" in out.getvalue()


def test_cells_are_shared_out_to_the_last(rng: random.Random) -> None:
    for _ in range(200):
        sizes = [rng.choice((0, 1, rng.randrange(1 << 40))) for _ in range(rng.randrange(1, 30))]
        cells = rng.randrange(len(sizes), 200)
        found = widths(sizes, cells)
        assert sum(found) == cells
        assert min(found) >= 1
        total = sum(sizes)
        if total:
            free = cells - len(sizes)
            assert all(abs(width - 1 - free * size / total) <= 1 for width, size in zip(found, sizes, strict=True))


def test_partitions_that_hold_others_are_not_drawn_twice() -> None:
    extended = [part(1, MiB, 8 * GiB, None), part(5, 2 * MiB, 4 * GiB, "ext4"), part(6, 5 * GiB, GiB, "swap")]
    found = segments(disk("sda", 16 * GiB, *extended, table="dos"))
    assert [segment.label for segment in found] == ["5 ext4", "free", "6 swap", "free"]


def test_more_partitions_than_cells_are_joined() -> None:
    found = merged([Segment(number, number + 1, str(number)) for number in range(100)], 10)
    assert len(found) == 10
    assert sum(segment.size_bytes for segment in found) == sum(range(1, 101))
    assert found[0].label == ".."


def test_texts() -> None:
    assert cut("/srv/a/very/long/path", 11) == "/srv/…/path"
    assert cut("鷹鷹鷹鷹", 5) == "鷹…鷹"
    assert printable("a\nb\x1b[0m\u202e") == "a\\nb\\x1b[0m\\u202e"
    assert folded("serial:0123456789", 10) == ["serial:012", "  3456789"]
    assert flowed(["one", "two", "three"], 8, indent=" ") == ["one  two", " three"]
