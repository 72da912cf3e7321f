"""A KVM host over a real sshd: the whole way of a point, and what is said when the way is barred."""

from __future__ import annotations

from contextlib import closing

import pytest

from bootpoint_common.digest import grain_digests
from bootpoint_common.errors import BootpointError, Code, Fenced
from bootpoint_common.units import GRAIN, MiB
from bootpoint_worker.reading import read_segments
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.kvm import ssh as session_module
from bootpoint_worker.targets.kvm.fingerprint import fetch_fingerprint
from tests.integration.kvm.conftest import SIZE, Bench
from tests.service.process import free_port
from tests.service.sshd import SshServer


def _refusal(call: object) -> Code:
    with pytest.raises(BootpointError) as caught:
        call()  # type: ignore[operator]
    return caught.value.code


def test_the_whole_way_of_a_point(ssh: Bench) -> None:
    target = ssh.connect()
    target.create(ssh.replica)
    first = ssh.point(target, None, b"1" * SIZE)
    second = ssh.point(target, first, b"2" * GRAIN)
    assert ssh.start_of(target, second, SIZE) == [b"2" * GRAIN + b"1" * (SIZE - GRAIN)] * 2
    vm = target.start(ssh.replica, StartRequest(test_id="t1", point_id=first.point_id, paused=True))
    assert vm.name == f"{ssh.replica.vm_name}-test-t1"
    target.stop(ssh.replica, "t1")
    assert target.inspect_host().problems == ()
    with closing(target.open_reader(ssh.replica, second.point_id, "system")) as reader:
        (read,) = read_segments(reader, 0, 1)
        assert read.entries == grain_digests(b"2" * GRAIN + b"1" * (SIZE - GRAIN))
    # What the SSH way made is what the local way sees.
    local = ssh.connect(address="local")
    assert local.inspect(ssh.replica) == target.inspect(ssh.replica)


def test_a_password_opens_the_same_ways(ssh: Bench, sshd_server: SshServer) -> None:
    target = ssh.connect(ssh_key=None, password=sshd_server.password)
    target.create(ssh.replica)
    point = ssh.point(target, None, b"p" * GRAIN)
    assert ssh.start_of(target, point, GRAIN) == [b"p" * GRAIN] * 2


def test_a_wrong_password_is_said(ssh: Bench) -> None:
    target = ssh.connect(ssh_key=None, password="wrong")
    assert _refusal(target.inspect_host) == Code.HOST_AUTH


def test_a_key_that_is_none_is_said(ssh: Bench) -> None:
    assert _refusal(ssh.connect(ssh_key="no key at all").inspect_host) == Code.HOST_AUTH


def test_nobody_listening_is_unreachable_and_may_be_tried_again(ssh: Bench) -> None:
    with pytest.raises(BootpointError) as caught:
        ssh.connect(port=free_port()).inspect_host()
    assert (caught.value.code, caught.value.retryable) == (Code.HOST_UNREACHABLE, True)


def test_the_first_contact_shows_the_key_and_another_key_is_refused(ssh: Bench, sshd_server: SshServer) -> None:
    assert fetch_fingerprint(sshd_server.address, sshd_server.port) == sshd_server.fingerprint
    # A password must never reach a host that shows another key.
    target = ssh.connect(fingerprint="SHA256:" + "A" * 43, ssh_key=None, password=sshd_server.password)
    with pytest.raises(BootpointError) as caught:
        target.inspect_host()
    assert caught.value.code == Code.HOST_KEY_CHANGED
    assert sshd_server.fingerprint in caught.value.message


def test_a_broken_connection_is_opened_again(ssh: Bench, sshd_server: SshServer) -> None:
    target = ssh.connect()
    target.create(ssh.replica)
    sshd_server.stop()
    assert target.host.session._transport is not None  # type: ignore[attr-defined]
    target.host.session._transport.close()  # type: ignore[attr-defined]
    assert _refusal(lambda: target.inspect(ssh.replica)) == Code.HOST_UNREACHABLE
    sshd_server.start()
    journal = target.inspect(ssh.replica)
    assert journal is not None
    assert journal.replica_id == ssh.replica.replica_id


def test_a_lost_connection_ends_the_writer_and_another_goes_on(ssh: Bench) -> None:
    target = ssh.connect()
    target.create(ssh.replica)
    layers = target.open(ssh.replica, ssh.opening(None))
    writer = target.open_writer(ssh.replica, layers[0], 1)
    writer.write(0, b"a" * GRAIN)
    writer.flush()
    target.host.session.close()
    with pytest.raises((BootpointError, Fenced)):
        _write(writer)
    with closing(target.open_writer(ssh.replica, layers[0], 2)) as successor:
        assert successor.read(0, GRAIN) == b"a" * GRAIN
        successor.write(MiB, b"b" * GRAIN)
        successor.flush()
    point = target.commit(ssh.replica, ssh.sealing(layers))
    assert ssh.start_of(target, point, GRAIN)[0] == b"a" * GRAIN


def test_a_shell_that_greets_everybody_disturbs_nothing(ssh: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What root's start-up files print comes before the output of every command."""
    command = session_module._command
    monkeypatch.setattr(session_module, "_command", lambda *words: f"echo Welcome; {command(*words)}")
    target = ssh.connect()
    target.create(ssh.replica)
    point = ssh.point(target, None, b"w" * GRAIN)
    assert ssh.start_of(target, point, GRAIN) == [b"w" * GRAIN] * 2


def _write(writer: object) -> None:
    writer.write(0, b"late" * 1024)  # type: ignore[attr-defined]
    writer.flush()  # type: ignore[attr-defined]
