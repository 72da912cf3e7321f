"""`job init`: a complete file of what an agent and a host say, which reads back as it is."""

from __future__ import annotations

from typing import Any

import pytest

from bootpoint_common.errors import Code, RefusedError
from bootpoint_common.job import Disk, Firmware, read_toml
from bootpoint_common.units import GiB
from bootpoint_ops.draft import draft
from tests.unit.test_job_roundtrip import switched_on


def disk(disk_id: str, path: str, *, eligible: bool = True, mount: str | None = None, **more: Any) -> dict[str, Any]:
    partition = {"number": 1, "path": f"{path}1", "mount": None, "holds": [{"kind": "lv", "mount": mount}]}
    return {
        "id": disk_id, "path": path, "size_bytes": 64 * GiB, "eligible": eligible, "reason": None,
        "partitions": [partition], **more,
    }  # fmt: skip


def host(**changes: Any) -> dict[str, Any]:
    known = {
        "name": "kvm1",
        "kind": "kvm",
        "pool": "kvm",
        "storages": [
            {"name": "slow", "path": "/a", "size_bytes": GiB, "free_bytes": 1},
            {"name": "fast", "path": "/b", "size_bytes": GiB, "free_bytes": GiB},
        ],
        "networks": [{"name": "default", "kind": "nat"}, {"name": "br-dr", "kind": "bridge"}],
        "buses": ["virtio", "scsi"],
        "nic_models": ["virtio"],
        "resource_pools": [],
    }
    return known | changes


MACHINE = {
    "os": "Debian", "kernel": "6.1", "firmware": "uefi", "cpus": 4, "memory_bytes": 16 * GiB,
    "nics": [
        {"name": "eno1", "mac": "3c:ec:ef:00:00:21", "addresses": ["10.1.0.21/24"], "gateway": "10.1.0.1"},
        {"name": "eno2", "mac": "3c:ec:ef:00:00:22", "addresses": [], "gateway": None},
    ],
}  # fmt: skip

UNKNOWN_HOST = host(storages=[], networks=[], buses=[], nic_models=[])

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a server": (
        {"machine": MACHINE, "items": [disk("serial:D", "/dev/sdb"), disk("wwn:0x5000c500", "/dev/sda", mount="/")]},
        host(),
    ),
    "an agent that told little": ({"machine": None, "items": [disk("path:pci-1", "/dev/vda")]}, UNKNOWN_HOST),
    "a tiny machine": (
        {
            "machine": MACHINE | {"memory_bytes": 1000, "firmware": "open", "nics": []},
            "items": [disk("file:/a b", "/a b")],
        },
        host(),
    ),
    "strange names": (
        {
            "machine": MACHINE,
            "items": [
                disk('serial:A"\\x', "/dev/sd\n#evil = 1", mount="/mnt/\u202ex\nname = 'x'"),
                disk("serial:B", "/dev/sdz", eligible=False, reason="uninitialised"),
            ],
        },
        host(storages=[{"name": 'a "b"', "path": "/", "size_bytes": 1, "free_bytes": 1}]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_reads_back_and_so_does_every_key_switched_on(name: str) -> None:
    found, on = CASES[name]
    spec, text = draft("Erp_DB-1", found, on)
    assert read_toml(text) == spec
    read_toml(switched_on(text))
    assert spec.name == "erp-db-1"
    assert [each.id for each in spec.source.disks or ()] == [item["id"] for item in _in_order(found["items"])]


def _in_order(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    eligible = [item for item in items if item["eligible"]]
    return sorted(eligible, key=lambda item: item["partitions"][0]["holds"][0]["mount"] != "/")


def test_a_server_is_copied_as_it_is_to_the_place_that_fits_it() -> None:
    spec, text = draft("erp", *CASES["a server"])
    assert spec.source.disks == (Disk("system", "wwn:0x5000c500"), Disk("disk2", "serial:D"))
    (target,) = spec.targets
    assert (target.vm.cpus, target.vm.memory_bytes, target.vm.firmware) == (4, 16 * GiB, Firmware.UEFI)
    assert [nic.network for nic in target.nics] == ["br-dr", "br-dr"]
    assert target.storage.name == "fast"
    for said in ("/dev/sda, 64.0 GiB: /", "eno1, 3c:ec:ef:00:00:21, 10.1.0.21/24", "default (nat), br-dr (bridge)"):
        assert said in text
    assert "fast (1.0 GiB free), slow" in text or "slow (1 B free), fast (1.0 GiB free)" in text


def test_disks_that_cannot_be_protected_are_named_with_their_reason() -> None:
    _, text = draft("erp", *CASES["strange names"])
    assert "serial:B (/dev/sdz): uninitialised" in text
    with pytest.raises(RefusedError) as refused:
        draft("erp", {"machine": None, "items": [disk("path:a", "/dev/vda", eligible=False, reason="ldm")]}, host())
    assert refused.value.code is Code.SOURCE_INELIGIBLE


def test_what_an_esxi_host_offers_is_named_beside_its_keys() -> None:
    on = host(kind="esxi", buses=["virtio", "nvme"], resource_pools=["prod", "standbys"])
    spec, text = draft("erp", CASES["a server"][0], on)
    (target,) = spec.targets
    assert target.storage.resource_pool == ""
    for said in ("one of virtio, nvme", "the host's own, or one of prod, standbys"):
        assert said in text
    assert "absolute directory" not in text
