"""The layers that a conversion writes into, and what is left of conversions that were killed.

A conversion has a *key*, what it is for: ``standby``, ``test-<id>`` or ``examine``. One of each key goes on at a time:
a later one ends an earlier one, whoever started it. Its files have the key in their names, and so has its directory
below ``run/``, by which its processes are found. When all is done its layers are renamed to scratch layers::

    V2 (a point) ◄── <disk>.convert-<key>@<token>.qcow2  ──adopt──►  <disk>.scratch-<…>.qcow2
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from bootpoint_common.errors import Code, error
from bootpoint_worker.targets.kvm import journal, script
from bootpoint_worker.targets.kvm.place import Changed, Place, Snapshot
from bootpoint_worker.targets.kvm.qcow2 import disk_name, virtual_size
from bootpoint_worker.targets.kvm.session import check

#: Of no test and not the standby: looking into a point.
EXAMINE = "examine"


@dataclass(frozen=True, slots=True)
class Work:
    """One conversion.

    Attributes:
        place: The replica's directory.
        key: What it is for.
        token: Its own.
        point: The point beneath.
        files: Name of each disk's layer, by slot, in the job's order; changes when they are adopted.
        lengths: Length of each when it was made, by slot.
    """

    place: Place
    key: str
    token: str
    point: journal.PointEntry
    files: dict[str, str]
    lengths: dict[str, int]

    @property
    def directory(self) -> str:
        """Its work directory on the host."""
        return f"{self.place.directory}/run/convert-{self.key}@{self.token}"


def key_of(test_id: str | None) -> str:
    """Return the key of a start."""
    return "standby" if test_id is None else f"test-{test_id}"


def begin(place: Place, before: Snapshot, point: journal.PointEntry, key: str) -> Work:
    """End what is left of an earlier conversion of this key, and make layers for a new one.

    Raises:
        Changed: The journal isn't the one that was read.
    """
    end(place, key)
    token = secrets.token_hex(6)
    replica = before.manifest.replica
    order = {disk.slot: number for number, disk in enumerate(replica.disks)}
    disks = sorted(point.disks, key=lambda disk: order.get(disk.slot, len(order)))
    files = {disk.slot: f"{disk_name(disk.file)}.convert-{key}@{token}.qcow2" for disk in disks}
    arguments = [word for disk in disks for word in (files[disk.slot], disk.file, str(virtual_size(disk.size_bytes)))]
    said = place.run("scratch", before.digest, *arguments, what="make layers for a conversion").text
    lengths = {name: int(length) for length, name in (line.split(" ", 1) for line in said.splitlines())}
    return Work(place, key, token, point, files, {slot: lengths[file] for slot, file in files.items()})


def adopt(work: Work, before: Snapshot, names: dict[str, str]) -> tuple[journal.ScratchEntry, ...]:
    """Rename converted layers to scratch layers, by slot.

    Raises:
        RetryableError: ``busy``: another start of the same VM ended this conversion.
    """
    words = [word for slot, file in work.files.items() for word in (file, names[slot])]
    name = f"convert-{work.key}@{work.token}"
    result = work.place.session.run(script.script("adopt"), work.place.directory, before.digest, name, *words)
    if result.exit_code in (script.CHANGED, script.NO_REPLICA):
        raise Changed
    if result.exit_code == script.GONE:
        raise taken_over(work)
    check(work.place.session, result, "keep converted layers")
    # Where the journal has changed meanwhile this is done once more, from here.
    work.files.update(names)
    base = {disk.slot: disk.file for disk in work.point.disks}
    # Their first length, not the one after the conversion: what a guest writes into clusters that the conversion took
    # makes a layer no longer, and would be lost with it.
    return tuple(
        journal.ScratchEntry(
            slot=disk.slot, file=names[disk.slot], base=base[disk.slot], fresh_bytes=work.lengths[disk.slot]
        )
        for disk in work.point.disks
    )


def taken_over(work: Work) -> Exception:
    """Return the error of a conversion that somebody ended."""
    return error(
        Code.BUSY,
        f"another start took over the conversion {work.key} in {work.place.directory}",
        host=work.place.session.host,
    )


def end(place: Place, key: str) -> None:
    """End what converts for a key, and remove what it made; everything when the key is empty."""
    result = place.session.run(script.script("convert_end"), place.directory, key)
    if result.exit_code == script.STUCK:
        raise error(Code.BUSY, result.stderr.strip(), host=place.session.host)
    if result.exit_code != script.NO_REPLICA:
        check(place.session, result, "tidy up after a conversion")


def end_all(place: Place) -> None:
    """End every conversion in a replica's directory, before that is removed."""
    end(place, "")
