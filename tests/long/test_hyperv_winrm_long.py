"""What the stand-in's WinRM service refuses, and how it comes and goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from winrm.exceptions import WinRMOperationTimeoutError, WinRMTransportError, WSManFaultError

from bootpoint_common.units import KiB
from tests.hyperv.served import protocol, run, serving
from tests.hyperv.server import WinRm
from tests.hyperv.shell import MAX_LINE
from tests.service.process import wait_for

pytestmark = pytest.mark.long


@pytest.fixture
def service(tmp_path: Path) -> Iterator[WinRm]:
    with serving(tmp_path) as made:
        yield made


def test_a_line_that_is_too_long(service: WinRm) -> None:
    assert run(protocol(service), "echo", "x" * MAX_LINE)[1:] == (b"The command line is too long.\r\n", 1)


def test_an_envelope_that_is_too_large(service: WinRm) -> None:
    with pytest.raises(WSManFaultError) as caught:
        run(protocol(service), "echo", "x" * 600 * KiB)
    assert caught.value.fault_subcode == "w:EncodingLimit"


def test_a_wait_longer_than_an_operation(service: WinRm) -> None:
    """A client that asks for output in vain is told so in time, and asks again."""
    client = protocol(service)
    shell = client.open_shell()
    command = client.run_command(shell, "wait")
    with pytest.raises(WinRMOperationTimeoutError):
        client.get_command_output_raw(shell, command)
    client.close_shell(shell)
    service.shells.join()


def test_too_many_shells(service: WinRm) -> None:
    service.shells.limit = 2
    client = protocol(service)
    for _ in range(2):
        client.open_shell()
    with pytest.raises(WSManFaultError) as caught:
        client.open_shell()
    assert caught.value.wsman_fault_code == 2150859173
    client.transport.close_session()


def test_what_is_not_encrypted(service: WinRm) -> None:
    with pytest.raises(WinRMTransportError) as caught:
        run(protocol(service, encrypted=False), "echo")
    assert caught.value.code == 500


def test_a_restart_and_a_lost_answer(service: WinRm) -> None:
    client = protocol(service)
    shell = client.open_shell()
    client.run_command(shell, "wait")
    service.stop()
    assert wait_for(lambda: not len(service.shells), "shells to end")
    service.start()
    service.trouble.lost_answers = 1
    again = protocol(service)
    with pytest.raises(OSError, match="Connection"):
        again.open_shell()
    assert len(service.shells) == 1
    again.transport.close_session()
    client.transport.close_session()
