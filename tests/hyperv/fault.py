"""Errors as the commands of a Hyper-V host give them."""

from __future__ import annotations

from tests.hyperv.front import VhdxError
from tests.hyperv.pwsh.failure import Failure, failure

#: The exception of Hyper-V's commands.
_VIRTUALIZATION = "Microsoft.HyperV.PowerShell.VirtualizationException"

#: What Windows says of a file that another has open: ERROR_SHARING_VIOLATION.
IN_USE = "The process cannot access the file because it is being used by another process. (0x80070020)."


def _identity(name: str, command: str) -> str:
    return f"{name},Microsoft.HyperV.PowerShell.Commands.{command.replace('-', '')}"


def refused(command: str, message: str, name: str = "OperationFailed", category: str = "NotSpecified") -> Failure:
    """Return an error of a command of Hyper-V.

    Args:
        command: Its name.
        message: For people.
        name: First part of the FullyQualifiedErrorId: ``InvalidParameter``, ``ObjectNotFound``, ``InvalidState``, …
        category: One of ErrorCategory.
    """
    return failure(_VIRTUALIZATION, message, _identity(name, command), category)


def no_machine(command: str, what: str) -> Failure:
    """Return what is said of a VM that isn't there."""
    text = f"Hyper-V was unable to find a virtual machine with {what}."
    return refused(command, text, "InvalidParameter", "InvalidArgument")


def invalid(command: str, message: str) -> Failure:
    """Return what is said of an argument that can't be."""
    return refused(command, message, "InvalidParameter", "InvalidArgument")


def wrong_state(command: str, name: str) -> Failure:
    """Return what is said when a VM's state doesn't allow something: VMMS's error 32775, ERROR_INVALID_STATE."""
    text = f"The operation cannot be performed while the virtual machine '{name}' is in its current state."
    return refused(command, text, "InvalidState", "InvalidOperation")


def in_use(command: str, path: str) -> Failure:
    """Return what is said of a file that somebody has open."""
    return refused(command, f"Failed to open '{path}': {IN_USE}")


def no_room(command: str, path: str) -> Failure:
    """Return what is said where a volume is full: ERROR_DISK_FULL; id and category as in github.com/AutomatedLab/
    AutomatedLab/issues/266, where another limit of the volume was met.
    """
    text = f"The system failed to create '{path}': There is not enough space on the disk. (0x80070070)."
    return refused(command, text)


def no_service(command: str, host: str) -> Failure:
    """Return what is said while VMMS doesn't run (github.com/kubernetes/minikube/issues/16679)."""
    text = (
        f"Hyper-V encountered an error trying to access an object on computer '{host}' because the object was not"
        " found. The object might have been deleted, or you might not have permission to perform the task. Verify that"
        " the Virtual Machine Management service on the computer is running."
    )
    return refused(command, text, "ObjectNotFound", "ObjectNotFound")


def no_file(command: str, path: str) -> Failure:
    """Return what is said of a file that isn't there: ERROR_FILE_NOT_FOUND."""
    text = f"'{path}' was not found: The system cannot find the file specified. (0x80070002)."
    return refused(command, text, "ObjectNotFound", "ObjectNotFound")


def bad_disk(command: str, path: str, wrong: VhdxError) -> Failure:
    """Return what is said of a virtual disk's file that can't be used."""
    text = f"Failed to open attachment '{path}'. Error: '{wrong}' (0x{wrong.code:08X})."
    return refused(command, text, category="OpenError")
