"""The stand-in of ESXi speaks to VMware's own client as a host does: logins, licences, machines, snapshots, files."""

from __future__ import annotations

import base64
import contextlib
import ssl
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim, vmodl

from bootpoint_common.units import MiB
from tests.esxi.client import Client, connect, leaves, machine_spec
from tests.esxi.server import Esxi
from tests.esxi.session import User
from tests.esxi.world import ROOT

Query = vmodl.query.PropertyCollector


def retrieve(client: Client, machine: Any, *paths: str, most: int | None = None) -> dict[str, Any]:
    properties = Query.PropertySpec(type=vim.VirtualMachine, pathSet=list(paths))
    filters = Query.FilterSpec(propSet=[properties], objectSet=[Query.ObjectSpec(obj=machine)])
    collector = client.service.content.propertyCollector
    found = collector.RetrievePropertiesEx([filters], Query.RetrieveOptions(maxObjects=most))
    return {each.name: each.val for each in found.objects[0].propSet}


def test_a_wrong_password_is_refused_and_a_session_ends(host: Esxi) -> None:
    with pytest.raises(vim.fault.InvalidLogin), connect(host, password="wrong"):
        pass
    with connect(host) as client:
        assert client.service.content.sessionManager.currentSession.userName == ROOT.name
        host.world.sessions.expire()
        with pytest.raises(vim.fault.NotAuthenticated):
            _ = client.datacenter


@pytest.mark.parametrize(
    ("guise", "product"), [("6.7", "VMware ESXi 6.7.0"), ("vcenter", "VMware vCenter Server 8.0.3")]
)
def test_a_client_finds_out_what_it_speaks_to(tmp_path: Path, guise: str, product: str) -> None:
    with Esxi(tmp_path, guise) as host:
        service: Any = SmartConnect(  # type: ignore[no-untyped-call] # its package has no types for it
            host="127.0.0.1", port=host.port, user=ROOT.name, pwd=ROOT.password, disableSslCertValidation=True
        )
        assert service.content.about.fullName.startswith(product)
        assert service._stub.version == host.world.guise.spoken
        Disconnect(service)  # type: ignore[no-untyped-call] # likewise
        service._stub.DropConnections()
        assert host.world.sessions.count == 0


def test_a_machine_is_made_with_what_was_asked_for_and_no_name_is_given_twice(client: Client) -> None:
    machine = client.create("standby", disks=2, annotation="id 4711", firmware="efi")

    assert retrieve(client, machine, "name", "config.annotation", "config.firmware", "runtime.powerState") == {
        "name": "standby", "config.annotation": "id 4711", "config.firmware": "efi", "runtime.powerState": "poweredOff"
    }  # fmt: skip
    assert leaves(machine) == ["[datastore1] standby/standby.vmdk", "[datastore1] standby/standby_1.vmdk"]
    # What is unset is left out, as by a host, and what isn't there is an error.
    assert retrieve(client, machine, "snapshot", "name") == {"name": "standby"}
    with pytest.raises(vmodl.query.InvalidProperty):
        retrieve(client, machine, "config.nothing")
    with pytest.raises(vim.fault.DuplicateName):
        client.create("standby")


def test_a_machine_that_can_not_be_made_leaves_nothing_behind(host: Esxi, client: Client) -> None:
    with pytest.raises(vim.fault.InvalidDatastore):
        client.create(files=vim.vm.FileInfo(vmPathName="[elsewhere]"))
    with pytest.raises(vim.fault.VirtualHardwareVersionNotSupported):
        client.create(version="vmx-99")
    with pytest.raises(vmodl.fault.InvalidArgument):
        client.create(guestId="noSuchGuest")
    spec = machine_spec("standby", size_bytes=200 * 1024 * MiB)
    spec.deviceChange[-1].device.backing.thinProvisioned = False
    with pytest.raises(vim.fault.NoDiskSpace):
        client.result(client.datacenter.vmFolder.CreateVM_Task(spec, client.pool))

    assert client.datacenter.vmFolder.childEntity == []
    assert list(host.world.datastores[0].directory.iterdir()) == []


def test_a_snapshot_freezes_a_file_and_the_machine_writes_to_a_new_one(client: Client) -> None:
    machine = client.create()
    first = client.snapshot(machine, "V1")
    second = client.snapshot(machine, "V2")

    assert leaves(first) == ["[datastore1] standby/standby.vmdk"]
    assert leaves(second) == ["[datastore1] standby/standby-000001.vmdk"]
    assert leaves(machine) == ["[datastore1] standby/standby-000002.vmdk"]
    backing = machine.config.hardware.device[-1].backing
    assert backing.parent.parent.fileName == leaves(first)[0]

    client.result(first.RevertToSnapshot_Task())
    assert leaves(machine) == ["[datastore1] standby/standby-000003.vmdk"]
    assert machine.snapshot.currentSnapshot == first
    third = client.snapshot(machine, "V3")
    (root,) = machine.snapshot.rootSnapshotList
    assert [each.snapshot for each in root.childSnapshotList] == [second, third]


def test_removing_the_oldest_snapshot_merges_the_next_file_into_the_base(host: Esxi, client: Client) -> None:
    machine = client.create()
    first, second = (client.snapshot(machine, name) for name in ("V1", "V2"))
    client.result(first.RemoveSnapshot_Task(removeChildren=False))

    assert [each.snapshot for each in machine.snapshot.rootSnapshotList] == [second]
    assert leaves(second) == ["[datastore1] standby/standby.vmdk"]
    assert leaves(machine) == ["[datastore1] standby/standby-000002.vmdk"]
    folder = host.world.datastores[0].directory / "standby"
    assert not (folder / "standby-000001.vmdk").exists()
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        first.RemoveSnapshot_Task(removeChildren=False)


def test_files_that_could_not_be_merged_want_consolidation(host: Esxi, client: Client) -> None:
    machine = client.create()
    first, second = (client.snapshot(machine, name) for name in ("V1", "V2"))
    host.world.trouble.merges_locked = 1
    with pytest.raises(vim.fault.FileLocked):
        client.result(first.RemoveSnapshot_Task(removeChildren=False))

    assert [each.snapshot for each in machine.snapshot.rootSnapshotList] == [second]
    assert machine.runtime.consolidationNeeded
    client.result(machine.ConsolidateVMDisks_Task())
    assert not machine.runtime.consolidationNeeded
    assert leaves(second) == ["[datastore1] standby/standby.vmdk"]


def test_the_free_licence_and_a_vcenter_forbid_every_change(host: Esxi, client: Client) -> None:
    machine = client.create()
    host.world.trouble.free_licence = True
    assert [each.editionKey for each in client.service.content.licenseManager.licenses] == ["esxBasic"]
    with pytest.raises(vim.fault.RestrictedVersion):
        machine.CreateSnapshot_Task(name="V1", memory=False, quiesce=False)
    host.world.trouble.free_licence = False
    host.world.trouble.managed_by = "10.0.0.5"
    with pytest.raises(vim.fault.HostAccessRestrictedToManagementServer) as raised:
        machine.PowerOnVM_Task()
    assert raised.value.managementServer == "10.0.0.5"
    assert machine.runtime.powerState == "poweredOff"


def test_a_user_may_only_what_the_role_allows(host: Esxi, client: Client) -> None:
    host.world.sessions.users.append(User("backup", "pw", frozenset({"VirtualMachine.State.CreateSnapshot"})))
    machine = client.create()
    with connect(host, "backup", "pw") as other:
        (seen,) = other.datacenter.vmFolder.childEntity
        other.snapshot(seen, "V1")
        with pytest.raises(vim.fault.NoPermission) as raised:
            seen.PowerOnVM_Task()
    assert raised.value.privilegeId == "VirtualMachine.Interact.PowerOn"
    assert [each.name for each in machine.snapshot.rootSnapshotList] == ["V1"]


def ask(
    host: Esxi, method: str, path: str, body: bytes | None = None, password: str = ROOT.password
) -> tuple[int, bytes]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    login = base64.b64encode(f"{ROOT.name}:{password}".encode()).decode()
    with contextlib.closing(HTTPSConnection("127.0.0.1", host.port, context=context)) as connection:
        connection.request(method, path, body, {"Authorization": f"Basic {login}"})
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_files_are_put_and_got_beside_a_machines_own_and_only_by_who_may(host: Esxi, client: Client) -> None:
    client.create()
    path = "/folder/standby/journal.json?dcPath=ha-datacenter&dsName=datastore1"
    assert ask(host, "PUT", path, b'{"id": 1}') == (201, b"")
    assert ask(host, "GET", path) == (200, b'{"id": 1}')
    assert ask(host, "PUT", path.replace("standby", "nobody"), b"")[0] == 404
    assert ask(host, "PUT", path.replace("datastore1", "elsewhere"), b"")[0] == 404
    assert ask(host, "PUT", path.replace("standby", "../.."), b"")[0] == 404
    assert ask(host, "GET", path, password="wrong") == (401, b"")
    assert ask(host, "DELETE", path)[0] == 204
    assert ask(host, "GET", path)[0] == 404
