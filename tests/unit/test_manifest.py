"""Journals as they lie on hosts: what was stored is read, told and stored again, whatever fields have come since."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.targets.kvm import journal as kvm
from bootpoint_worker.targets.layer import Layer
from bootpoint_worker.targets.manifest import ABORTED_KEPT, MERGED_KEPT
from bootpoint_worker.targets.snapshots import journal as snapshots
from bootpoint_worker.targets.standing import Standing

GOLDEN = Path(__file__).parent.parent / "golden"

#: Of each kind a journal that lies on some host, in which every field of its day says something, and who reads it.
FORMS = [
    pytest.param(GOLDEN / "journal_kvm.json", kvm.decode, id="kvm"),
    pytest.param(GOLDEN / "journal_snapshots.json", snapshots.decode, id="snapshots"),
]

Decode = Callable[..., Any]


def _plain(value: object) -> Any:
    """Return a value as it would be stored."""
    return json.loads(msgspec.json.encode(value))


def _says(now: Any, stored: Any) -> bool:
    """Tell whether a value says all that a stored one did."""
    if isinstance(stored, dict):
        return all(key in now and _says(now[key], value) for key, value in stored.items())
    if isinstance(stored, list):
        return len(now) == len(stored) and all(map(_says, now, stored))
    return bool(now == stored)


def _id(number: int) -> UUID:
    """Return a point's id in the examples."""
    return UUID(f"0197a3c0-0002-7000-8000-{number:012x}")


@pytest.mark.parametrize(("file", "decode"), FORMS)
def test_a_stored_journal_is_stored_again_as_it_was(file: Path, decode: Decode) -> None:
    again = decode(file.read_bytes(), host="one").encoded()
    assert _says(json.loads(again), json.loads(file.read_bytes())), again.decode()
    assert decode(again, host="one").encoded() == again


@pytest.mark.parametrize(("file", "decode"), FORMS)
def test_a_stored_journal_is_told_as_it_says(file: Path, decode: Decode) -> None:
    stored, told = json.loads(file.read_bytes()), decode(file.read_bytes(), host="one").described
    journal = told(standby="running", drift="somebody started it")
    assert (journal.vm_name, journal.job, journal.vm_uuid) == ("erp-standby", "erp", stored["vm_uuid"])
    assert (journal.standby, journal.drift, journal.epoch) == ("running", "somebody started it", 3)
    shared = ("point_id", "name", "sequence", "instant", "kind", "consistency", "epoch")
    points = [{key: _plain(getattr(point, key)) for key in shared} for point in journal.points]
    assert points == [{key: point[key] for key in shared} for point in stored["points"]]
    for point, entry in zip(journal.points, stored["points"], strict=True):
        told_disks = [(disk.slot, disk.identity, disk.size_bytes, disk.stored_bytes, disk.root) for disk in point.disks]
        keys = ("slot", "file", "size_bytes", "stored_bytes", "root")
        assert told_disks == [tuple(disk[key] for key in keys) for disk in entry["disks"]]
    assert journal.open_point_id == _id(4)
    files = [(layer["slot"], layer["file"]) for layer in stored["open"]["layers"]]
    assert list(journal.open_layers) == [Layer(_id(4), slot, file) for slot, file in files]
    assert journal.consolidating == _id(1)
    assert journal.standings == (
        Standing(_id(2), "erp-standby", None, held=True),
        Standing(_id(3), "erp-standby-test-7-c0de", "7-c0de", held=False),
    )
    assert _plain(journal.profile) == stored["profile"]
    assert _plain(journal.discarded_at) == stored["discarded_at"]


@pytest.mark.parametrize(("file", "decode"), FORMS)
def test_what_became_of_each_point_is_known(file: Path, decode: Decode) -> None:
    manifest = decode(file.read_bytes(), host="one")
    assert manifest.head.point_id == _id(3)
    # Merged into 12, which was merged into 2; 1 is on its way there; 4 is open, and 8 was aborted.
    assert manifest.heir(_id(11)).point_id == manifest.heir(_id(12)).point_id == _id(2)
    assert manifest.heir(_id(8)) is None
    all_of_them = (1, 2, 3, 4, 8, 11, 12)
    assert [number for number in all_of_them if manifest.was_committed(_id(number))] == [1, 2, 3, 11, 12]
    assert [number for number in all_of_them if manifest.is_over(_id(number))] == [1, 2, 3, 8, 11, 12]
    assert manifest.test("7-c0de").point_id == _id(3)
    assert manifest.test("7") is None
    assert manifest.must_have(None, host="one") is manifest.head
    with pytest.raises(BootpointError) as caught:
        manifest.must_have(_id(11), host="one")
    assert (caught.value.code, caught.value.value) == (Code.NO_SUCH_POINT, str(_id(11)))


@pytest.mark.parametrize(("file", "decode"), FORMS)
def test_only_the_last_aborted_and_merged_points_are_remembered(file: Path, decode: Decode) -> None:
    manifest = decode(file.read_bytes(), host="one")
    for number in range(100, 200):
        point = msgspec.structs.replace(manifest.points[0], point_id=_id(number))
        merging = msgspec.structs.replace(manifest.consolidating, point=point)
        aborted, merged = manifest.aborted_with(_id(number)), manifest.merged_with(merging)
        manifest = msgspec.structs.replace(manifest, aborted=aborted, merged=merged)
    assert manifest.aborted == tuple(_id(number) for number in range(200 - ABORTED_KEPT, 200))
    assert [old.point_id for old in manifest.merged] == [_id(number) for number in range(200 - MERGED_KEPT, 200)]


@pytest.mark.parametrize(("file", "decode"), FORMS)
@pytest.mark.parametrize("data", [b"{", b'{"schema": 2}', b"{}", b'{"schema": 1}'])
def test_a_journal_of_another_kind_is_refused_and_not_rewritten(file: Path, decode: Decode, data: bytes) -> None:
    del file
    with pytest.raises(BootpointError) as caught:
        decode(data, host="one")
    assert caught.value.code is Code.HOST_UNSUPPORTED
