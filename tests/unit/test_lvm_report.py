"""What LVM prints (recorded: LVM 2.03.16, Debian 12) is understood."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import MiB
from bootpoint_producer.snapshots.lvm import report
from bootpoint_producer.snapshots.lvm.survey import Refused, Survey
from bootpoint_producer.snapshots.lvm.volume import ThickSnapshot, ThinSnapshot

_NONE = {"pool_lv": "", "origin": "", "thin_id": "", "lv_tags": "", "data_percent": "", "metadata_percent": ""}
_NONE |= {"lv_snapshot_invalid": "unknown", "lv_health_status": "", "vg_extent_size": "4194304", "vg_free_count": "30"}


def row(name: str, group: str, kind: str, minor: int, size: int, **others: str) -> dict[str, str]:
    return {
        **_NONE,
        "lv_name": name,
        "vg_name": group,
        "vg_uuid": "7b6uCb-viOc-oSj2-eHiM-UUSj-Gr9a-izdTsx",
        "lv_uuid": f"ONKceV-ZZcM-6e8y-xvrJ-pJ4J-CrcE-{name.strip('[]')[:6]:x<6}",
        "lv_size": str(size),
        "segtype": kind,
        "lv_kernel_major": "253" if minor >= 0 else "-1",
        "lv_kernel_minor": str(minor),
        "lv_dm_path": f"/dev/mapper/{group.replace('-', '--')}-{name.replace('-', '--')}",
        **others,
    }


VOLUMES = [
    row("root", "vg-a", "linear", 0, 400 * MiB),
    row("ho-me", "vg-a", "striped", 1, 800 * MiB),
    row("one", "vg-a", "thin", 4, 352 * MiB, pool_lv="pool", thin_id="1"),
    row("[pool_tmeta]", "vg-a", "linear", 5, 4 * MiB),
    row("mixed", "vg-a", "linear", -1, 8 * MiB),
    row("mixed", "vg-a", "raid1", -1, 8 * MiB),
    row("kept", "vg-a", "linear", 7, 20 * MiB, origin="root", lv_tags="bootpoint,bootpoint.owner=erp-db"),
    row("lost", "vg-a", "linear", 8, 20 * MiB, origin="root", lv_snapshot_invalid="snapshot invalid"),
]


@pytest.fixture
def lvm(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_json(program: str, *options: str) -> Any:
        rows = {"lvs": ("lv", VOLUMES)}
        name, found = rows[program]
        wanted = options[-1].split(",")
        return {"report": [{name: [{field: each[field] for field in wanted} for each in found]}]}

    monkeypatch.setattr(report, "run_json", run_json)
    monkeypatch.setattr(report, "is_volume", lambda _: True)


@pytest.mark.usefixtures("lvm")
def test_volumes_are_known_by_their_ids_and_numbers() -> None:
    found = {volume.name: volume for volume in report.volumes()}
    assert found["root"].key == "7b6uCbviOcoSj2eHiMUUSjGr9aizdTsx" + "ONKceVZZcM6e8yxvrJpJ4JCrcErootxx"
    assert (found["ho-me"].device, found["ho-me"].path) == (os.makedev(253, 1), Path("/dev/mapper/vg--a-ho--me"))
    assert (found["one"].pool, found["one"].thin_id) == ("pool", 1)
    assert found["pool_tmeta"].hidden
    assert (found["mixed"].device, found["mixed"].kind) == (None, "linear and raid1")
    assert found["kept"].tags == {"bootpoint", "bootpoint.owner=erp-db"}
    assert (found["kept"].health, found["lost"].health) == ("", "invalid")


@pytest.mark.usefixtures("lvm")
def test_a_volume_is_snapshotted_by_its_type_or_refused_by_it() -> None:
    survey = Survey(owner="erp-db")
    by_name = {volume.name: volume for volume in survey.volumes.values()}
    assert isinstance(survey.snapshot(by_name["root"]), ThickSnapshot)
    assert survey.snapshot(by_name["root"]) is survey.snapshot(by_name["root"])
    assert isinstance(survey.snapshot(by_name["one"]), ThinSnapshot)
    for name, words in (("mixed", "linear and raid1"), ("kept", "itself a snapshot")):
        with pytest.raises(Refused, match=words):
            survey.snapshot(by_name[name])
    assert survey.volume(os.makedev(253, 5)) is None, "a part of a volume is none"


@pytest.mark.usefixtures("lvm")
def test_what_is_free_is_shared_by_size() -> None:
    survey = Survey(owner="erp-db")
    by_name = {volume.name: volume for volume in survey.volumes.values()}
    root, home = survey.snapshot(by_name["root"]), survey.snapshot(by_name["ho-me"])
    assert isinstance(root, ThickSnapshot)
    assert isinstance(home, ThickSnapshot)
    # 30 extents for 100 and 200: 10 and 20, though a fifth of each and one more would be 21 and 41.
    assert (root.extents, home.extents) == (10, 20)


@pytest.mark.usefixtures("lvm")
def test_a_group_without_room_is_named_before_anything_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VOLUMES[0], "vg_free_count", "0")
    survey = Survey(owner="erp-db")
    snapshot = survey.snapshot(next(volume for volume in survey.volumes.values() if volume.name == "root"))
    with pytest.raises(BootpointError, match="volume group vg-a has 0 B free for a snapshot of vg-a/root") as caught:
        snapshot.prepare()
    assert caught.value.code == Code.SNAPSHOT_FAILED
    assert "vgextend" in str(caught.value.hint)
