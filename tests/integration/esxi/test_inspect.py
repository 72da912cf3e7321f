"""What ``host show`` says of an ESXi host and of a vCenter."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from bootpoint_worker.targets.esxi.client import Client
from bootpoint_worker.targets.esxi.inspect import inspect_host
from tests.esxi.vcsim import vcsim


@pytest.mark.parametrize(
    ("flags", "version", "networks"),
    [
        ((), "VMware ESXi 6.5.0 build-5969303", [("VM Network", "bridge")]),
        (
            ("-vcenter",),
            "VMware vCenter Server 6.5.0 build-5973321",
            [("DC0_DVPG0", "bridge"), ("VM Network", "bridge")],
        ),
    ],
)
def test_a_host_says_what_it_is_and_has(
    tmp_path: Path, flags: tuple[str, ...], version: str, networks: list[tuple[str, str]]
) -> None:
    with vcsim(tmp_path, *flags) as simulator, closing(Client(access=simulator.access())) as client:
        [(root, _)] = client.read_all("ResourcePool", "name")
        client.call(lambda: root.CreateResourcePool(name="standbys", spec=_pool()))
        info = inspect_host(client, simulator.access())
    assert (info.version, info.licence) == (version, "Evaluation Mode (eval)")
    assert (info.cpus, info.memory_bytes) == (2, 4294430720)
    [store] = info.storages
    assert store.name == "LocalDS_0"
    assert 0 < store.free_bytes <= store.size_bytes
    assert Path(store.path).is_relative_to(simulator.files)
    assert [(network.name, network.kind) for network in info.networks] == networks
    assert info.resource_pools == ("standbys",)
    assert info.hardware_versions == ("vmx-13",)


def _pool() -> object:
    from pyVmomi import vim

    plenty = vim.ResourceAllocationInfo(
        reservation=0, limit=-1, expandableReservation=True, shares=vim.SharesInfo(level="normal", shares=1000)
    )
    return vim.ResourceConfigSpec(cpuAllocation=plenty, memoryAllocation=plenty)


def test_what_is_missing_on_this_machine_is_a_problem_with_a_remedy(tmp_path: Path) -> None:
    with vcsim(tmp_path) as simulator:
        access = simulator.access(vddk_plugin=str(tmp_path / "none.so"))
        with closing(Client(access=access)) as client:
            [problem] = inspect_host(client, access).problems
    assert "--vddk-plugin FILE" in problem
