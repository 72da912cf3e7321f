"""Disks with sectors of 4,096 bytes: protected where the standby's disks can have such, refused by name where not."""

from __future__ import annotations

import random
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import MiB
from bootpoint_worker import sector
from bootpoint_worker.definition import SourceDisk
from bootpoint_worker.replica import from_json
from bootpoint_worker.targets import fake
from bootpoint_worker.targets.host import HostInfo
from bootpoint_worker.targets.kvm import domain
from bootpoint_worker.targets.replica import Replica, ReplicaDisk
from tests.integration.source.loop import Attach
from tests.service.component import need
from tests.service.fleet import fleet


def replica(bus: str, sector_bytes: int) -> Replica:
    made = ReplicaDisk("system", MiB, "erp-system", bus, sector_bytes=sector_bytes)
    return Replica(
        replica_id=uuid4(), job="erp", vm_name="erp-standby", storage="default", folder="", cpus=1,
        memory_bytes=MiB, firmware="uefi", disks=(made,), nics=(),
    )  # fmt: skip


def host(*buses: str) -> HostInfo:
    return HostInfo(
        version="1", cpus=1, memory_bytes=MiB, storages=(), networks=(), buses=("virtio", "sata"), nic_models=(),
        vms=(), large_sector_buses=buses,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("bus", "size", "able", "hint"),
    [
        ("sata", 4096, ("virtio", "scsi"), 'set storage.bus = "virtio" or "scsi"'),
        ("virtio", 4096, (), "no bus of this host can do that: name another host"),
        ("virtio", 4096, ("virtio",), None),
        ("sata", 512, (), None),
    ],
)
def test_only_some_buses_have_large_sectors(bus: str, size: int, able: tuple[str, ...], hint: str | None) -> None:
    disks = (SourceDisk("system", "serial:A", MiB, None, size),)
    if hint is None:
        sector.require(replica(bus, size), disks, host(*able))
        return
    with pytest.raises(BootpointError, match=r"serial:A has sectors of 4096 bytes \(sector_size\)") as caught:
        sector.require(replica(bus, size), disks, host(*able))
    assert (caught.value.code, caught.value.key, caught.value.hint) == (
        Code.SOURCE_INELIGIBLE, "target.storage.bus", hint,
    )  # fmt: skip


def test_a_4kn_disk_is_refused_or_copied_as_the_bus_allows(
    database: str, tmp_path: Path, attach: Attach, rng: random.Random
) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(rng.randbytes(MiB))
    device = attach(image, "--sector-size", "4096")
    with fleet(database, tmp_path) as installation:
        installation.add_worker("w1")
        host_id = installation.add_host(f"fake-{tmp_path.name}")
        installation.add_agent("erp", [device])
        installation.wait_until(lambda: installation.row("SELECT 1 FROM agent WHERE inventory IS NOT NULL"))
        jobs = {
            bus: installation.add_job(bus, "erp", {"system": device}, host_id, target={"storage": {"bus": bus}})
            for bus in ("sata", "scsi")
        }
        refused = installation.wait(installation.run(jobs["sata"]), state="failed")
        assert refused["reason"] == "source_ineligible"
        assert f"disk file:{device} has sectors of 4096 bytes" in refused["message"]
        installation.wait(installation.run(jobs["scsi"]))
        row: Any = installation.row("SELECT definition FROM replica WHERE job_id = %s", jobs["scsi"])
        assert from_json(row["definition"]).disks[0].sector_bytes == 4096


@pytest.mark.parametrize("bus", domain.BUSES)
def test_qemu_agrees_which_buses_can(tmp_path: Path, bus: str) -> None:
    need("qemu", "qemu-img")
    devices = {"virtio": "virtio-blk-pci", "scsi": "scsi-hd", "sata": "ide-hd", "ide": "ide-hd"}
    image = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"], check=True)
    sizes = "logical_block_size=4096,physical_block_size=4096,discard_granularity=4096"
    done = subprocess.run(
        ["qemu-system-x86_64", "-machine", "pc" if bus == "ide" else "q35", "-S", "-display", "none",
         "-monitor", "stdio", "-device", "virtio-scsi-pci", "-drive", f"if=none,id=d,file={image}",
         "-device", f"{devices[bus]},drive=d,{sizes}"],
        input="quit\n", text=True, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) == (bus in domain.LARGE_SECTOR_BUSES), done.stderr
    assert fake.LARGE_SECTOR_BUSES == domain.LARGE_SECTOR_BUSES


def test_the_standby_is_defined_with_the_sources_sectors() -> None:
    disks = (domain.Disk("/d/a", "virtio", 4096), domain.Disk("/d/b", "virtio"))
    text = domain.domain_xml(
        domain.Definition(
            name="erp-standby", uuid=uuid4(), replica_id=uuid4(), directory="/d", virt_type="qemu", cpus=1,
            memory_bytes=MiB, firmware="bios", disks=disks,
        )
    )  # fmt: skip
    found = [disk.find("blockio") for disk in ET.fromstring(text).iterfind("./devices/disk")]
    assert found[0] is not None
    assert found[0].attrib == {"logical_block_size": "4096", "physical_block_size": "4096"}
    assert found[1] is None
