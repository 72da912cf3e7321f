"""Operations on a host: the module's own text, run by WinRM and files."""

from __future__ import annotations

import threading

from bootpoint_common.errors import Code
from bootpoint_worker.targets.certificate import fetch_fingerprint
from bootpoint_worker.targets.host import Network, Storage
from bootpoint_worker.targets.hyperv import script
from bootpoint_worker.targets.hyperv.inspect import inspect_host
from tests.hyperv.plain import ASK, NOTHING, Windows, command, failover, objects, opened, refused, secured, windows
from tests.hyperv.pwsh.cmdlet import Call
from tests.hyperv.pwsh.value import PSObject
from tests.hyperv.shell import Process

__all__ = ["failover", "secured", "windows"]


def test_a_host_says_what_it_is_and_has(windows: Windows) -> None:
    with opened(windows.access()) as host:
        found = inspect_host(host)
    windows_version, module, powershell = found.version.split(", ")
    assert windows_version == "Microsoft Windows Server 2019 Standard 10.0.17763"
    assert (module, powershell) == ("Hyper-V module 2.0.0.0", "PowerShell 5.1.17763.1")
    assert (found.cpus, found.memory_bytes) == (16, 2**36)
    assert found.storages == (Storage("D:", "D:\\", 2**40, 2**39),)
    assert found.networks == (Network("lan", "bridge"), Network("none", "isolated"))
    assert found.cluster is None
    assert windows.left() == []


def test_no_argument_becomes_a_part_of_a_script(windows: Windows) -> None:
    seen: list[object] = []
    windows.services["ClusSvc"] = "Running"
    windows.commands["Get-Cluster"] = objects({"Name": "clu"})

    def get_vm(call: Call) -> object:
        seen.append(call["Id"])
        return PSObject.of(IsClustered=False)

    windows.commands["Get-VM"] = command(get_vm, "Id string")
    named = "x'; Remove-Item C:\\ -Recurse #\" $(Stop-VM *) ü 你好\n" + "y" * 20_000
    with opened(windows.access()) as host:
        assert host.call(ASK, {"vm_id": named}) == NOTHING
    assert seen == [named]


def test_the_module_is_put_there_once_and_no_other_is_ever_run(windows: Windows) -> None:
    file = windows.folder / script.file_name()
    with opened(windows.access()) as host:
        host.call(ASK)
        placed = file.stat().st_mtime_ns
        host.call(ASK)
    with opened(windows.access()) as host:
        host.call(ASK)
    assert file.stat().st_mtime_ns == placed
    file.write_text("exit 0")
    with opened(windows.access()) as host:
        assert host.call(ASK) == NOTHING
    assert file.read_text() == script.text()


def test_a_wrong_password(windows: Windows) -> None:
    with opened(windows.access()) as host:
        host.call(ASK)
        windows.winrm.set_password(windows.samba.username, "another")
        with refused(Code.HOST_AUTH, "host set"):
            host.call(ASK)
    with opened(windows.access(password=None)) as host, refused(Code.CREDENTIALS_NOT_SAVED):
        host.call(ASK)


def test_an_administrator_whom_uac_filters(windows: Windows) -> None:
    windows.trouble.filtered = True
    with opened(windows.access()) as host, refused(Code.HOST_PERMISSION, "LocalAccountTokenFilterPolicy"):
        host.call(ASK)
    assert windows.left() == []


def test_a_host_is_known_by_its_certificate(secured: Windows) -> None:
    first = secured.access()
    assert fetch_fingerprint(first.address, first.port) == first.fingerprint
    with opened(first) as host:
        host.call(ASK)
    secured.winrm.renew_certificate()
    with opened(first) as host, refused(Code.HOST_KEY_CHANGED, str(first.fingerprint), "host set"):
        host.call(ASK)
    assert secured.begun == 1
    with opened(secured.access()) as host:
        host.call(ASK)


def test_an_expired_certificate_is_refused(secured: Windows) -> None:
    secured.winrm.renew_certificate(days=-1)
    with opened(secured.access()) as host, refused(Code.TLS_REFUSED, "has expired", "--fingerprint"):
        host.call(ASK)
    assert secured.begun == 0


def test_a_call_that_was_cut_off_is_looked_up(windows: Windows) -> None:
    """The answer to the question for output gets lost while the module runs."""
    went_on = threading.Event()

    def cut(process: Process) -> None:
        windows.trouble.lost_answers = 1
        threading.Timer(0.2, went_on.set).start()
        went_on.wait()

    windows.first = cut
    with opened(windows.access()) as host:
        assert host.call(ASK) == NOTHING
    assert windows.begun == 1
    assert windows.left() == []
