"""The tracker of thin volumes: the pool knows which blocks of a volume changed since a snapshot of it.

Of every followed volume one snapshot is kept, that of the newest cut; it holds the blocks that were overwritten since.
The next cut makes its own from the picture that the run reads, and what differs between the two is the generation::

    cut 1                        cut 2                              cut 3
    picture ─ snapshot ─► kept-1 picture ─ snapshot ─► kept-2
                             └───── thin_delta ───────────┘ = generation 2; kept-1 is removed when it is stored

Made from the picture, not from the volume: so the generation is exactly what the picture has and its predecessor
hasn't, whatever is written while the snapshots are made. The kernel counts references to blocks, so a block that the
kept snapshot maps is never written in place: equal mappings are equal content, across reboots and crashes.

The kept snapshots are LVM's, read-only, never activated, and carry tags by which the agent finds them again.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from bootpoint_common.extent import Extent

from .grains import Grains
from .keptsnapshot import Kept, KeptSnapshots
from .provider import Armed, Generation
from .thinpool import ThinPool, ThinVolume, pool_device, thin_volume, unfit_tool

_log = logging.getLogger(__name__)

#: How full a pool may be, in percent, for a snapshot to be kept in it: what is overwritten is held by the snapshot.
MOST_FULL = 90.0

#: Seconds after which a snapshot that no run asked for is given up: its job is gone, or runs more rarely than monthly.
MOST_IDLE = 35 * 86400.0


@dataclass(slots=True)
class _Open:
    """A generation that is open, or was just closed: then `closed`, and `picture` is what its run reads."""

    armed: Armed
    closed: bool = False
    picture: Path | None = None


class ThinProvider:
    """Follows thin volumes of LVM by snapshots of them; see `Provider`.

    Args:
        directory: The agent's own; its path tells this agent's snapshots from those of others.
        most_full: How full a pool may be, in percent.
    """

    name = "thin"

    def __init__(self, directory: Path, *, most_full: float = MOST_FULL) -> None:
        self._directory = directory / "thin"
        self._kept = KeptSnapshots(directory)
        self._most_full = most_full
        self._lock = threading.RLock()
        self._open: dict[Path, _Open] = {}

    def why_not(self, path: Path) -> str | None:
        """See `Provider.why_not`."""
        try:
            volume = thin_volume(path)
            if volume is None:
                return "no thin volume"
            if not volume.uuid.startswith("LVM-"):
                return "a thin volume that isn't LVM's"
            if (unfit := unfit_tool()) is not None:
                return unfit
            # Where something is kept, it is given up when the disk is armed: the pool needs the room.
            return None if self._kept.get(volume) else self._pool_trouble(volume.pool)
        except OSError as failure:
            return str(failure)

    def arm(self, path: Path) -> Armed:
        """See `Provider.arm`; no snapshot is made before the first picture is there."""
        with self._lock:
            volume = _volume(path)
            kept = self._kept.get(volume)
            if (trouble := self._pool_trouble(volume.pool)) is not None:
                # What a kept snapshot holds is what the pool lacks.
                self._kept.forget(volume.uuid)
                raise OSError(trouble)
            if kept is not None:
                self._kept.remove_others(volume.uuid)  # those of a run that was killed
                armed = Armed(kept.tracker, kept.sequence + 1, "", volume.uuid, volume.size_bytes)
            else:
                self._kept.forget(volume.uuid)
                armed = Armed(secrets.token_hex(16), 1, "", volume.uuid, volume.size_bytes)
            self._open[path] = _Open(armed)
            return armed

    def instant(self, path: Path) -> int:
        """See `Provider.instant`; what counts is the picture, which is taken after it."""
        found = self._open.get(path)
        if found is None:
            raise OSError(f"{path} isn't followed")
        found.closed = True
        return found.armed.sequence

    def picture(self, path: Path, picture: Path) -> None:
        """See `Provider.picture`."""
        if path in self._open:
            self._open[path].picture = picture

    def collect(self, path: Path) -> list[Generation]:
        """See `Provider.collect`.

        Where the difference can't be had, the generation is missing for ever, and the next one begins all the same.
        """
        with self._lock:
            found = self._open.get(path)
            if found is None or not found.closed:
                return []
            volume, kept = _volume(path), self._kept.get(_volume(path))
            armed = found.armed
            if kept is not None and (kept.tracker, kept.sequence + 1) != (armed.tracker, armed.sequence):
                raise OSError(f"another process of this agent follows {path}")
            if kept is None and armed.sequence > 1:
                raise OSError(f"the snapshot kept of {path} is gone")
            new = self._kept.make(volume, _picture(found.picture, volume), armed.tracker, armed.sequence)
            try:
                generations = [self._generation(volume, kept, new)]
            except (OSError, ValueError) as failure:
                _log.warning("two thin volumes can't be compared", extra={"disk": str(path), "cause": str(failure)})
                generations = []
            self._kept.store(volume, new)
            self._open[path] = _Open(replace(armed, sequence=armed.sequence + 1))
            if not generations:
                self._kept.remove_others(volume.uuid)
            return generations

    def let_go(self, path: Path, sequence: int) -> None:  # noqa: ARG002 - only the newest one is ever kept
        """See `Provider.let_go`."""
        with self._lock:
            self._kept.remove_others(_volume(path).uuid)

    def written_since(self, path: Path) -> Grains | None:
        """See `Provider.written_since`."""
        with self._lock:
            volume = _volume(path)
            kept = self._kept.get(volume)
            if kept is None:
                return None
            try:
                return Grains.of(self._pool(volume).delta(kept.device_id, volume.device_id), volume.size_bytes)
            except ValueError as failure:
                raise OSError(str(failure)) from failure

    def keep_only(self, trackers: Collection[str]) -> None:
        """See `Provider.keep_only`."""
        with self._lock:
            for uuid, kept, _ in self._kept.all():
                if kept is None or kept.tracker not in trackers:
                    self._give_up(uuid, "no boot point needs it")

    def upkeep(self) -> None:
        """See `Provider.upkeep`: what a pool lacks room for is given up, and what no run has asked for in weeks."""
        with self._lock:
            for uuid, kept, seconds in self._kept.all():
                if seconds > MOST_IDLE:
                    self._give_up(uuid, f"no run has asked for it for {seconds / 86400:.0f} days")
                elif kept is not None and (device := pool_device(kept.pool)) is not None:
                    trouble = self._pool_trouble(device)
                    if trouble is not None:
                        self._give_up(uuid, trouble)

    def _give_up(self, uuid: str, cause: str) -> None:
        _log.warning("a kept snapshot is given up", extra={"volume": uuid, "cause": cause})
        self._kept.forget(uuid)

    # --- the pool

    def _pool(self, volume: ThinVolume) -> ThinPool:
        return ThinPool(volume.pool, self._directory)

    def _pool_trouble(self, device: str) -> str | None:
        """Say why no snapshot should be kept in a pool; None where one can."""
        status = ThinPool(device, self._directory).status()
        if status.trouble is not None:
            return status.trouble
        for what, percent in (("data", status.data_percent), ("metadata", status.metadata_percent)):
            if percent >= self._most_full:
                return f"the {what} of its thin pool are {percent:.0f} % full"
        return None

    def _generation(self, volume: ThinVolume, kept: Kept | None, new: Kept) -> Generation:
        if kept is None:
            # Nobody knows what was written before: everything may have been.
            return Generation(new.sequence, Grains.of([Extent(0, volume.size_bytes)], volume.size_bytes))
        changed = self._pool(volume).delta(kept.device_id, new.device_id)
        return Generation(new.sequence, Grains.of(changed, volume.size_bytes))


def _volume(path: Path) -> ThinVolume:
    volume = thin_volume(path)
    if volume is None:
        raise OSError(f"{path} is no thin volume any more")
    return volume


def _picture(path: Path | None, volume: ThinVolume) -> ThinVolume:
    picture = None if path is None else thin_volume(path)
    if picture is None or picture.pool != volume.pool:
        raise OSError(f"what is read of {volume.name} is no volume of its thin pool")
    return picture
