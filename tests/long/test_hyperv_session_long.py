"""Operations on a host: everything that can come between."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from datetime import datetime, tzinfo
from typing import Self

import pytest

from bootpoint_common.errors import Code
from bootpoint_worker.targets.host import Cluster, Node, Role
from bootpoint_worker.targets.hyperv import session
from bootpoint_worker.targets.hyperv.cluster import Nodes, set_role
from bootpoint_worker.targets.hyperv.inspect import inspect_host
from bootpoint_worker.targets.hyperv.session import HyperVSession
from tests.hyperv.plain import (
    ASK,
    NOTHING,
    Failover,
    Windows,
    command,
    failover,
    objects,
    opened,
    refused,
    secured,
    windows,
)
from tests.hyperv.pwsh.cmdlet import Call
from tests.hyperv.pwsh.failure import failure
from tests.hyperv.shell import Process
from tests.service.process import wait_for

__all__ = ["failover", "secured", "windows"]


@pytest.mark.parametrize(
    ("caption", "version", "missing", "words"),
    [
        ("Microsoft Windows Server 2008 R2 Enterprise", "6.1.7601", "", ["Windows Server 2008 R2", "2012 or later"]),
        ("Microsoft Windows Server 2019", "10.0.17763", "Get-VMHost", ["Hyper-V module", "Hyper-V-PowerShell"]),
        ("Microsoft Hyper-V Server 2016", "10.0.14393", "vmms", ["role Hyper-V"]),
    ],
)
def test_a_host_without_hyper_v_is_refused_with_what_to_install(
    windows: Windows, caption: str, version: str, missing: str, words: list[str]
) -> None:
    windows.name_windows(caption, version)
    windows.commands.pop(missing, None)
    windows.services.pop(missing, None)
    with opened(windows.access()) as host, refused(Code.HOST_UNSUPPORTED, caption, *words):
        inspect_host(host)
    assert windows.left() == []


def test_an_answer_larger_than_any_envelope(windows: Windows) -> None:
    volume = {"DriveType": "Fixed", "DriveLetter": "D", "FileSystem": "NTFS", "Size": 1, "SizeRemaining": 1}
    windows.commands["Get-Volume"] = objects(*[volume] * 8000)
    with opened(windows.access()) as host:
        facts = host.call("inspect_host")
    assert len(json.dumps(facts)) > 500 * 1024
    assert len(facts["volumes"]) == 8000


def test_what_calls_left_is_deleted_after_a_day(windows: Windows) -> None:
    for name, age in (("old", 25), ("young", 23)):
        left = windows.folder / "calls" / name
        left.mkdir(parents=True)
        (left / "arguments.json").write_text("{}")
        then = time.time() - age * 3600
        os.utime(left, (then, then))
    with opened(windows.access()) as host:
        host.call(ASK)
    assert windows.left() == ["young"]


def test_what_is_old_is_told_by_the_hosts_clock(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(time.time() + 3 * 86400, tz)

    monkeypatch.setattr(session, "datetime", Ahead, raising=False)
    (windows.folder / "calls" / "of-another-worker").mkdir(parents=True)
    with opened(windows.access()) as host:
        host.call(ASK)
    assert windows.left() == ["of-another-worker"]


def test_a_firewall_before_winrm(windows: Windows) -> None:
    windows.winrm.stop()
    with opened(windows.access()) as host, refused(Code.HOST_UNREACHABLE, "refused", "firewall", "5986"):
        host.call(ASK)


def test_kerberos_without_its_library_names_the_extra(windows: Windows) -> None:
    settings = {**windows.access().settings, "auth": "kerberos"}
    with opened(windows.access()) as ntlm, opened(windows.access(settings=settings)) as host:
        with refused(Code.HOST_UNSUPPORTED, "bootpoint[hyperv-kerberos]"):
            host.call(ASK)
        host.files = ntlm.files  # by which files are reached, but orders aren't
        with refused(Code.HOST_UNSUPPORTED, "bootpoint[hyperv-kerberos]"):
            host.call(ASK)


def test_a_port_without_tls(windows: Windows) -> None:
    settings = {**windows.access().settings, "winrm": "tls"}
    with opened(windows.access(settings=settings)) as host, refused(Code.TLS_REFUSED, "--winrm http"):
        host.call(ASK)


@pytest.mark.parametrize("safe", [True, False])
def test_only_a_question_is_asked_twice(windows: Windows, monkeypatch: pytest.MonkeyPatch, *, safe: bool) -> None:
    """The shell is ended with the process in it, by an administrator or a restart of the host: no result comes."""
    monkeypatch.setattr(session, "LOOKUP_TIMEOUT", 0.1)

    def kill(process: Process) -> None:
        if windows.begun == 1:
            windows.winrm.shells.kill()
        process.check()

    windows.first = kill
    with opened(windows.access()) as host:
        if safe:
            assert host.call(ASK, safe=True) == NOTHING
        else:
            with refused(Code.HOST_UNREACHABLE, "has ended the command's shell"):
                host.call(ASK)
    assert windows.begun == (2 if safe else 1)


def test_a_process_that_was_killed_says_where_to_look(windows: Windows) -> None:
    def kill(process: Process) -> None:
        windows.winrm.shells.kill(shells=False)
        process.check()

    windows.first = kill
    with opened(windows.access()) as host, refused(Code.TARGET_WRITE_ERROR, "no result", "bootpoint\\calls\\"):
        host.call(ASK)
    assert len(windows.left()) == 1


def test_a_call_that_takes_too_long_is_ended_on_the_host(windows: Windows) -> None:
    ended = threading.Event()

    def wait(process: Process) -> None:
        try:
            while True:
                process.check()
                time.sleep(0.01)
        finally:
            ended.set()

    windows.first = wait
    with opened(windows.access()) as host, refused(Code.BUSY, "1 s"):
        host.call(ASK, timeout=1)
    wait_for(ended.is_set, "the end of the process")


#: What PowerShell writes where scripts are forbidden, and where they are held to a part of the language; its lines are
#: as long as those of a console.
FORBIDDEN = """\
Die Datei "C:\\Windows\\bootpoint\\x.ps1" kann nicht geladen werden, da die
Ausf\xfchrung von Skripts auf diesem System deaktiviert ist.
    + CategoryInfo          : Sicherheitsfehler: (:) [], ParentContainsErrorRe
   cordException
    + FullyQualifiedErrorId : UnauthorizedAccess
"""
CONSTRAINED = """\
Cannot invoke method. Method invocation is supported only on core types in this
language mode.
    + CategoryInfo          : InvalidOperation: (:) [], RuntimeException
    + FullyQualifiedErrorId : MethodInvocationNotSupportedInConstrainedLan
   guage
"""


@pytest.mark.parametrize(("said", "hint"), [(FORBIDDEN, "Turn on Script Execution"), (CONSTRAINED, "AppLocker")])
def test_a_policy_that_forbids_scripts_is_known_in_any_language(windows: Windows, said: str, hint: str) -> None:
    def forbid(process: Process) -> None:
        process.write("stderr", said)
        process.kill()
        process.check()

    windows.first = forbid
    with opened(windows.access()) as host, refused(Code.HOST_UNSUPPORTED, hint):
        host.call(ASK)


def test_a_host_that_was_restarted_between_two_calls(windows: Windows) -> None:
    with opened(windows.access()) as host:
        host.call(ASK)
        windows.winrm.stop()
        windows.samba.cut()
        windows.samba.start()
        windows.winrm.start()
        assert host.call(ASK) == NOTHING


def test_an_error_of_a_command_says_the_hosts_words(windows: Windows) -> None:
    def fail(_: Call) -> object:
        kind = "Microsoft.HyperV.PowerShell.VirtualizationException"
        raise failure(kind, "Hyper-V encountered an error", "ObjectNotFound,X", "ObjectNotFound")

    windows.commands["Get-VMSwitch"] = command(fail)
    with opened(windows.access()) as host, refused(Code.BUSY, "Hyper-V encountered an error", "inspect_host"):
        host.call("inspect_host")


def test_a_node_says_what_its_cluster_is_and_has(failover: Failover) -> None:
    with opened(failover.windows.access()) as host:
        found = inspect_host(host)
    assert found.cluster == Cluster("clu", "hv1", (Node("HV1", "up"), Node("HV2", "down")))
    assert [each.name for each in found.storages] == ["D:", "C:\\ClusterStorage\\Volume1"]
    assert found.storages[1].free_bytes == 2**40


def test_another_node_is_reached_by_its_name_and_its_own_certificate(windows: Windows) -> None:
    settings = {**windows.access().settings, "nodes": {"hv2": "AB:CD"}}
    nodes = Nodes(HyperVSession(windows.access(settings=settings)))
    other = nodes.of_node("HV2")
    assert (other.access.address, other.access.fingerprint) == ("HV2", "AB:CD")
    assert other.access.password == windows.samba.password
    assert nodes.of_node("hv2") is other
    assert nodes.of_node("HV3").access.fingerprint is None
    nodes.close()


def test_a_cluster_that_refuses_the_second_hop(failover: Failover) -> None:
    failover.denied = True
    with opened(failover.windows.access()) as host:
        with refused(Code.HOST_PERMISSION, "NTLM", "Kerberos"):
            set_role(host, "id", add=True)
        found = inspect_host(host)
    assert found.cluster is not None
    assert any("Kerberos" in hint and "Access is denied" in hint for hint in found.hints)


def test_a_vm_gets_its_role_and_loses_it(failover: Failover) -> None:
    with opened(failover.windows.access()) as host:
        assert set_role(host, "id", add=True) == Role("erp", "HV2", changed=True)
        assert set_role(host, "id", add=True) == Role("erp", "HV2", changed=False)
        assert set_role(host, "id", add=False) == Role(None, None, changed=True)
        assert set_role(host, "id", add=False) == Role(None, None, changed=False)
        failover.path = "D:\\erp"
        with refused(Code.HOST_UNSUPPORTED, "D:\\erp", "ClusterStorage"):
            set_role(host, "id", add=True)
        failover.windows.services.pop("ClusSvc")
        with refused(Code.HOST_UNSUPPORTED, "no node of a failover cluster"):
            set_role(host, "id", add=True)
        assert set_role(host, "id", add=False) == Role(None, None, changed=False)


def test_a_folder_that_somebody_cleared_up_is_filled_again(windows: Windows) -> None:
    with opened(windows.access()) as host:
        host.call(ASK)
        shutil.rmtree(windows.folder)
        with refused(Code.TARGET_WRITE_ERROR, "no result"):
            host.call(ASK)
        assert host.call(ASK) == NOTHING
