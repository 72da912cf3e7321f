"""What ``host show`` says of each release of the stand-in, and of VMware's library on this machine."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.targets.certificate import fetch_fingerprint
from bootpoint_worker.targets.esxi.client import Client
from bootpoint_worker.targets.esxi.inspect import inspect_host
from bootpoint_worker.targets.esxi.means import LIBDIR_SETTING, PLUGIN_SETTING, find_means
from bootpoint_worker.targets.host import HostAccess
from tests.esxi.server import ADDRESS, Esxi
from tests.esxi.world import ROOT
from tests.service.component import need
from tests.service.vddk import vddk


def access_to(host: Esxi, **settings: object) -> HostAccess:
    legacy = bool(settings.get("legacy_tls"))
    return HostAccess(
        name="esx1",
        kind="esxi",
        address=ADDRESS,
        port=host.port,
        user=ROOT.name,
        password=ROOT.password,
        fingerprint=fetch_fingerprint(ADDRESS, host.port, legacy=legacy),
        settings=settings,
    )


@pytest.mark.parametrize(
    ("guise", "version", "newest"),
    [
        ("6.0", "VMware ESXi 6.0.0", "vmx-11"),
        ("6.7", "VMware ESXi 6.7.0", "vmx-15"),
        ("7.0", "VMware ESXi 7.0.3", "vmx-19"),
        ("8.0", "VMware ESXi 8.0.3", "vmx-21"),
        ("vcenter", "VMware vCenter Server 8.0.3", "vmx-21"),
    ],
)
def test_each_release_says_what_it_is_and_has(tmp_path: Path, guise: str, version: str, newest: str) -> None:
    with Esxi(tmp_path, guise, pools=("standbys",)) as host:
        access = access_to(host, legacy_tls=guise == "6.0")
        with closing(Client(access=access)) as client:
            info = inspect_host(client, access)
            assert client.thumbprint == host.thumbprint
    assert info.version.startswith(version)
    assert info.hardware_versions[-1] == newest
    assert [storage.name for storage in info.storages] == ["datastore1"]
    assert info.resource_pools == ("standbys",)
    assert info.licence is not None


def test_a_release_of_old_is_refused_before_the_password_is_sent(tmp_path: Path) -> None:
    with Esxi(tmp_path, "5.0") as host, closing(Client(access=access_to(host, legacy_tls=True))) as client:
        with pytest.raises(BootpointError) as problem:
            _ = client.content
        assert host.world.sessions.count == 0
    assert problem.value.code is Code.HOST_UNSUPPORTED
    assert "vSphere 5.1 or later" in problem.value.message


def test_the_licence_forbids_where_its_edition_does_not_say_so(tmp_path: Path) -> None:
    """The fault of any call is the authority: an account may not see the licence, and new editions have new names."""
    with Esxi(tmp_path, "8.0") as host, closing(Client(access=access_to(host))) as client:
        [(center, _)] = client.read_all("Datacenter", "name")
        files = client.content.fileManager
        host.world.trouble.free_licence = True
        with pytest.raises(BootpointError) as problem:
            client.call(
                lambda: files.MakeDirectory(name="[datastore1] a", datacenter=center, createParentDirectories=False)
            )
    assert problem.value.code is Code.HOST_LICENCE
    assert "prohibits execution" in problem.value.message


def test_the_library_on_this_machine_is_described(tmp_path: Path) -> None:
    need("nbdkit")
    parts = vddk()
    access = HostAccess(name="esx1", kind="esxi", address=ADDRESS, port=443, user="root")
    access = replace(access, settings={PLUGIN_SETTING: str(parts.plugin), LIBDIR_SETTING: str(parts.libdir)})
    found = find_means(access, "8.0.3")
    assert (found.problems, found.hints) == ((), ())
    assert str(found.description).startswith("nbdkit-vddk-plugin 1.")
    assert str(found.description).endswith("VDDK 8")

    for libdir in (tmp_path, tmp_path / "none"):
        [problem] = find_means(replace(access, settings={**access.settings, LIBDIR_SETTING: str(libdir)}), "8").problems
        assert problem.startswith(f"nbdkit finds no disk library of VMware in {libdir} (")
        assert "`bootpoint host set esx1 --vddk-libdir DIR`" in problem


def test_a_connection_that_the_host_closed_is_made_again_by_what_reads(tmp_path: Path) -> None:
    """As after a restart of its management agent; the certificate is looked at again."""
    with Esxi(tmp_path, "8.0") as host, closing(Client(access=access_to(host))) as client:
        names = client.read_all("HostSystem", "name")
        host.cut()
        host.start()
        assert [found for _, found in client.read_all("HostSystem", "name")] == [found for _, found in names]
        host.renew_certificate()
        host.cut()
        host.start()
        with pytest.raises(BootpointError) as problem:
            client.read_all("HostSystem", "name")
        assert problem.value.code is Code.HOST_KEY_CHANGED
