"""A host tried out: a throw-away standby through what a replica goes through, with a transcript of every step.

::

    inspect ─► check ─► create ─► 3 × (open, write, commit) ─► read each point ─► revert to the first, and back
        ─► consolidate the first into the second ─► read what is left ─► delete ─► look whether it is gone

Only the verbs of `Target` are used, so every kind of host is tried alike. After a failure the standby is deleted all
the same; what a point has to hold is worked out here, without a driver.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any
from uuid import UUID

from bootpoint_common import digest
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.identity import new_id
from bootpoint_common.units import KiB, MiB
from bootpoint_worker.hostinfo import unsupported
from bootpoint_worker.targets.base import Target
from bootpoint_worker.targets.host import HostInfo
from bootpoint_worker.targets.journal import JournalPoint
from bootpoint_worker.targets.layer import CommitPoint, Layer, OpenDisk, OpenPoint
from bootpoint_worker.targets.replica import Replica, ReplicaDisk

#: Bytes of the throw-away disk: enough for several segments, and soon written by the slowest host.
SIZE = 64 * MiB

#: Boot points that are made.
POINTS = 3

#: Slot of the only disk, and job that the standby is said to belong to.
SLOT, JOB = "system", "bootpoint-selftest"

#: Bytes of one write, and how many there are in each point, at random places aligned to a sector.
WRITE, WRITES = 192 * KiB, 24

#: Bytes that are read at a time.
PIECE = 4 * MiB


@dataclass(slots=True)
class Transcript:
    """What was done, in order.

    Attributes:
        host: Name of the host.
        kind: Its kind.
        info: What it said of itself; None before it did.
        steps: Each with ``step``, ``seconds`` and ``error``, which is None when it went well.
    """

    host: str
    kind: str
    info: HostInfo | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every step went well."""
        return all(step["error"] is None for step in self.steps)

    def step(self, name: str, act: Callable[[], Any]) -> Any:
        """Do something, and put down how it went.

        Raises:
            BootpointError: What it failed with.
        """
        began = time.monotonic()
        problem = None
        try:
            return act()
        except BootpointError as exc:
            problem = exc.as_json()
            raise
        finally:
            took = round(time.monotonic() - began, 3)
            self.steps.append({"step": name, "seconds": took, "error": problem})

    def as_json(self) -> dict[str, Any]:
        """Return what can be sent in: no credentials, no address, no names of other machines."""
        info = self.info
        said = ("version", "licence", "hardware_versions", "disk_library", "problems", "hints")
        return {
            "host": self.host,
            "kind": self.kind,
            "passed": self.passed,
            **{name: None if info is None else getattr(info, name) for name in said},
            "steps": self.steps,
        }


def selftest(target: Target, host: str, kind: str, storage: str | None = None) -> Transcript:
    """Try a host out; nothing of it is left there.

    Args:
        target: A session with the host.
        host: Its name.
        kind: Its kind.
        storage: Where the throw-away standby is put; None for the storage with most room.

    Returns:
        What was done; a step that failed is the last but for the deletion.
    """
    transcript = Transcript(host, kind)
    # Every error stands in the transcript.
    with contextlib.suppress(BootpointError):
        info = transcript.info = transcript.step("inspect the host", target.inspect_host)
        transcript.step("look for what it lacks", partial(_require_supported, host, info))
        replica = transcript.step("choose a storage", partial(_replica, host, info, storage))
        transcript.step("check that a standby can be made", partial(target.create, replica, dry_run=True))
        try:
            _live(transcript, _Trial(target, replica))
        finally:
            transcript.step("delete the standby", partial(target.remove, replica))
            transcript.step("see that nothing is left", partial(_require_gone, target, replica))
    return transcript


def _live(transcript: Transcript, trial: _Trial) -> None:
    """Lead a standby through its life."""
    target, replica = trial.target, trial.replica
    transcript.step("make a standby of 64 MiB", partial(target.create, replica))
    for number in range(1, POINTS + 1):
        layer = transcript.step(f"open boot point {number}", trial.open)
        transcript.step(f"write boot point {number}", partial(trial.write, layer))
        transcript.step(f"commit boot point {number}", partial(trial.commit, layer))
    transcript.step("read all boot points", trial.read_all)
    transcript.step("revert to boot point 1", partial(target.revert, replica, trial.points[0].point_id))
    transcript.step("revert to the newest", partial(target.revert, replica, None))
    transcript.step("consolidate boot point 1", trial.consolidate)
    transcript.step("read what is left", trial.read_all)


def _require_supported(host: str, info: HostInfo) -> None:
    if problem := unsupported(host, info):
        raise problem


def _replica(host: str, info: HostInfo, storage: str | None) -> Replica:
    known = {each.name: each.free_bytes for each in info.storages}
    chosen = storage if storage is not None else max(known, key=lambda name: known[name], default=None)
    if chosen not in known:
        listed = ", ".join(sorted(known)) or "none"
        text = f"host {host} has no storage {chosen!r}; there are: {listed}"
        raise error(Code.STORAGE_UNKNOWN, text, key="--storage", value=chosen, host=host)
    replica_id = new_id()
    name = f"{JOB}-{replica_id.hex[-8:]}"
    bus = info.buses[0] if info.buses else "virtio"
    return Replica(
        replica_id=replica_id,
        job=JOB,
        vm_name=name,
        storage=chosen,
        folder="",
        cpus=1,
        memory_bytes=64 * MiB,
        firmware="bios",
        disks=(ReplicaDisk(SLOT, SIZE, f"{name}-{SLOT}", bus=bus),),
    )


def _require_gone(target: Target, replica: Replica) -> None:
    if target.inspect(replica) is not None:
        text = f"{replica.vm_name} is still there after its deletion"
        raise error(Code.TARGET_CHECK_FAILED, text, hint="delete it on the host")


@dataclass(slots=True)
class _Trial:
    """A standby under trial.

    Attributes:
        target: The session.
        replica: The standby.
        content: What its newest point has to hold.
        points: Its points, oldest first.
        held: What each of them has to hold, by its id.
    """

    target: Target
    replica: Replica
    content: bytearray = field(default_factory=lambda: bytearray(SIZE))
    points: list[JournalPoint] = field(default_factory=list)
    held: dict[UUID, bytes] = field(default_factory=dict)

    def open(self) -> Layer:
        base = self.points[-1].point_id if self.points else None
        disks = (OpenDisk(SLOT, new_id(), SIZE),)
        return self.target.open(self.replica, OpenPoint(new_id(), base, 1, disks))[0]

    def write(self, layer: Layer) -> None:
        """Write, and let zeros hide what was there, as an agent's stream would."""
        with closing(self.target.open_writer(self.replica, layer, 1)) as writer:
            for offset, data in _writes(len(self.points)):
                writer.write(offset, data)
                self.content[offset : offset + len(data)] = data
            if self.points:
                writer.zero(0, MiB)
                self.content[:MiB] = bytes(MiB)
            writer.flush()

    def commit(self, layer: Layer) -> None:
        number = len(self.points) + 1
        # Names of points are instants, and differ.
        instant = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=number)
        segments = (self.content[at : at + digest.SEGMENT] for at in range(0, SIZE, digest.SEGMENT))
        root = digest.root(SIZE, (digest.segment_digest(digest.grain_digests(segment)) for segment in segments))
        point = CommitPoint(
            point_id=layer.point_id,
            name=f"V{instant:%Y%m%d_%H%M%S}",
            sequence=number,
            instant=instant,
            kind="full" if number == 1 else "increment",
            consistency="crash",
            epoch=1,
            layers=(layer,),
            roots={SLOT: root.hex()},
        )
        self.points.append(self.target.commit(self.replica, point))
        self.held[layer.point_id] = bytes(self.content)

    def consolidate(self) -> None:
        """Merge the oldest point into the next one."""
        first = self.points.pop(0)
        self.points[0] = self.target.consolidate(self.replica, first.point_id)

    def read_all(self) -> None:
        """Read every point, and compare.

        Raises:
            RetryableError: ``target_check_failed``.
        """
        for point in self.points:
            with closing(self.target.open_reader(self.replica, point.point_id, SLOT)) as reader:
                wrong = [at for at in range(0, SIZE, PIECE) if reader.read(at, PIECE) != self._piece(point, at)]
            if wrong:
                text = f"boot point {point.name} doesn't hold what was written, at {', '.join(map(str, wrong))}"
                raise error(Code.TARGET_CHECK_FAILED, text)

    def _piece(self, point: JournalPoint, at: int) -> bytes:
        return self.held[point.point_id][at : at + PIECE]


def _writes(number: int) -> Iterator[tuple[int, bytes]]:
    """Yield what a point writes, the same at every test."""
    random = Random(number)  # noqa: S311 - a pattern, not a secret
    for _ in range(WRITES):
        yield random.randrange(0, (SIZE - WRITE) // 512) * 512, random.randbytes(WRITE)
