"""What vSphere's faults mean here: the only place where they become errors of ours.

A fault's class says what it is, its nearest ancestor of the table what it means. Faults, with what may be done about
them, stand in VMware's vSphere Web Services API reference.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from http.client import HTTPException
from typing import TYPE_CHECKING
from xml.parsers.expat import ExpatError

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.certificate import refusal
from bootpoint_worker.targets.host import unreachable
from bootpoint_worker.targets.meaning import Meaning

if TYPE_CHECKING:
    from pyVmomi import vmodl

#: Hint of whatever the licence forbids.
LICENCE_HINT = (
    "bootpoint writes through the vSphere API, which the free licence only lets read:"
    " give the host a licence of vSphere, or an evaluation's"
)

#: Hint of whatever only a vCenter may do.
VCENTER_HINT = "add the vCenter that manages it instead: `bootpoint host add NAME --kind esxi --address VCENTER`"

_BUSY = Meaning(Code.BUSY, "is still at work on it")
_NOT_WRITTEN = Meaning(Code.TARGET_WRITE_ERROR, "could not do what it was asked")
_UNSUPPORTED = Meaning(Code.HOST_UNSUPPORTED, "can't do what it was asked", "look at the host's version and the VM's")
_LICENCE = Meaning(Code.HOST_LICENCE, "has a licence that forbids it", LICENCE_HINT)
_FULL = Meaning(Code.HOST_FULL, "has no room left")
_AWAY = Meaning(Code.HOST_UNREACHABLE, "can't reach the host of that VM")
_STORAGE = Meaning(Code.STORAGE_UNKNOWN, "has no such datastore")

#: Fault, by its name on the wire -> what it means; the nearest ancestor counts; ``MethodFault`` is everyone's.
MEANINGS = {
    "InvalidLogin": Meaning(Code.HOST_AUTH, "refuses the login"),
    "NoPermission": Meaning(Code.HOST_PERMISSION, "denies a right", "docs/esxi.md lists the rights of a role for it"),
    # Only where a new login didn't help.
    "NotAuthenticated": Meaning(Code.HOST_UNREACHABLE, "ended the session at once"),
    "RestrictedVersion": _LICENCE,
    "NotEnoughLicenses": _LICENCE,
    "HostAccessRestrictedToManagementServer": Meaning(
        Code.HOST_UNSUPPORTED, "is managed by a vCenter and takes no orders from others", VCENTER_HINT
    ),
    "DuplicateName": Meaning(Code.VM_NAME_TAKEN, "has that name already"),
    "AlreadyExists": Meaning(Code.VM_NAME_TAKEN, "has that already"),
    "FileAlreadyExists": Meaning(Code.VM_NAME_TAKEN, "has such a file already"),
    "InvalidDatastore": _STORAGE,
    "InaccessibleDatastore": Meaning(Code.TARGET_WRITE_ERROR, "can't get at the datastore"),
    "CannotAccessNetwork": Meaning(Code.NETWORK_UNKNOWN, "can't connect a VM to the network"),
    "NoDiskSpace": _FULL,
    "InsufficientStorageSpace": _FULL,
    "InsufficientResourcesFault": Meaning(
        Code.HOST_UNSUPPORTED, "lacks CPU or memory for the VM", "stop other VMs, or give the standby less"
    ),
    "TooManySnapshotLevels": Meaning(
        Code.HOST_UNSUPPORTED,
        "keeps no more than 32 levels of snapshots",
        "remove snapshots of the standby that bootpoint didn't make, or lower points",
    ),
    "SnapshotFault": Meaning(Code.SNAPSHOT_FAILED, "could not make the snapshot"),
    "FileLocked": Meaning(Code.BUSY, "has a file in use"),
    "FileNotFound": Meaning(Code.LAYER_LOST, "misses a file"),
    "ManagedObjectNotFound": Meaning(Code.LAYER_LOST, "has no such VM or snapshot any more"),
    "TaskInProgress": _BUSY,
    "InvalidState": _BUSY,
    "ConcurrentAccess": _BUSY,
    "ResourceInUse": _BUSY,
    "Timedout": _BUSY,
    "RequestCanceled": Meaning(Code.BUSY, "had the task cancelled by somebody"),
    "HostCommunication": _AWAY,
    "HostConnectFault": _AWAY,
    "VmConfigFault": _UNSUPPORTED,
    "NotSupported": _UNSUPPORTED,
    "InvalidRequest": _UNSUPPORTED,
    "InvalidArgument": _UNSUPPORTED,
    "InvalidProperty": _UNSUPPORTED,
    # A subclass of VmConfigFault that stands for anything that went wrong in the VM's process, often with its disks.
    "GenericVmConfigFault": _NOT_WRITTEN,
    "MethodFault": _NOT_WRITTEN,
}


@contextlib.contextmanager
def mapped(host: str) -> Iterator[None]:
    """Let some calls be made; what they raise becomes our errors.

    Args:
        host: Name of the host.

    Raises:
        BootpointError: With the code of `MEANINGS`; ``host_unreachable`` or ``tls_refused`` for a broken connection;
            ``host_unsupported`` where pyVmomi is missing.
    """
    try:
        from pyVmomi import vmodl
    except ImportError as exc:
        raise error(Code.HOST_UNSUPPORTED, "vSphere needs pyVmomi: pip install 'bootpoint[esxi]'", host=host) from exc
    try:
        yield
    except vmodl.MethodFault as fault:
        raise error_of(host, fault) from fault
    except OSError as exc:
        raise refusal(host, exc) from exc
    except (HTTPException, ExpatError) as exc:
        raise unreachable(host, f"{type(exc).__name__} {exc}".strip()) from exc


def error_of(host: str, fault: vmodl.MethodFault) -> BootpointError:
    """Return our error for a fault."""
    names = [str(name) for kind in type(fault).__mro__ if (name := vars(kind).get("_wsdlName"))]
    meaning = next((MEANINGS[name] for name in names if name in MEANINGS), _NOT_WRITTEN)
    code = meaning.code
    # The class says no more than that the VM's power isn't as it has to be.
    if names[0] == "InvalidPowerState" and getattr(fault, "existingState", None) == "poweredOn":
        code = Code.STANDBY_RUNNING
    text = f"host {host} {meaning.text}: {_words(fault)} ({names[0]})"
    return error(code, text, hint=meaning.hint, host=host)


def _words(fault: vmodl.MethodFault) -> str:
    """Return what the host says of a fault, with the values that it names."""
    said = [str(fault.msg)] if fault.msg else []
    said += [message.message for message in fault.faultMessage or () if message.message]
    for name in ("privilegeId", "file", "datastore", "name", "invalidProperty", "existingState", "reason"):
        value = getattr(fault, name, None)
        if isinstance(value, str) and value and not any(value in sentence for sentence in said):
            said.append(f"{name} {value}")
    return re.sub(r"\s+", " ", "; ".join(dict.fromkeys(said))) or "it gives no reason"
