"""What the stand-in of ESXi has, and can run, is found by walking, by views, in pages, and by browsing datastores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from tests.esxi.client import Client, Device, connect
from tests.esxi.server import Esxi
from tests.service.component import need

Query = vmodl.query.PropertyCollector


@pytest.fixture(params=["6.7", "7.0", "8.0", "vcenter"])
def client(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Client]:
    need("pyvmomi", "qemu-img")
    with Esxi(tmp_path, request.param, pools=("standbys",)) as host, connect(host) as made:
        yield made


def walk(client: Client, *, most: int | None) -> Iterator[Any]:
    """Yield the machines, found from the root by way of datacenter and folders, page by page."""
    folders = Query.TraversalSpec(name="folders", type=vim.Folder, path="childEntity")
    machines = Query.TraversalSpec(name="machines", type=vim.Datacenter, path="vmFolder")
    back = [Query.SelectionSpec(name="folders"), Query.SelectionSpec(name="machines")]
    folders.selectSet = machines.selectSet = back
    start = Query.ObjectSpec(obj=client.service.content.rootFolder, selectSet=[folders, machines])
    wanted = Query.PropertySpec(type=vim.VirtualMachine, pathSet=["name"])
    collector = client.service.content.propertyCollector
    page = collector.RetrievePropertiesEx(
        [Query.FilterSpec(objectSet=[start], propSet=[wanted])], Query.RetrieveOptions(maxObjects=most)
    )
    while page is not None:
        assert most is None or len(page.objects) <= most
        yield from page.objects
        page = collector.ContinueRetrievePropertiesEx(page.token) if page.token else None


def test_machines_are_found_from_the_root_all_at_once_and_in_pages(client: Client) -> None:
    names = [f"standby-{number}" for number in range(3)]
    for name in names:
        client.create(name, disks=0)
    for most in (None, 2, 1):
        assert [each.propSet[0].val for each in walk(client, most=most)] == names


def test_a_view_holds_what_is_there_at_the_moment(client: Client) -> None:
    content = client.service.content
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    assert view.view == []
    machine = client.create(disks=0)
    assert view.view == [machine]
    client.result(machine.Destroy_Task())
    assert view.view == []
    pools = content.viewManager.CreateContainerView(content.rootFolder, [vim.ResourcePool], True)
    assert {pool.name for pool in pools.view} == {"Resources", "standbys"}


def test_guests_are_known_by_the_hardware_that_the_release_has(client: Client) -> None:
    browser = client.datacenter.hostFolder.childEntity[0].environmentBrowser
    (newest,) = [each.key for each in browser.QueryConfigOptionDescriptor() if each.defaultConfigOption]
    assert newest == f"vmx-{client.host.world.guise.hardware}"
    known = {each.id: each for each in browser.QueryConfigOption(newest, None).guestOSDescriptor}
    assert ("debian12_64Guest" in known) == (client.host.world.guise.hardware >= 20)
    assert Device.ParaVirtualSCSIController in known["otherLinux64Guest"].supportedDiskControllerList
    assert [each.name for each in browser.QueryConfigTarget(None).network] == ["VM Network", "Isolated"]


def test_a_datastore_is_browsed_and_shows_a_disk_as_one_file(client: Client) -> None:
    client.snapshot(client.create(), "V1")
    (datastore,) = client.datacenter.datastore
    spec = vim.host.DatastoreBrowser.SearchSpec(matchPattern=["*.vmdk"])
    found = client.result(datastore.browser.SearchDatastoreSubFolders_Task("[datastore1]", spec))
    assert {each.folderPath: [file.path for file in each.file] for each in found} == {
        "[datastore1]": [], "[datastore1] standby/": ["standby-000001.vmdk", "standby.vmdk"]
    }  # fmt: skip
    assert 0 < datastore.summary.freeSpace < datastore.summary.capacity
