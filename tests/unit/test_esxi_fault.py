"""What a fault of vSphere becomes: whether to try again, and what to do."""

from __future__ import annotations

import ssl
from http.client import RemoteDisconnected
from typing import Any

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.targets.esxi.fault import error_of, mapped

vim = pytest.importorskip("pyVmomi").vim
vmodl = pytest.importorskip("pyVmomi").vmodl


@pytest.mark.parametrize(
    ("fault", "code", "retryable"),
    [
        (vim.fault.InvalidLogin, Code.HOST_AUTH, False),
        (vim.fault.PasswordExpired, Code.HOST_AUTH, False),
        (vim.fault.NoPermission, Code.HOST_PERMISSION, False),
        (vim.fault.NotAuthenticated, Code.HOST_UNREACHABLE, True),
        (vim.fault.RestrictedVersion, Code.HOST_LICENCE, False),
        (vim.fault.LicenseExpired, Code.HOST_LICENCE, False),
        (vim.fault.HostAccessRestrictedToManagementServer, Code.HOST_UNSUPPORTED, False),
        (vim.fault.DuplicateName, Code.VM_NAME_TAKEN, False),
        (vim.fault.InvalidDatastorePath, Code.STORAGE_UNKNOWN, False),
        (vim.fault.InaccessibleDatastore, Code.TARGET_WRITE_ERROR, True),
        (vim.fault.NoDiskSpace, Code.HOST_FULL, False),
        (vim.fault.InsufficientStorageSpace, Code.HOST_FULL, False),
        (vim.fault.CannotAccessNetwork, Code.NETWORK_UNKNOWN, False),
        (vim.fault.TooManySnapshotLevels, Code.HOST_UNSUPPORTED, False),
        (vim.fault.SnapshotFault, Code.SNAPSHOT_FAILED, True),
        (vim.fault.FileLocked, Code.BUSY, True),
        (vim.fault.TaskInProgress, Code.BUSY, True),
        (vim.fault.InvalidState, Code.BUSY, True),
        (vim.fault.CannotAccessFile, Code.TARGET_WRITE_ERROR, True),
        (vim.fault.GenericVmConfigFault, Code.TARGET_WRITE_ERROR, True),
        (vim.fault.UnsupportedGuest, Code.HOST_UNSUPPORTED, False),
        (vmodl.fault.ManagedObjectNotFound, Code.LAYER_LOST, True),
        (vmodl.fault.MethodNotFound, Code.HOST_UNSUPPORTED, False),
        (vmodl.fault.HostNotConnected, Code.HOST_UNREACHABLE, True),
        (vmodl.fault.SystemError, Code.TARGET_WRITE_ERROR, True),
    ],
)
def test_a_fault_has_one_meaning(fault: Any, code: Code, *, retryable: bool) -> None:
    problem = error_of("esx1", fault(msg="What the host says."))
    assert (problem.code, problem.retryable, problem.host) == (code, retryable, "esx1")
    assert "What the host says." in problem.message
    assert problem.hint


def test_a_vm_that_runs_is_said_to_run() -> None:
    fault = vim.fault.InvalidPowerState(existingState="poweredOn", requestedState="poweredOff")
    assert error_of("esx1", fault).code is Code.STANDBY_RUNNING
    fault = vim.fault.InvalidPowerState(existingState="poweredOff", requestedState="poweredOn")
    assert error_of("esx1", fault).code is Code.BUSY


def test_a_missing_right_is_named() -> None:
    problem = error_of("esx1", vim.fault.NoPermission(privilegeId="VirtualMachine.State.CreateSnapshot"))
    assert "VirtualMachine.State.CreateSnapshot" in problem.message
    assert problem.hint == "docs/esxi.md lists the rights of a role for it"


def test_a_licence_that_forbids_is_said_in_words() -> None:
    said = "Current license or ESXi version prohibits execution of the requested operation."
    problem = error_of("esx1", vim.fault.RestrictedVersion(msg=said))
    assert said in problem.message
    assert "free licence" in str(problem.hint)


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (ConnectionRefusedError(111, "Connection refused"), Code.HOST_UNREACHABLE),
        (TimeoutError("timed out"), Code.HOST_UNREACHABLE),
        (RemoteDisconnected("Remote end closed connection without response"), Code.HOST_UNREACHABLE),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), Code.HOST_UNREACHABLE),
        (ssl.SSLError(1, "[SSL: UNSUPPORTED_PROTOCOL] unsupported protocol (_ssl.c:992)"), Code.TLS_REFUSED),
    ],
)
def test_a_connection_that_breaks_is_an_error_of_ours(raised: Exception, code: Code) -> None:
    with pytest.raises(BootpointError) as problem, mapped("esx1"):
        raise raised
    assert problem.value.code is code
