"""The session to a host or a vCenter: certificate, login, renewal, reads, tasks; against VMware's own simulator."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.targets.certificate import CONNECT_TIMEOUT, fetch_fingerprint, fingerprint_of, normalised
from bootpoint_worker.targets.esxi import query
from bootpoint_worker.targets.esxi.client import Client
from bootpoint_worker.targets.host import HostAccess
from tests.esxi.vcsim import Vcsim, vcsim
from tests.service.certificate import Authority, make_authority
from tests.service.process import free_port


@pytest.fixture(scope="module", params=["esx", "vcenter"])
def simulator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vcsim]:
    flags = ("-vcenter",) if request.param == "vcenter" else ()
    with vcsim(tmp_path_factory.mktemp("vcsim"), *flags) as running:
        yield running


@pytest.fixture
def client(simulator: Vcsim) -> Iterator[Client]:
    made = Client(access=simulator.access())
    yield made
    made.close()


def refused(access: HostAccess, code: Code) -> BootpointError:
    """Expect that a host or its credentials are refused at the first use."""
    made = Client(access=access)
    with pytest.raises(BootpointError) as problem:
        _ = made.content
    made.close()
    assert problem.value.code is code, problem.value
    return problem.value


def end_session(simulator: Vcsim, client: Client) -> None:
    """Let the host end a session, as it does with one that was silent for half an hour."""
    key = client.read(client.content.sessionManager, "currentSession")["currentSession"].key
    other = Client(access=simulator.access())
    other.call(lambda: other.content.sessionManager.TerminateSession([key]))
    other.close()


def test_names_of_everything_are_read(client: Client) -> None:
    [(host, found)] = client.read_all("HostSystem", "name", "summary.hardware.numCpuThreads")
    assert found["summary.hardware.numCpuThreads"] == 2
    assert client.read(host, "name") == {"name": found["name"]}
    names = {found["name"] for _, found in client.read_all("Datastore", "name")}
    assert names == {"LocalDS_0"}
    assert client.read_each([], "name") == []


def test_numbers_and_words_are_pythons_own(client: Client) -> None:
    [(_, found)] = client.read_all("HostSystem", "summary.hardware.memorySize", "runtime.connectionState")
    assert {path: type(value) for path, value in found.items()} == {
        "summary.hardware.memorySize": int,
        "runtime.connectionState": str,
    }


def test_a_wrong_password_is_said(simulator: Vcsim) -> None:
    problem = refused(simulator.access(password="wrong"), Code.HOST_AUTH)
    assert "esx1 refuses the login" in problem.message


def test_no_password_is_said(simulator: Vcsim) -> None:
    refused(simulator.access(password=None), Code.CREDENTIALS_NOT_SAVED)


@pytest.mark.parametrize("recorded", [None, "AB:" * 31 + "AB", "AB:" * 19 + "AB"])
def test_another_certificate_than_recorded_is_refused(simulator: Vcsim, recorded: str | None) -> None:
    problem = refused(replace(simulator.access(), fingerprint=recorded), Code.HOST_KEY_CHANGED)
    assert str(problem.value) in problem.message


def test_nothing_is_sent_to_a_host_with_another_certificate(simulator: Vcsim, tmp_path: Path) -> None:
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listening = threading.Thread(target=_listen, args=(listener, make_authority(tmp_path), heard))
        listening.start()
        refused(replace(simulator.access(), port=listener.getsockname()[1]), Code.HOST_KEY_CHANGED)
        listening.join()
    assert heard == [b""]


def _listen(listener: socket.socket, authority: Authority, heard: list[bytes]) -> None:
    """Let one client in, and put down what it says until it goes."""
    with authority.server_context().wrap_socket(listener.accept()[0], server_side=True) as connection:
        heard.append(connection.recv(1000))


def test_a_fingerprint_in_sha1_as_consoles_show_it_is_enough(simulator: Vcsim, client: Client) -> None:
    typed = "SHA1 Fingerprint=" + client.thumbprint
    other = Client(access=replace(simulator.access(), fingerprint=normalised(typed)))
    assert other.content.about.vendor == "VMware, Inc."
    other.close()


def test_a_session_that_the_host_ended_is_renewed_once(simulator: Vcsim, client: Client) -> None:
    [(store, _)] = client.read_all("Datastore", "name")
    for _ in range(2):
        end_session(simulator, client)
        # The object of the old session is as good as before.
        assert client.read(store, "name") == {"name": "LocalDS_0"}


def test_a_session_is_renewed_in_the_midst_of_a_view(simulator: Vcsim, client: Client) -> None:
    assert client.is_vcenter == ("vCenter" in client.content.about.fullName)
    end_session(simulator, client)
    assert len(client.read_all("Datastore", "name")) == 1


def test_a_closed_session_opens_again_at_its_next_use(client: Client) -> None:
    before = client.read_all("Datacenter", "name")
    client.close()
    client.close()
    assert [found for _, found in client.read_all("Datacenter", "name")] == [found for _, found in before]


def test_a_task_is_waited_for_and_its_fault_raised(client: Client) -> None:
    [(center, _)] = client.read_all("Datacenter", "name")
    disks, files = client.content.virtualDiskManager, client.content.fileManager
    client.call(lambda: files.MakeDirectory(name="[LocalDS_0] task", datacenter=center, createParentDirectories=True))
    spec = _disk()
    client.run(lambda: disks.CreateVirtualDisk_Task(name="[LocalDS_0] task/a.vmdk", datacenter=center, spec=spec))
    assert client.call(lambda: disks.QueryVirtualDiskUuid(name="[LocalDS_0] task/a.vmdk", datacenter=center))
    with pytest.raises(BootpointError) as problem:
        client.run(lambda: disks.DeleteVirtualDisk_Task(name="[LocalDS_0] task/none.vmdk", datacenter=center))
    assert problem.value.code is Code.LAYER_LOST
    client.run(lambda: files.DeleteDatastoreFile_Task(name="[LocalDS_0] task", datacenter=center))


def _disk() -> object:
    from pyVmomi import vim

    return vim.VirtualDiskManager.FileBackedVirtualDiskSpec(diskType="thin", adapterType="lsiLogic", capacityKb=1024)


def test_files_of_a_datastore_are_written_and_read(client: Client) -> None:
    [(_, found)] = client.read_all("Datacenter", "name")
    target = f"/folder/notes.txt?dcPath={found['name']}&dsName=LocalDS_0"
    assert client.http("PUT", target, b"written")[0] == 200
    assert client.http("GET", target) == (200, b"written")
    assert client.http("GET", target.replace("notes", "none"))[0] == 404


def test_a_page_of_objects_is_followed_by_the_next(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "PAGE", 1)
    whole = client.read_all("ManagedEntity", "name")
    assert len(whole) > 5


def test_a_version_of_old_is_served_only_where_asked_for(tmp_path: Path) -> None:
    with vcsim(tmp_path, "-version=6.0") as old:
        problem = refused(old.access(), Code.HOST_UNSUPPORTED)
        assert "--legacy-tls" in str(problem.hint)
        made = Client(access=old.access(legacy_tls=True))
        assert made.content.about.version == "6.0"
        made.close()
    with vcsim(tmp_path, "-version=5.0") as older:
        problem = refused(older.access(legacy_tls=True), Code.HOST_UNSUPPORTED)
        assert "vSphere 5.1 or later" in problem.message


def test_a_host_that_speaks_tls_1_0_only_is_served_only_where_asked_for(tmp_path: Path) -> None:
    with vcsim(tmp_path, "-version=5.5", "-old-tls") as old:
        with pytest.raises(BootpointError) as problem:
            fetch_fingerprint("127.0.0.1", old.port)
        assert problem.value.code is Code.TLS_REFUSED
        assert "--legacy-tls" in str(problem.value.hint)
        made = Client(access=old.access(legacy_tls=True))
        assert made.content.about.version == "5.5"
        made.close()


def test_a_host_that_is_away_may_be_tried_again(simulator: Vcsim) -> None:
    problem = refused(replace(simulator.access(), port=free_port()), Code.HOST_UNREACHABLE)
    assert problem.retryable


def test_a_host_that_hangs_is_given_up_and_known_again(simulator: Vcsim, client: Client) -> None:
    _ = client.content
    assert client._stub is not None
    # The next connection has less patience than the product; the login had as much.
    client._stub.schemeArgs["timeout"] = 0.3
    client._stub.DropConnections()
    simulator.server.freeze()
    try:
        with pytest.raises(BootpointError) as problem:
            client.read_all("Datastore", "name")
        # Nothing waits for the host any more; the session that is left there ends by itself.
        began = time.monotonic()
        client.close()
        assert time.monotonic() - began < CONNECT_TIMEOUT
    finally:
        simulator.server.thaw()
    assert problem.value.code is Code.HOST_UNREACHABLE
    assert len(client.read_all("Datastore", "name")) == 1


def test_what_serves_no_vsphere_api_is_said(simulator: Vcsim, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        authority = make_authority(tmp_path)
        answering = threading.Thread(target=_answer, args=(listener, authority))
        answering.start()
        port = listener.getsockname()[1]
        shown = fingerprint_of(ssl.PEM_cert_to_DER_cert(_leaf(authority)))
        problem = refused(replace(simulator.access(), port=port, fingerprint=shown), Code.HOST_UNSUPPORTED)
        answering.join()
    assert "serves no vSphere API (HTTP status 404)" in problem.message


def _answer(listener: socket.socket, authority: Authority) -> None:
    with authority.server_context().wrap_socket(listener.accept()[0], server_side=True) as connection:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


def _leaf(authority: Authority) -> str:
    text = authority.chain.read_text()
    return text[text.index("-----BEGIN CERTIFICATE") :]
