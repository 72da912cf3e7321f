"""The drawing of a machine's disks: each a bar to scale, and beneath it what is on it and what lies on what.

::

    Debian GNU/Linux 12  6.1.0-27-amd64  uefi  4 CPUs  16.0 GiB memory
    eno1  3c:ec:ef:00:00:21  10.1.0.21/24  gateway 10.1.0.1

    serial:S3Z8NB0K
      /dev/sda  64.0 GiB  gpt  20.0 GiB used  in erp-db
      ┌──┬─────────────────────────────────────────┐
      │1 │2 LVM2_member                            │
      │▓░│▓▓▓▓▓▓▓▓▓▓▓▓▓▓░░░░░░░░░░░░░░░░░░░░░░░░░░░│
      └──┴─────────────────────────────────────────┘
      1  /dev/sda1  512.0 MiB  vfat  /boot/efi  6.0 MiB used
      2  /dev/sda2  63.5 GiB  LVM2_member
         └ lv  /dev/vg0/root  60.0 GiB  ext4  /  20.0 GiB used
      snapshot  lvm-thin: the disk's file systems lie in a thin pool
      tracker   hash: no other tracker is built in
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import set_cell_size
from rich.text import Text

from bootpoint_common.diskview.bar import Segment, merged, segments, widths
from bootpoint_common.diskview.text import cut, flowed, folded, printable
from bootpoint_common.units import format_size

#: Fewest cells of a line; on a narrower terminal lines are as long as this.
NARROWEST = 40

#: What a disk that can't be protected lacks, for people.
REASONS = {
    "ldm": "a dynamic disk of Windows (LDM)",
    "storage_spaces": "a member of a Storage Spaces pool of Windows",
    "uninitialised": "nothing is on it",
    "unpartitioned": "it has a partition table without partitions",
    "offline": "it can't be reached",
    "removable": "it is made to be taken out",
    "swap_only": "there is nothing but swap space on it",
    "sector_size": "its sectors have a size that no standby's disk can have",
}


@dataclass(frozen=True, slots=True)
class Pen:
    """The characters of a drawing: borders from left to right, fillings, branches, and what stands for more."""

    top: str = "┌┬┐─"
    bottom: str = "└┴┘─"
    side: str = "│"
    used: str = "▓"
    unused: str = "░"
    unknown: str = "▒"
    free: str = " "
    branch: str = "└"
    more: str = "…"


#: Where a terminal has no more than ASCII.
ASCII = Pen("+++-", "+++-", "|", "#", ".", ":", " ", "`", "~")

#: Colours: of what is used, of what can't be protected, of what is beside the point.
_USED, _BAD, _DIM = "cyan", "red", "dim"


def draw(found: Mapping[str, Any], width: int, *, ascii_only: bool = False) -> list[Text]:
    """Draw a machine's disks.

    Args:
        found: A list of disks, as an agent told it, of any version.
        width: Cells of a line; none is longer.
        ascii_only: Whether the terminal has no other characters.

    Returns:
        The lines.
    """
    width, pen = max(NARROWEST, width), ASCII if ascii_only else Pen()
    lies_on = _places(found["items"])
    lines: list[Text] = [*_machine(found.get("machine") or {}, width, pen)]
    for item in found["items"]:
        lines += [*_head(item, width, pen), *_bar(item, width, pen), *_contents(item, width, pen, lies_on)]
        lines += [*_capabilities(item, width, pen), Text()]
    if found["items"]:
        lines += [Text(line, style=_DIM) for line in flowed(_legend(pen), width, more=pen.more)]
    if not ascii_only:
        return lines
    return [Text(line.plain.encode("ascii", "backslashreplace").decode()[:width], style=line.style) for line in lines]


def _legend(pen: Pen) -> list[str]:
    return [f"{pen.used} used", f"{pen.unused} not used", f"{pen.unknown} not known", "blank: in no partition"]


def _machine(machine: Mapping[str, Any], width: int, pen: Pen) -> Iterator[Text]:
    """Say what the machine is, and give each of its network cards a line."""
    words = [machine[name] for name in ("os", "kernel", "firmware") if machine.get(name)]
    words += [f"{machine['cpus']} CPUs"] if machine.get("cpus") else []
    words += [f"{format_size(machine['memory_bytes'])} memory"] if machine.get("memory_bytes") else []
    yield from _indented("", words, width, pen)
    for nic in machine.get("nics") or ():
        addresses = [*(nic.get("addresses") or ())]
        addresses += [f"gateway {nic['gateway']}"] if nic.get("gateway") else []
        yield from _indented("", [nic.get("name"), nic.get("mac") or "-", *(addresses or ["no address"])], width, pen)
    if machine:
        yield Text()


def _head(item: Mapping[str, Any], width: int, pen: Pen) -> list[Text]:
    lines = [Text(line, style="bold") for line in folded(printable(item["id"]), width)]
    # Of a file the id says it already.
    words = [] if item["id"] == f"file:{item['path']}" else [printable(item["path"])]
    words += [format_size(item["size_bytes"]), printable(item.get("table") or "no table")]
    sector = item.get("logical_sector_bytes") or 512
    words += [f"sectors of {sector} bytes"] if sector != 512 else []
    words += [f"{format_size(item['used_bytes'])} used"] if item.get("used_bytes") is not None else []
    jobs = item.get("protected_by")
    if jobs is not None and item["eligible"]:
        words.append(f"in {', '.join(map(printable, jobs))}" if jobs else "in no job")
    lines += [Text(f"  {line}") for line in flowed(words, width - 2, more=pen.more)]
    if not item["eligible"]:
        reason = str(item.get("reason"))
        why = f"can't be protected: {printable(reason)}" + (f", {REASONS[reason]}" if reason in REASONS else "")
        lines += [Text(f"  {line}", style=_BAD) for line in flowed(why.split(), width - 2, gap=" ", more=pen.more)]
    return lines


def _bar(item: Mapping[str, Any], width: int, pen: Pen) -> list[Text]:
    found = merged(segments(item), (width - 3) // 2)
    cells = widths([segment.size_bytes for segment in found], width - len(found) - 3)
    fills = [_fill(segment, count, pen) for segment, count in zip(found, cells, strict=True)]
    labels = [
        Text(set_cell_size(_label(segment, count, pen), count)) for segment, count in zip(found, cells, strict=True)
    ]
    return [_edge(pen.top, cells), _row(labels, pen), _row(fills, pen), _edge(pen.bottom, cells)]


def _edge(border: str, cells: Sequence[int]) -> Text:
    return Text("  " + border[0] + border[1].join(border[3] * count for count in cells) + border[2])


def _row(parts: Sequence[Text], pen: Pen) -> Text:
    return Text("  " + pen.side) + Text(pen.side).join(parts) + Text(pen.side)


def _label(segment: Segment, count: int, pen: Pen) -> str:
    label = printable(segment.label)
    return "" if segment.free and len(label) > count else cut(label, count, pen.more)


def _fill(segment: Segment, count: int, pen: Pen) -> Text:
    if segment.free:
        return Text(pen.free * count)
    full = round(segment.used * count) or (1 if segment.used and count > 1 else 0)
    rest = pen.unused if segment.known else pen.unknown
    return Text(pen.used * full, style=_USED) + Text(rest * (count - full), style=_DIM)


def _places(items: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the partitions that each volume lies on: a volume group may span several."""
    places: dict[str, list[str]] = defaultdict(list)
    for item in items:
        for part in item.get("partitions") or ():
            for held in part.get("holds") or ():
                if part["path"] not in places[held["path"]]:
                    places[held["path"]].append(part["path"])
    return places


def _contents(item: Mapping[str, Any], width: int, pen: Pen, lies_on: Mapping[str, Sequence[str]]) -> Iterator[Text]:
    for part in item.get("partitions") or ():
        number = f"{part['number'] or '-':>3}  "
        words = [] if part["path"] == item["path"] else [part["path"]]
        words += [format_size(part["size_bytes"]), *_about(part)]
        yield from _indented(number, words, width, pen)
        depths = {part["path"]: 0}
        for held in part.get("holds") or ():
            depth = depths.get(held.get("on") or part["path"], 0)
            depths[held["path"]] = depth + 1
            others = [place for place in lies_on[held["path"]] if place != part["path"]]
            words = [held["kind"], held["path"], format_size(held["size_bytes"]), *_about(held)]
            words += [f"also on {', '.join(others)}"] if others else []
            yield from _indented(f"     {'  ' * min(depth, 8)}{pen.branch} ", words, width, pen)


def _about(place: Mapping[str, Any]) -> list[str]:
    words = [place[name] for name in ("fs", "label", "mount") if place.get(name)]
    return [*words, *([f"{format_size(place['used_bytes'])} used"] if place.get("used_bytes") is not None else [])]


def _indented(begin: str, words: Sequence[object], width: int, pen: Pen, gap: str = "  ") -> Iterator[Text]:
    room = width - len(begin)
    flow = flowed([printable(word) for word in words], room, indent="  ", gap=gap, more=pen.more)
    for number, line in enumerate(flow):
        yield Text((begin if number == 0 else " " * len(begin)) + line)


def _capabilities(item: Mapping[str, Any], width: int, pen: Pen) -> Iterator[Text]:
    if not item["eligible"]:
        return
    for name in ("snapshot", "tracker"):
        why = item.get(f"{name}_reason")
        text = f"{item.get(name) or 'not known'}{f': {why}' if why else ''}"
        for line in _indented(f"  {name:<9} ", printable(text).split(), width, pen, gap=" "):
            yield Text(line.plain, style=_DIM)
