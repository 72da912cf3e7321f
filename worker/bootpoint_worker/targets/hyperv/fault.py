"""What refusals of WinRM, and of PowerShell on the host, mean here: the only place where they become errors of ours.

Codes of WS-Management's faults: winerror.h and [MS-WSMV] 2.2.4.43. Categories of PowerShell's errors: ``ErrorCategory``
in its reference.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.smb import kerberos
from bootpoint_worker.smb.fault import ADMIN_HINT
from bootpoint_worker.targets.certificate import refusal
from bootpoint_worker.targets.host import unreachable
from bootpoint_worker.targets.meaning import Meaning

if TYPE_CHECKING:
    from requests.exceptions import RequestException
    from winrm.exceptions import WSManFaultError

#: What to say where nothing listens.
FIREWALL_HINT = (
    "let this machine in on the host: `winrm quickconfig`, and a firewall rule for TCP 5986 (or 5985): docs/hyperv.md,"
    " Set-up"
)

#: What to say where TLS fails.
TLS_HINT = (
    "let the host's Schannel speak TLS 1.2, and its WinRM have a listener for HTTPS (`winrm enumerate"
    " winrm/config/listener`); or say `bootpoint host set NAME --winrm http`, where messages are encrypted by the login"
)

#: What to say where a login is refused.
AUTH_HINT = (
    "set user and password with `bootpoint host set NAME --user U --password-file F`; the account has to be a member of"
    f" the host's group Administrators, and Negotiate on at its WinRM service. By Kerberos: {kerberos.STALE_HINT}"
)

_DENIED = Meaning(Code.HOST_PERMISSION, "denies access", ADMIN_HINT)
_QUOTA = Meaning(
    Code.BUSY,
    "serves as many shells of WinRM as its quotas allow",
    "raise MaxShellsPerUser and MaxConcurrentUsers of its WinRM: docs/hyperv.md, What the host needs",
)
_SHELL_GONE = Meaning(Code.HOST_UNREACHABLE, "has ended the command's shell")
_FAILED = Meaning(Code.TARGET_WRITE_ERROR, "could not do what it was asked")

#: Code of a fault of WS-Management -> what it means; anything else means that the host's service is out of order.
FAULTS = {
    5: _DENIED,  # ERROR_ACCESS_DENIED
    2147942405: _DENIED,  # likewise, as an HRESULT
    1326: Meaning(Code.HOST_AUTH, "refuses the login", AUTH_HINT),  # ERROR_LOGON_FAILURE
    2150858843: _SHELL_GONE,  # there is no such shell
    995: _SHELL_GONE,  # ERROR_OPERATION_ABORTED
    2150859173: _QUOTA,  # ERROR_WSMAN_QUOTA_MAX_SHELLS
    2150859174: _QUOTA,  # ERROR_WSMAN_QUOTA_MAX_OPERATIONS
    2150859175: _QUOTA,  # ERROR_WSMAN_QUOTA_USER
    2150859176: _QUOTA,  # ERROR_WSMAN_QUOTA_SYSTEM
    2150859179: _QUOTA,  # ERROR_WSMAN_QUOTA_MAX_SHELLUSERS
    2150859236: _QUOTA,  # ERROR_WSMAN_QUOTA_MAX_SHELLS_PPQ
    2150859237: _QUOTA,  # ERROR_WSMAN_QUOTA_MAX_USERS_PPQ
    2150859238: _QUOTA,  # ERROR_WSMAN_QUOTA_MAX_PLUGINSHELLS_PPQ
    2150859240: _QUOTA,  # ERROR_WSMAN_QUOTA_MAX_OPERATIONS_USER_PPQ
}

_MISSING = Meaning(Code.LAYER_LOST, "has no such thing any more")
_HELD = Meaning(Code.BUSY, "is still at work on it")
_NO_MEMORY = Meaning(
    Code.HOST_UNSUPPORTED, "lacks memory for the VM", "stop other VMs, or give the standby less: vm.memory"
)

#: HRESULT that Hyper-V puts behind a message -> what it means (winerror.h). It is the same in every language, and often
#: all that tells: the error's id is ``OperationFailed`` then, and its category ``NotSpecified``.
RESULTS = {
    0x80070002: _MISSING,  # ERROR_FILE_NOT_FOUND
    0x80070003: _MISSING,  # ERROR_PATH_NOT_FOUND
    0x80070005: _DENIED,  # ERROR_ACCESS_DENIED
    0x80070020: _HELD,  # ERROR_SHARING_VIOLATION
    0x80070021: _HELD,  # ERROR_LOCK_VIOLATION
    0x80070070: Meaning(Code.HOST_FULL, "has no room left"),  # ERROR_DISK_FULL
    0x8007000E: _NO_MEMORY,  # E_OUTOFMEMORY
    0x800705AA: _NO_MEMORY,  # ERROR_NO_SYSTEM_RESOURCES
}

_RESULT = re.compile(r"\(0x([0-9A-F]{8})\)", re.IGNORECASE)

#: First word of a PowerShell error's id, or its category -> what it means. The module's own errors have a code.
ERRORS = {
    "AccessDenied": _DENIED,
    "PermissionDenied": _DENIED,
    "UnauthorizedAccess": _DENIED,
    "CommandNotFoundException": Meaning(
        Code.HOST_UNSUPPORTED,
        "lacks a command",
        "install the module that has it: Install-WindowsFeature Hyper-V-PowerShell, RSAT-Clustering-PowerShell",
    ),
    "ParameterBindingException": Meaning(Code.HOST_UNSUPPORTED, "has an older command than bootpoint needs"),
    # That is what any command says while the service is down, or while another VM is deleted.
    "ObjectNotFound": Meaning(
        Code.BUSY,
        "can't see its VMs at this moment",
        "look whether the service vmms runs on the host, and whether the account may use Hyper-V",
    ),
    "InvalidState": Meaning(Code.BUSY, "can't do it at this moment"),
    "ResourceBusy": _HELD,
    "OutOfMemory": _NO_MEMORY,
}


@contextlib.contextmanager
def mapped(host: str) -> Iterator[None]:
    """Let commands be run; what pywinrm raises becomes our errors.

    Raises:
        BootpointError: With the code of `FAULTS`; ``host_unreachable`` or ``tls_refused`` for a connection that can't
            be made or broke; ``host_unsupported`` where pywinrm, or its Kerberos, is missing.
    """
    try:
        import requests
        from winrm.exceptions import AuthenticationError, WinRMError, WinRMTransportError, WSManFaultError
    except ImportError as exc:
        raise error(Code.HOST_UNSUPPORTED, "WinRM needs pywinrm: pip install 'bootpoint[hyperv]'", host=host) from exc
    try:
        yield
    except AuthenticationError as exc:
        raise error(Code.HOST_AUTH, f"host {host} refuses the login: {exc}", hint=AUTH_HINT, host=host) from exc
    except WSManFaultError as exc:
        raise _fault(host, exc) from exc
    except WinRMTransportError as exc:
        raise unreachable(host, f"its WinRM service answers with HTTP status {exc.code}") from exc
    except WinRMError as exc:
        if "kerberos" in str(exc):
            text = "Kerberos needs more: pip install 'bootpoint[hyperv-kerberos]'"
            raise error(Code.HOST_UNSUPPORTED, text, host=host) from exc
        raise unreachable(host, exc) from exc
    except requests.exceptions.RequestException as exc:
        raise kerberos.error_of(host, exc) or _broken(host, exc) from exc
    except OSError as exc:
        raise unreachable(host, exc) from exc


def _fault(host: str, fault: WSManFaultError) -> BootpointError:
    number = fault.wsman_fault_code
    meaning = FAULTS.get(number or 0, Meaning(Code.HOST_UNREACHABLE, "has its WinRM service out of order"))
    text = f"host {host} {meaning.text}: {fault.reason.strip()} ({number})"
    return error(meaning.code, text, hint=meaning.hint, host=host)


def _broken(host: str, exc: RequestException) -> BootpointError:
    """Return the error of a connection that couldn't be made, or broke."""
    from requests.exceptions import ConnectionError as NotConnected
    from requests.exceptions import SSLError

    if isinstance(exc, SSLError):
        return refusal(host, _cause(exc), TLS_HINT)
    problem = unreachable(host, _cause(exc))
    if isinstance(exc, NotConnected):
        problem.hint = FIREWALL_HINT
    return problem


def _cause(exc: OSError) -> OSError:
    """Return what the operating system said, below the wrappings of requests and urllib3."""
    found: BaseException = exc
    while True:
        wrapped = (getattr(found, "reason", None), *found.args, found.__cause__)
        inner = next((each for each in wrapped if isinstance(each, BaseException) and each is not found), None)
        if inner is None:
            return found if isinstance(found, OSError) else exc
        found = inner


def error_of(host: str, operation: str, said: Mapping[str, Any]) -> BootpointError:
    """Return our error for one that the module wrote into its result.

    Args:
        host: Name of the host.
        operation: What was asked.
        said: ``message``, and ``code`` and ``hint`` where the module knows them, else ``id`` and ``category``.
    """
    message = str(said.get("message") or "it gives no reason")
    hint = said.get("hint") or None
    code = said.get("code")
    if code in set(Code):
        return error(Code(code), f"host {host}: {message}", hint=hint, value=said.get("value"), host=host)
    names = (str(said.get("id") or "").partition(",")[0], str(said.get("category") or ""))
    known = [RESULTS.get(int(result, 16)) for result in _RESULT.findall(message)]
    meaning = next(filter(None, [*known, *map(ERRORS.get, names)]), _FAILED)
    return error(meaning.code, f"host {host} {meaning.text} ({operation}): {message}", hint=meaning.hint, host=host)
