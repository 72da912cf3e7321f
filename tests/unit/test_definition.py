"""From a job and what is known of its source and its host to the standby VM."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.identity import new_id
from bootpoint_common.job import Spec, read_toml
from bootpoint_common.units import GiB, MiB
from bootpoint_worker.definition import SourceDisk, build, run_disks, selected, slot_of
from bootpoint_worker.replica import as_json, from_json
from bootpoint_worker.targets.host import HostInfo, Network
from bootpoint_worker.targets.replica import Replica, new_mac

MACHINE = {
    "firmware": "uefi",
    "cpus": 4,
    "memory_bytes": 16 * GiB,
    "nics": [{"name": "eno1", "mac": "3c:ec:ef:00:00:21"}, {"name": "eno2", "mac": "3c:ec:ef:00:00:22"}],
}
DISKS = (SourceDisk("system", "serial:A", 64 * GiB),)


def spec(target: str = "", source: str = "") -> Spec:
    return read_toml(f'name = "erp"\n[source]\nagent = "erp"\n{source}\n[[target]]\nhost = "kvm1"\n{target}\n')


def info(*networks: str, buses: tuple[str, ...] = ("virtio", "sata")) -> HostInfo:
    return HostInfo(
        version="1",
        cpus=8,
        memory_bytes=64 * GiB,
        storages=(),
        networks=tuple(Network(name, "bridge") for name in networks),
        buses=buses,
        nic_models=("virtio", "e1000e"),
        vms=(),
    )


def made(
    job: Spec,
    host: HostInfo,
    *,
    machine: dict[str, Any] | None = MACHINE,
    previous: Replica | None = None,
    disks: tuple[SourceDisk, ...] = DISKS,
) -> Replica:
    numbers = count(1)
    return build(
        new_id(),
        job,
        job.targets[0],
        disks=disks,
        machine=machine,
        info=host,
        previous=previous,
        mac=lambda: f"52:54:00:00:00:{next(numbers):02x}",
    )


def test_what_the_job_file_leaves_out_is_as_on_the_source() -> None:
    replica = made(spec(), info("br-dr"))
    assert (replica.vm_name, replica.cpus, replica.memory_bytes, replica.firmware) == (
        "erp-standby",
        4,
        16 * GiB,
        "uefi",
    )
    assert [(disk.disk_name, disk.size_bytes, disk.bus) for disk in replica.disks] == [
        ("erp-standby-system", 64 * GiB, "virtio")
    ]
    assert [(nic.network, nic.model, nic.connect) for nic in replica.nics] == [("br-dr", "virtio", True)] * 2
    assert len({nic.mac for nic in replica.nics}) == 2


def test_a_source_that_never_told_gets_a_small_machine_with_one_card() -> None:
    replica = made(spec(), info("default"), machine=None)
    assert (replica.cpus, replica.memory_bytes, replica.firmware, len(replica.nics)) == (1, 512 * MiB, "bios", 1)


def test_what_the_job_file_says_holds() -> None:
    replica = made(
        spec(
            'vm = { name = "dr", cpus = 2, memory = "1GiB", firmware = "bios" }\n'
            'storage = { name = "fast", folder = "a/b", disk_name = "x-{slot}", provisioning = "thick", bus = "sata" }'
            "\n"
            '[[target.nic]]\nnetwork = "two"\nmodel = "e1000e"\nmac = "52:54:00:aa:bb:cc"\nconnect = false'
        ),
        info("one", "two"),
    )
    assert (replica.vm_name, replica.cpus, replica.memory_bytes, replica.firmware) == ("dr", 2, GiB, "bios")
    assert (replica.storage, replica.folder) == ("fast", "a/b")
    disk, nic = replica.disks[0], replica.nics[0]
    assert (disk.disk_name, disk.provisioning, disk.bus) == ("x-system", "thick", "sata")
    assert (nic.network, nic.model, nic.mac, nic.connect) == ("two", "e1000e", "52:54:00:aa:bb:cc", False)


def test_with_several_networks_one_must_be_named_and_the_message_lists_them() -> None:
    with pytest.raises(BootpointError, match="one, two") as caught:
        made(spec(), info("one", "two"))
    assert (caught.value.code, caught.value.key) == (Code.NETWORK_UNKNOWN, "target.nic[0].network")


def test_a_network_that_the_host_lacks_is_refused_with_what_it_has() -> None:
    with pytest.raises(BootpointError, match="it has: one, two") as caught:
        made(spec('[[target.nic]]\nnetwork = "three"'), info("one", "two"))
    assert (caught.value.code, caught.value.value) == (Code.NETWORK_UNKNOWN, "three")


def test_a_host_without_networks_gets_cards_that_are_not_connected() -> None:
    assert [nic.network for nic in made(spec(), info()).nics] == [None, None]


def test_a_new_mac_is_new_once() -> None:
    first = made(spec(), info("default"))
    numbers = count(100)
    again = build(
        first.replica_id,
        spec(),
        spec().targets[0],
        disks=DISKS,
        machine=MACHINE,
        info=info("default"),
        previous=first,
        mac=lambda: f"52:54:00:00:01:{next(numbers):02x}",
    )
    assert again.nics == first.nics


def test_a_kept_mac_is_the_sources_and_new_replaces_it_later() -> None:
    kept = made(spec('[[target.nic]]\nmac = "keep"'), info("default"))
    assert kept.nics[0].mac == "3c:ec:ef:00:00:21"
    assert made(spec('[[target.nic]]\nmac = "new"'), info("default"), previous=kept).nics[0].mac.startswith("52:54:00")


def test_new_macs_are_unicast_and_differ() -> None:
    macs = {new_mac() for _ in range(100)}
    assert len(macs) > 95
    assert all(not int(mac[:2], 16) & 1 for mac in macs)


def test_an_edit_takes_cpus_memory_and_name_over_and_leaves_files_and_firmware() -> None:
    first = made(spec(), info("default"))
    edited = spec('vm = { name = "other", cpus = 8, memory = "32GiB" }')
    again = made(edited, info("default"), previous=first, machine={**MACHINE, "firmware": "bios"})
    assert (again.vm_name, again.cpus, again.memory_bytes) == ("other", 8, 32 * GiB)
    assert (again.firmware, again.disks[0].disk_name) == ("uefi", "erp-standby-system")


def test_the_definition_survives_the_database() -> None:
    replica = made(spec(), info("default"))
    assert from_json(as_json(replica)) == replica


# --- disks


def item(disk_id: str, path: str, *, eligible: bool = True, mount: str | None = None) -> dict[str, Any]:
    partitions: list[dict[str, Any]] = [{"mount": mount, "holds": []}]
    return {
        "id": disk_id, "path": path, "size_bytes": GiB, "used_bytes": MiB, "eligible": eligible,
        "reason": None if eligible else "swap_only", "partitions": partitions,
    }  # fmt: skip


INVENTORY = {
    "machine": MACHINE,
    "items": [
        item("serial:DATA", "/dev/sda", mount="/srv"),
        item("serial:ROOT", "/dev/sdb", mount="/"),
        item("serial:SWAP", "/dev/sdc", eligible=False),
        item("file:/srv/images/erp.raw", "/srv/images/erp.raw"),
    ],
}


def test_all_disks_are_the_eligible_ones_with_the_boot_disk_first() -> None:
    found = selected(spec(), INVENTORY)
    assert [disk.id for disk in found] == ["serial:ROOT", "serial:DATA", "file:/srv/images/erp.raw"]
    assert [disk.slot for disk in found] == ["root", "data", "erp"]
    assert [
        disk.id for disk in run_disks({"name": "erp", "source": {"agent": "erp"}, "target": [{"host": "k"}]}, INVENTORY)
    ] == [disk.id for disk in found]


def test_a_standbys_disk_has_the_sectors_of_its_source_also_while_that_is_silent() -> None:
    large = [{**INVENTORY["items"][0], "logical_sector_bytes": 4096}]  # type: ignore[index]
    listed = spec(source='disks = [{ slot = "data", id = "serial:DATA" }]')
    disks = selected(listed, {"items": large})
    assert disks[0].sector_bytes == 4096
    first = made(listed, info("default"), disks=disks)
    assert first.disks[0].sector_bytes == 4096
    assert made(listed, info("default"), disks=selected(listed, None), previous=first).disks[0].sector_bytes == 4096
    assert made(listed, info("default"), disks=selected(listed, INVENTORY)).disks[0].sector_bytes == 512


def test_the_slot_of_a_disk_depends_on_its_id_alone() -> None:
    assert slot_of("serial:S3Z8_NB0K") == "s3z8-nb0k"
    assert slot_of("file:/a/b/My Disk.raw") == "my-disk"
    assert len(slot_of("path:pci-0000:00:1f.2-ata-3-and-so-on-and-so-forth")) <= 31


@pytest.mark.parametrize(
    ("disk_id", "code"), [("serial:GONE", Code.DISK_MISSING), ("serial:SWAP", Code.SOURCE_INELIGIBLE)]
)
def test_a_disk_that_is_not_there_or_not_eligible_is_named(disk_id: str, code: Code) -> None:
    job = spec(source=f'disks = [{{ slot = "system", id = "{disk_id}" }}]')
    with pytest.raises(BootpointError, match=disk_id) as caught:
        selected(job, INVENTORY, fresh=True)
    assert (caught.value.code, caught.value.key) == (code, "source.disks[0].id")


def test_a_listed_disk_that_the_last_list_lacks_may_be_there_by_now() -> None:
    job = spec(source='disks = [{ slot = "system", id = "serial:GONE" }]')
    assert selected(job, INVENTORY) == (SourceDisk("system", "serial:GONE", 0),)


def test_listed_disks_need_no_inventory_but_all_disks_do() -> None:
    listed = spec(source='disks = [{ slot = "system", id = "serial:A" }]')
    assert selected(listed, None) == (SourceDisk("system", "serial:A", 0),)
    with pytest.raises(BootpointError) as caught:
        selected(spec(), None)
    assert caught.value.code == Code.AGENT_OFFLINE
