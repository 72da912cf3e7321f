"""Hosts as the stand-in pretends them: each Windows Server, with and without Hyper-V, and a cluster of two nodes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootpoint_common.errors import Code
from bootpoint_common.units import GiB
from bootpoint_worker.targets.certificate import normalised
from bootpoint_worker.targets.host import HostAccess, Network, Node, Role
from bootpoint_worker.targets.hyperv.cluster import set_role
from bootpoint_worker.targets.hyperv.inspect import inspect_host
from bootpoint_worker.targets.hyperv.session import HyperVSession
from tests.hyperv.client import run
from tests.hyperv.cluster import Cluster
from tests.hyperv.guise import GUISES
from tests.hyperv.host import Host
from tests.hyperv.machine import Switch
from tests.hyperv.plain import refused
from tests.service.component import need


@pytest.fixture(autouse=True)
def _components() -> None:
    need("root", "samba")


@contextlib.contextmanager
def opened(host: Host) -> Iterator[HyperVSession]:
    access = HostAccess(
        name="hv1",
        kind="hyperv",
        address=host.address,
        port=host.winrm.port,
        user=host.username,
        password=host.password,
        fingerprint=normalised(host.winrm.fingerprint),
        settings={"winrm": "tls" if host.winrm.tls else "http", "smb_port": host.samba.port},
    )
    with contextlib.closing(HyperVSession(access)) as made:
        yield made


@pytest.mark.parametrize("guise", [name for name in GUISES if name != "2008r2"])
def test_every_windows_says_what_it_is_and_has(tmp_path: Path, guise: str) -> None:
    switches = {"LAN": Switch.External, "lab": Switch.Internal, "alone": Switch.Private}
    with Host(tmp_path / "hv1", guise, switches=switches, tls=True) as host, opened(host) as session:
        found = inspect_host(session)
    windows = GUISES[guise]
    module = {"2012": "1.0", "2012r2": "1.1"}.get(guise, "2.0.0.0")
    text = f"{windows.caption} {windows.version}, Hyper-V module {module}, PowerShell {windows.powershell}"
    assert found.version == text
    assert [each.name for each in found.storages] == ["C:", "D:"]
    assert all(0 < each.free_bytes <= each.size_bytes for each in found.storages)
    assert found.networks == (Network("LAN", "bridge"), Network("lab", "route"), Network("alone", "isolated"))
    assert (found.cpus, found.memory_bytes, found.cluster) == (8, 64 * GiB, None)
    assert any("Secure Boot" in hint for hint in found.hints) == (guise in ("2012", "2012r2"))


def test_windows_server_2008_r2_is_refused_by_name(tmp_path: Path) -> None:
    refusal = refused(Code.HOST_UNSUPPORTED, "Windows Server 2008 R2", "2012 or later")
    with Host(tmp_path / "hv1", "2008r2") as host, opened(host) as session, refusal:
        inspect_host(session)


def test_a_windows_without_hyper_v_is_refused(tmp_path: Path) -> None:
    refusal = refused(Code.HOST_UNSUPPORTED, "Windows Server 2022", "Install-WindowsFeature")
    with Host(tmp_path / "hv1", hyperv=False) as host, opened(host) as session, refusal:
        inspect_host(session)


#: Makes a VM on the shared volume, and tells its id.
MAKE = """
$vm = New-VM -Name erp -Path 'C:\\ClusterStorage\\Volume1' -MemoryStartupBytes 512MB -Generation 2 -NoVHD
New-VHD -Path 'C:\\ClusterStorage\\Volume1\\erp\\disk.vhdx' -SizeBytes 64MB -Dynamic | Out-Null
Add-VMHardDiskDrive -VM $vm -ControllerType SCSI -Path 'C:\\ClusterStorage\\Volume1\\erp\\disk.vhdx'
@{ id = "$($vm.Id)" } | ConvertTo-Json
"""


def test_a_cluster_of_two_nodes(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "shared")
    with (
        Host(tmp_path / "hv1", cluster=cluster) as host,
        Host(tmp_path / "hv2", name="HV2", cluster=cluster),
        opened(host) as session,
    ):
        found = inspect_host(session)
        assert found.cluster is not None
        assert (found.cluster.name, found.cluster.node) == ("CL1", "HV1")
        assert found.cluster.nodes == (Node("HV1", "up"), Node("HV2", "up"))
        assert "C:\\ClusterStorage\\Volume1" in [each.name for each in found.storages]

        vm_id = run(host, MAKE)["id"]
        assert set_role(session, vm_id, add=True) == Role("erp", "HV1", changed=True)
        assert not set_role(session, vm_id, add=True).changed
        assert set_role(session, vm_id, add=False) == Role(None, None, changed=True)

        host.trouble.second_hop = False
        with refused(Code.HOST_PERMISSION, "NTLM", "--auth kerberos"):
            set_role(session, vm_id, add=True)
        assert any("Kerberos" in hint for hint in inspect_host(session).hints)
