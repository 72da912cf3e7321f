"""What is frozen, what is suspended, and in which order, when disks of several kinds are held at one instant."""

from __future__ import annotations

from collections.abc import Sequence

from bootpoint_producer.snapshots import joint
from bootpoint_producer.snapshots.base import Still
from bootpoint_producer.snapshots.hold import Part
from bootpoint_producer.snapshots.joint import Plan
from bootpoint_producer.snapshots.usage import Mount
from bootpoint_producer.sources import Source


class Volume(Part):
    """A part that suspends a volume by itself."""

    def __init__(self, device: int | None) -> None:
        self._device = device

    @property
    def suspends(self) -> int | None:
        return self._device


class Hold:
    """A disk that stands on parts."""

    live = False
    settled = True

    def __init__(self, kind: str, *parts: Part) -> None:
        self.kind = kind
        self.reasons: list[str] = []
        self.parts: Sequence[Part] = parts

    def instant(self) -> None:
        """Nothing to note."""

    def source(self) -> Source:
        raise NotImplementedError

    def path(self) -> str:
        raise NotImplementedError

    def still(self) -> Sequence[Still]:
        return ()

    def moved(self) -> str:
        return ""


ROOT, HOME, DATABASE, BOOT, GUEST = 10, 11, 12, 13, 14
MOUNTS = (
    Mount("/", "ext4", 1, ROOT),
    Mount("/boot", "ext4", 2, BOOT),
    Mount("/home", "xfs", 5, HOME),
    Mount("/srv/guest", "ext4", 7, GUEST),
)


def test_volumes_are_suspended_in_their_turn_and_the_first_one_by_its_snapshot() -> None:
    database, home, root, copy = Volume(DATABASE), Volume(HOME), Volume(ROOT), Volume(None)
    plan = Plan({"a": Hold("lvm", database, copy), "b": Hold("lvm", home, root)}, MOUNTS)
    parts = plan.parts
    assert parts[0] is root, "nothing may be suspended beforehand that has the programs on it"
    assert parts[-1] is copy
    assert joint._frozen(plan, parts) == [DATABASE, "/boot", HOME, "/srv/guest"]


def test_a_part_that_disks_share_is_taken_once() -> None:
    root = Volume(ROOT)
    plan = Plan({"a": Hold("lvm", root), "b": Hold("lvm", root)}, MOUNTS)
    assert plan.parts == [root]
    assert joint._frozen(plan, plan.parts) == ["/boot", "/home", "/srv/guest"]


def test_a_run_bears_the_name_of_its_weakest_disk() -> None:
    assert Plan({"a": Hold("lvm-thin"), "b": Hold("zfs"), "c": Hold("fsfreeze")}).kind == "fsfreeze"
