"""What a host's errors mean, whatever its language is."""

from __future__ import annotations

import pytest
from winrm.exceptions import WSManFaultError

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.targets.hyperv.fault import error_of, mapped


@pytest.mark.parametrize(
    ("message", "identity", "category", "code"),
    [
        (
            "Es steht nicht genug Speicherplatz auf dem Datentr\xe4ger zur Verf\xfcgung. (0x80070070).",
            "OperationFailed,Microsoft.Vhd.PowerShell.Cmdlets.NewVhd",
            "NotSpecified",
            Code.HOST_FULL,
        ),
        ("in use (0x80070020).", "OperationFailed,Checkpoint", "NotSpecified", Code.BUSY),
        ("no such file (0x80070002).", "ObjectNotFound,Checkpoint", "ObjectNotFound", Code.LAYER_LOST),
        ("Hyper-V encountered an error", "ObjectNotFound,GetVM", "ObjectNotFound", Code.BUSY),
        ("failed (0xC03A000D): denied (0x80070005).", "OperationFailed,StartVM", "NotSpecified", Code.HOST_PERMISSION),
        ("something else (0x80070299).", "OperationFailed,NewVhd", "NotSpecified", Code.TARGET_WRITE_ERROR),
        ("busy", "InvalidState,CheckpointVM", "InvalidOperation", Code.BUSY),
    ],
)
def test_an_error_is_known_by_what_no_language_changes(message: str, identity: str, category: str, code: Code) -> None:
    found = error_of("hv1", "create", {"message": message, "id": identity, "category": category, "code": None})
    assert found.code is code
    assert message in found.message


@pytest.mark.parametrize("number", [2150859173, 2150859174, 2150859179, 2150859236, 2150859237, 2150859240])
def test_a_quota_of_winrm_is_waited_for_and_named(number: int) -> None:
    fault = WSManFaultError(500, "", "", "exceeded", wsman_fault_code=number)
    with pytest.raises(BootpointError) as caught, mapped("hv1"):
        raise fault
    assert caught.value.code is Code.BUSY
    assert "MaxShellsPerUser" in (caught.value.hint or "")
