"""Choosing what holds each disk of a run: the best that the disk allows, or what the configuration asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bootpoint_common.errors import Code, error
from bootpoint_producer.snapshots import zfs
from bootpoint_producer.snapshots.base import Snapshot
from bootpoint_producer.snapshots.btrfs import BtrfsHold, Subvolume, subvolume_of
from bootpoint_producer.snapshots.freeze import FREEZE_TIMEOUT
from bootpoint_producer.snapshots.hold import Hold
from bootpoint_producer.snapshots.joint import KINDS, JointSnapshot, Plan, essential
from bootpoint_producer.snapshots.live import LiveHold, disk_usage
from bootpoint_producer.snapshots.lvm.disk import PictureHold
from bootpoint_producer.snapshots.lvm.survey import Refused, Survey, device_of
from bootpoint_producer.snapshots.lvm.volume import ThickSnapshot, VolumeHold
from bootpoint_producer.snapshots.program import ProgramError
from bootpoint_producer.snapshots.reflink import Reflink, can_clone
from bootpoint_producer.snapshots.usage import Mount, Usage


@dataclass(frozen=True, slots=True)
class Choice:
    """A way to take a snapshot, and why it is the one.

    Attributes:
        snapshot: What takes it.
        reason: In words.
        kinds: What holds each slot's disk.
        reasons: Why, for each slot.
    """

    snapshot: Snapshot
    reason: str
    kinds: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)


def choose(
    disks: Mapping[str, Path], wanted: str = "auto", *, freeze_timeout: float = FREEZE_TIMEOUT, owner: str = ""
) -> Choice:
    """Choose how to hold disks still. Changes nothing.

    Args:
        disks: Path of each slot's file or device.
        wanted: ``auto``, or one of `KINDS` to have just that for every disk.
        freeze_timeout: Seconds that file systems may stay frozen.
        owner: The agent's name, by which leftovers are known.

    Raises:
        BootpointError: ``snapshot_failed``: what is wanted isn't possible here, or unknown; ``disk_missing``.
    """
    if wanted not in ("auto", *KINDS):
        raise error(Code.SNAPSHOT_FAILED, f"there is no snapshot of the kind {wanted!r}", value=wanted)

    def plan(paths: Mapping[str, Path]) -> Plan:
        return _Planner(wanted, owner).plan(paths)

    made = plan(disks)
    reason = "asked for" if wanted != "auto" else "; ".join(dict.fromkeys(made.why.values()))
    kinds = {slot: hold.kind for slot, hold in made.holds.items()}
    return Choice(JointSnapshot(plan=plan, kind=made.kind, timeout=freeze_timeout), reason, kinds, made.why)


class _Planner:
    """Makes one plan."""

    def __init__(self, wanted: str, owner: str) -> None:
        self._wanted = wanted
        self._owner = owner or "none"
        self._survey = Survey(owner=self._owner)
        self._subvolumes: dict[Path, Subvolume] = {}
        self._pools: dict[str, zfs.PoolSnapshot] = {}
        self._refused: list[str] = []

    def plan(self, disks: Mapping[str, Path]) -> Plan:
        uses = {slot: disk_usage(path) for slot, path in disks.items()}
        self._frozen = {mount for use in uses.values() for mount in use.mounts}
        holds: dict[str, Hold] = {}
        why: dict[str, str] = {}
        for slot, path in disks.items():
            self._refused = []
            holds[slot], why[slot] = self._disk(path, uses[slot])
        left = {mount for hold in holds.values() if isinstance(hold, PictureHold) for mount in hold.unfrozen}
        frozen = self._frozen - left if self._wanted != "none" else set()
        self._check(holds)
        return Plan(holds, tuple(sorted(frozen, key=lambda mount: mount.order)), why)

    def _disk(self, path: Path, use: Usage) -> tuple[Hold, str]:
        for hold, why in self._ways(path, use):
            if self._wanted in ("auto", hold.kind):
                return hold, why
        if self._wanted not in ("auto", "none", "fsfreeze"):
            cause = "; ".join(self._refused) or "it isn't of that kind"
            text = f"{path} can't be held by a snapshot of the kind {self._wanted}: {cause}"
            raise error(Code.SNAPSHOT_FAILED, text, value=str(path))
        return self._live(path, use)

    def _ways(self, path: Path, use: Usage) -> Iterator[tuple[Hold, str]]:
        """Return what can hold a disk, the best first; what can't adds why not to `_refused`."""
        device = device_of(path)
        if device is None:
            yield from self._file(path, use)
            return
        dataset = zfs.dataset_of(path)
        if dataset is not None:
            yield self._zfs(path, dataset, use), "it is a volume of ZFS"
        try:
            yield self._lvm(path, device, use)
        except Refused as refused:
            self._refused.append(str(refused))
        except ProgramError as failure:
            self._refused.append(f"LVM can't tell: {failure}")

    def _file(self, path: Path, use: Usage) -> Iterator[tuple[Hold, str]]:
        storage = self._storage(path)
        if storage is not None:
            self._refused.append(f"the file system at {storage.point}, where it lies, is frozen with the others")
            return
        dataset = zfs.dataset_of(path)
        if dataset is not None:
            yield self._zfs(path, dataset, use), "it is a file on ZFS"
        top = subvolume_of(path)
        if top is not None:
            if top not in self._subvolumes:
                self._subvolumes[top] = Subvolume(top, owner=self._owner)
            yield BtrfsHold(path, self._subvolumes[top], reasons=_others(path, use)), "it is a file on btrfs"
        if can_clone(path):
            kind = "fsfreeze" if use.mounts and self._wanted != "reflink" else "reflink"
            yield (
                Reflink(path, kind=kind, reasons=_others(path, use)),
                "it is a file on storage that copies by reference",
            )

    def _zfs(self, path: Path, dataset: zfs.Dataset, use: Usage) -> Hold:
        if dataset.pool not in self._pools:
            self._pools[dataset.pool] = zfs.PoolSnapshot(dataset.pool, owner=self._owner)
        return zfs.ZfsHold(path, dataset, self._pools[dataset.pool], reasons=_others(path, use))

    def _lvm(self, path: Path, device: int, use: Usage) -> tuple[Hold, str]:
        volume = self._survey.volume(device)
        if volume is None:
            return PictureHold(path, device, use, self._survey), "LVM's volumes on it are snapshotted"
        if use.quiet and volume.kind != "thin" and self._wanted == "auto":
            raise Refused("nobody uses it")
        snapshot = self._survey.snapshot(volume)
        kind = "volume" if isinstance(snapshot, ThickSnapshot) else "thin volume"
        return VolumeHold(path, snapshot, reasons=_others(path, use)), f"it is a logical {kind}"

    def _live(self, path: Path, use: Usage) -> tuple[Hold, str]:
        if use.quiet:
            return LiveHold(path, kind="fsfreeze" if self._wanted == "fsfreeze" else "none"), "nobody uses it"
        frozen = bool(use.mounts) and self._wanted != "none"
        cause = "; ".join(self._refused) or "its storage keeps no snapshot"
        why = f"{path} is {use.words()}"
        if self._wanted == "auto":
            why = f"nothing here can hold it still ({cause}), and {why}"
        kind = "fsfreeze" if frozen or self._wanted == "fsfreeze" else "none"
        reasons = [f"{why}, and {cause}" if self._wanted != "auto" else why]
        return LiveHold(path, kind=kind, reasons=reasons, frozen=frozen and not use.others), why

    def _storage(self, path: Path) -> Mount | None:
        """Return the mount that a file lies in where it is to be frozen: nothing can be copied there then."""
        device = path.stat().st_dev
        return next((mount for mount in self._frozen if mount.device == device), None)

    def _check(self, holds: Mapping[str, Hold]) -> None:
        """Refuse volumes that would be suspended with the programs on them that are needed meanwhile."""
        own = {
            part.volume.device: part.volume
            for hold in holds.values()
            for part in hold.parts
            if isinstance(part, ThickSnapshot)
        }
        needed = {own[device].full_name for device in essential() if device in own}
        if len(needed) > 1:
            raise error(
                Code.SNAPSHOT_FAILED,
                f"the programs that take snapshots lie on several volumes of this job ({', '.join(sorted(needed))}), "
                "which can't be held at one instant",
                hint="protect one of them by a job of its own, or use thin volumes",
            )


def _others(path: Path, use: Usage) -> list[str]:
    return [f"{path} is {words}" for words in use.others]
