"""The stand-in's WinRM service, as pywinrm knows the real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from winrm.exceptions import InvalidCredentialsError, WSManFaultError

from bootpoint_common.units import KiB
from tests.hyperv.served import USER, protocol, run, serving
from tests.hyperv.server import WinRm


@pytest.fixture
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WinRm]:
    with serving(tmp_path, tls=getattr(request, "param", "") == "tls") as made:
        yield made


@pytest.mark.parametrize(
    ("service", "user"), [("encrypted", USER), ("encrypted", f"HV1\\{USER}"), ("tls", USER)], indirect=["service"]
)
def test_a_command(service: WinRm, user: str) -> None:
    client = protocol(service, user)
    assert run(client, "echo", "one", "two") == (b"one two", b"", 0)
    assert run(client, "nothing")[1:] == (b"no such command", 9009)
    assert not len(service.shells)


def test_a_wrong_password(service: WinRm) -> None:
    with pytest.raises(InvalidCredentialsError):
        run(protocol(service, password="wrong"), "echo")


def test_more_output_than_an_envelope_holds(service: WinRm) -> None:
    assert run(protocol(service), "flood", str(600 * KiB)) == (b"x" * 600 * KiB, b"", 0)


def test_a_shell_that_is_killed(service: WinRm) -> None:
    """What runs in it ends, and who asks for it is told that it isn't there; one killed process ends by its own."""
    client = protocol(service)
    shell = client.open_shell()
    command = client.run_command(shell, "wait")
    service.shells.kill(shells=False)
    assert client.get_command_output(shell, command)[2] < 0
    service.shells.kill()
    with pytest.raises(WSManFaultError) as caught:
        client.get_command_output(shell, command)
    assert caught.value.wsman_fault_code == 2150858843
    client.transport.close_session()


def test_an_administrator_whom_uac_filters(service: WinRm) -> None:
    service.trouble.filtered = True
    with pytest.raises(WSManFaultError) as caught:
        run(protocol(service), "echo")
    assert caught.value.wsman_fault_code == 5
