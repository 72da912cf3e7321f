"""The tracker of thin volumes on a real pool: found changes, kills, leftovers, a full pool."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bootpoint_common.units import GRAIN, MiB
from bootpoint_producer.snapshots import Consistency
from bootpoint_producer.snapshots.base import Still
from bootpoint_producer.sources import Source, open_source
from bootpoint_producer.trackers import thinpool
from bootpoint_producer.trackers.choice import TrackerChoice
from bootpoint_producer.trackers.keptsnapshot import PREFIX
from bootpoint_producer.trackers.thin import ThinProvider
from tests.guest.machine import sh, write_at_random
from tests.guest.rounds import Outcome, Rounds

DISK = Path("/dev/group/disk")
STATE = Path("/tmp/agent")


class ThinPicture:
    """A thin snapshot as the still picture."""

    kind = "lvm-thin"
    consistency = Consistency.CRASH
    reason = ""
    settled = True

    def __init__(self) -> None:
        sh("lvcreate -An -qq -y -s -kn -n picture group/disk")
        self.instant = datetime.now(UTC)

    def live(self, slot: str) -> bool:
        return False

    def source(self, slot: str) -> Source:
        return open_source(Path("/dev/group/picture"))

    def path(self, slot: str) -> str:
        return "/dev/group/picture"

    def still(self, slot: str) -> Sequence[Still]:
        return (Still(0, None, self.path(slot)),)

    def confirm(self) -> Consistency:
        return self.consistency

    def release(self) -> None:
        sh("lvremove -An -qq -y group/picture")


def take(disks: Mapping[str, Path], *, at_instant: Callable[[], None]) -> ThinPicture:
    """Take the picture, with writes before and after the instant."""
    at_instant()
    write_at_random(DISK, random.Random(), 3)
    picture = ThinPicture()
    write_at_random(DISK, random.Random(), 3)
    return picture


def make_pool() -> None:
    """Make a pool of 128 MiB with a volume of 96 MiB, of which a third is written."""
    sh("pvcreate -qq /dev/vdb && vgcreate -qq group /dev/vdb")
    sh("lvcreate -qq -y -Zn --errorwhenfull y -c 64k -L 128m --poolmetadatasize 4m -T group/pool")
    sh("lvcreate -qq -y -V 96m -T group/pool -n disk")
    with DISK.open("r+b") as file:
        file.write(random.Random(1).randbytes(32 * MiB))


def kept() -> list[str]:
    """Return the snapshots that are kept."""
    return sh(f"lvs --noheadings -o lv_name -S lv_tags={PREFIX}").split()


def held() -> str:
    """Return what the pool says about its metadata snapshot."""
    return sh("dmsetup status group-pool-tpool").split()[6]


class Follower:
    """An agent that follows the disk; each run must leave one kept snapshot, and nothing held in the pool."""

    def __init__(self) -> None:
        self._rounds = Rounds(STATE, {"system": DISK}, ThinProvider(STATE))

    @property
    def choice(self) -> TrackerChoice:
        return self._rounds.keeper.choose(DISK)

    def round(self, *, commit: bool = True) -> Outcome:
        found = self._rounds.round(take, commit=commit)["system"]
        assert found.missed == 0, found
        return found

    def upkeep(self) -> None:
        self._rounds.keeper.upkeep()

    def sweep(self) -> None:
        self._rounds.keeper.sweep()

    def followed(self) -> Outcome:
        found = self.round()
        assert (found.tracker, found.fallback) == ("thin", None), found
        assert (len(kept()), held()) == (1, "-")
        return found

    def doubted(self, reason: str) -> None:
        found = self.round()
        assert (found.tracker, found.fallback) == ("hash", reason), found


def begin() -> None:
    """Make the first two runs."""
    agent = Follower()
    assert agent.round().tracker == "hash"
    agent.followed()


def changes() -> None:
    """Follow a volume through runs, an abort, a discard, and a new start of the agent."""
    rng, agent = random.Random(2), Follower()
    assert (agent.choice.name, agent.choice.reason) == ("thin", "its writes are followed")
    first = agent.round()
    assert (first.tracker, first.fallback, len(kept())) == ("hash", None, 1)

    # The writes around each picture, six, may be seen in this run or in the next one.
    written = write_at_random(DISK, rng, 40)
    second = agent.followed()
    assert written <= second.changed <= written + 12
    assert second.scanned_bytes <= (written + 12) * GRAIN

    write_at_random(DISK, rng, 10)
    agent.round(commit=False)
    sh("blkdiscard -o 1048576 -l 2097152 /dev/group/disk")
    third = Follower().followed()
    assert third.changed >= 32


def killed() -> None:
    """An agent that is killed while it compares leaves the pool's metadata held: the next one lets go of it."""
    child = os.fork()
    if child == 0:
        thinpool.run = dying(thinpool.run)
        Follower().round()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert held() != "-"
    sh("lvremove -qq -y group/picture")  # the snapshot that the dead agent read
    write_at_random(DISK, random.Random(3), 10)
    Follower().followed()


def dying(run: Callable[..., str]) -> Callable[..., str]:
    """Return a `thinpool.run` that ends this process for good where thin_delta would be run."""

    def until_delta(*command: str, **options: Any) -> str:
        if "--metadata-snap" in command:
            os.kill(os.getpid(), signal.SIGKILL)
        return run(*command, **options)

    return until_delta


def held_by_others() -> None:
    """A metadata snapshot of somebody else's isn't touched: that run scans the disk, the one after it doesn't."""
    sh("dmsetup message group-pool-tpool 0 reserve_metadata_snap")
    before = held()
    agent = Follower()
    write_at_random(DISK, random.Random(4), 10)
    agent.doubted("tracker_lost")
    assert held() == before
    sh("dmsetup message group-pool-tpool 0 release_metadata_snap")
    agent.followed()


def lost() -> None:
    """A kept snapshot that was removed, and a directory that came back old, begin the tracking anew."""
    agent = Follower()
    sh(f"lvremove -qq -y group/{kept()[0]}")
    agent.doubted("tracker_lost")
    agent.followed()
    shutil.copytree(STATE / "thin", "/tmp/old")
    agent.followed()
    shutil.copytree("/tmp/old", STATE / "thin", dirs_exist_ok=True)
    agent.doubted("tracker_lost")
    agent.followed()


def grown() -> None:
    """A volume that grew is scanned once."""
    agent = Follower()
    sh("lvextend -qq -L 100m group/disk")
    agent.doubted("grown")
    agent.followed()


def relieved() -> None:
    """A kept snapshot is given up between runs, too, when the pool runs full."""
    agent = Follower()
    agent.upkeep()
    assert len(kept()) == 1
    with DISK.open("r+b", buffering=0) as file:
        for _ in range(90):
            file.write(random.Random(6).randbytes(MiB))
        os.fsync(file.fileno())
    agent.upkeep()
    assert kept() == []
    agent.doubted("tracker_lost")


def full() -> None:
    """A kept snapshot in a pool that runs full is given up: what it holds is what the pool lacks."""
    agent = Follower()
    assert len(kept()) == 1
    with contextlib.suppress(OSError), DISK.open("r+b", buffering=0) as file:
        for _ in range(100):
            file.write(random.Random(5).randbytes(MiB))
            os.fsync(file.fileno())
    assert agent.choice.name == "thin"
    agent.doubted("tracker_lost")
    assert kept() == []
    sh("lvcreate -qq -y -V 128m -T group/pool -n filler")
    sh("dd if=/dev/urandom of=/dev/group/filler bs=1M count=31 oflag=direct", check=False)
    assert agent.choice.name == "hash", sh("dmsetup status group-pool-tpool")
    assert "% full" in agent.choice.reason or "out_of_data_space" in agent.choice.reason


def unneeded() -> None:
    """What no held point needs is given back."""
    agent = Follower()
    assert len(kept()) == 1
    os.utime(next((STATE / "thin").glob("*.kept")), (1e9, 1e9))
    agent.upkeep()
    assert kept() == [], "nobody asked for it for decades"
    begin()
    agent.sweep()
    assert len(kept()) == 1
    shutil.rmtree(STATE / "maps")
    (STATE / "maps").mkdir()
    agent.sweep()
    assert kept() == []
