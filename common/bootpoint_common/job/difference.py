"""What a re-apply of a job would change, and when each change takes effect."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bootpoint_common.errors import Code
from bootpoint_common.job.spec import Disk, Spec
from bootpoint_common.job.writing import as_json


class When(enum.StrEnum):
    """When a change takes effect."""

    AT_ONCE = "at_once"  #: with the apply
    NEXT_COMMIT = "next_commit"  #: when the next boot point is committed
    FULL_COPY = "full_copy"  #: by a full copy of that disk or target alone
    DETACHED = "detached"  #: what the host holds is kept, and no longer written
    REFUSED = "refused"  #: never; the apply is refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference between two versions of a job.

    Attributes:
        key: The key's path in the new file; in the old one if it is gone there.
        old: The value before, as in JSON.
        new: The value after, as in JSON.
        when: When it takes effect.
        code: Why it is refused, else None.
        host: The target concerned, None for the whole job.
        slot: The disk concerned, None for none.
    """

    key: str
    old: Any
    new: Any
    when: When
    code: Code | None = None
    host: str | None = None
    slot: str | None = None


#: When a change below a key takes effect; the longest key that fits decides, and what fits none is at once.
_JOB_RULES: dict[str, tuple[When, Code | None]] = {
    "name": (When.REFUSED, Code.SPEC_INVALID),
    "source.agent": (When.REFUSED, Code.SPEC_INVALID),
    "source.vm": (When.REFUSED, Code.SPEC_INVALID),
    "source.image": (When.REFUSED, Code.SPEC_INVALID),
}
_TARGET_RULES: dict[str, tuple[When, Code | None]] = {
    "vm": (When.NEXT_COMMIT, None),
    "vm.firmware": (When.REFUSED, Code.NEEDS_MOVE),
    "nic": (When.NEXT_COMMIT, None),
    "storage": (When.REFUSED, Code.NEEDS_MOVE),
}


def difference(old: Spec, new: Spec) -> list[Change]:
    """Compare two versions of a job, in the order of the file.

    Targets are the same if their host is, and disks if their slot is; another disk in the same slot is copied
    in full. A selection of all disks is compared as such: give both sides the disks that it stands for
    (`dataclasses.replace` on the source) to learn what happens to each.

    Args:
        old: The job as it is.
        new: The job as it shall be.

    Returns:
        Every difference; the apply is refused if any one is.
    """
    before, after = as_json(old), as_json(new)
    targets = before.pop("target"), after.pop("target")
    before["source"].pop("disks"), after["source"].pop("disks")
    changes = list(_changes(before, after, _JOB_RULES))
    changes.extend(_disks(old.source.disks, new.source.disks))
    changes.extend(_targets(*targets))
    return changes


def _changes(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    rules: Mapping[str, tuple[When, Code | None]],
    *,
    prefix: str = "",
    host: str | None = None,
) -> Iterator[Change]:
    was, becomes = dict(_leaves(old)), dict(_leaves(new))
    for key in [*becomes, *(key for key in was if key not in becomes)]:
        if was.get(key) == becomes.get(key):
            continue
        when, code = _rule(key, rules)
        yield Change(key=prefix + key, old=was.get(key), new=becomes.get(key), when=when, code=code, host=host)


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Walk down to the values that a user would edit: tables are opened, lists are one value."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _leaves(item, f"{path}{key}.")
        else:
            yield path + key, item


def _rule(key: str, rules: Mapping[str, tuple[When, Code | None]]) -> tuple[When, Code | None]:
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        found = rules.get(".".join(parts[:length]))
        if found is not None:
            return found
    return When.AT_ONCE, None


def _disks(old: tuple[Disk, ...] | None, new: tuple[Disk, ...] | None) -> Iterator[Change]:
    key = "source.disks"
    if old == new:
        return
    if old is None or new is None:
        # Which disks come or go is not known here; a full copy is the most that it can cost.
        yield Change(key=key, old=_json(old), new=_json(new), when=When.FULL_COPY)
        return
    was = {disk.slot: disk.id for disk in old}
    becomes = {disk.slot: disk.id for disk in new}
    for number, disk in enumerate(new):
        if was.get(disk.slot) != disk.id:
            yield Change(
                key=f"{key}[{number}]", old=was.get(disk.slot), new=disk.id, when=When.FULL_COPY, slot=disk.slot
            )
    for number, disk in enumerate(old):
        if disk.slot not in becomes:
            yield Change(key=f"{key}[{number}]", old=disk.id, new=None, when=When.DETACHED, slot=disk.slot)
    kept, order = [slot for slot in was if slot in becomes], [slot for slot in becomes if slot in was]
    if kept != order:
        yield Change(key=key, old=list(was), new=list(becomes), when=When.NEXT_COMMIT)


def _json(disks: tuple[Disk, ...] | None) -> Any:
    return "all" if disks is None else [{"slot": disk.slot, "id": disk.id} for disk in disks]


def _targets(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> Iterator[Change]:
    was = {target["host"]: target for target in old}
    hosts = [target["host"] for target in new]
    for number, target in enumerate(new):
        host, prefix = target["host"], f"target[{number}]"
        if host in was:
            yield from _changes(was[host], target, _TARGET_RULES, prefix=f"{prefix}.", host=host)
        else:
            yield Change(key=prefix, old=None, new=target, when=When.FULL_COPY, host=host)
    for number, target in enumerate(old):
        if target["host"] not in hosts:
            yield Change(key=f"target[{number}]", old=target, new=None, when=When.DETACHED, host=target["host"])
