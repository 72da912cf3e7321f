"""What a Windows host's answers to SMB mean here: the only place where NT statuses become errors of ours.

Statuses: [MS-ERREF] 2.3.1. Which of them a request may get: [MS-SMB2] 3.3.5.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.smb import kerberos
from bootpoint_worker.targets.host import unreachable
from bootpoint_worker.targets.meaning import Meaning

#: What to say where an account may log in and has no rights.
ADMIN_HINT = (
    "it has to be a member of the host's group Administrators; a local account other than the built-in Administrator"
    " is filtered by UAC until LocalAccountTokenFilterPolicy is 1: docs/hyperv.md, Access denied"
)

#: What to say where nothing listens.
FIREWALL_HINT = (
    "let this machine in on the host: firewall rule File and Printer Sharing (SMB-In), TCP 445: docs/hyperv.md, Set-up"
)

_AUTH = Meaning(
    Code.HOST_AUTH,
    "the host refuses the login",
    f"set user and password again with `bootpoint host set NAME`. By Kerberos: {kerberos.STALE_HINT}",
)
_ACCOUNT = Meaning(Code.HOST_AUTH, "the host refuses the account", "look at the account's state on the host")
_PASSWORD_AGE = Meaning(
    Code.HOST_AUTH, "the account's password has expired", "change it on the host, then `bootpoint host set NAME`"
)
_MISSING = Meaning(Code.LAYER_LOST, "there is no such file or folder")
_IN_USE = Meaning(Code.BUSY, "another program of the host has it open: a running VM, a merge, a backup or a scanner")
_GONE = Meaning(Code.HOST_UNREACHABLE, "the host has ended the session")
_SHARE_GONE = Meaning(Code.HOST_UNREACHABLE, "the share was taken away in the midst")
_FULL = Meaning(Code.HOST_FULL, "the volume is full")
_SHORT = Meaning(Code.BUSY, "the host is short of resources")

#: NT status -> what it means; anything else is a failure to write.
MEANINGS = {
    0xC000006D: _AUTH,  # LOGON_FAILURE
    0xC000006A: _AUTH,  # WRONG_PASSWORD
    0xC0000064: _AUTH,  # NO_SUCH_USER
    0xC0000071: _PASSWORD_AGE,  # PASSWORD_EXPIRED
    0xC0000224: _PASSWORD_AGE,  # PASSWORD_MUST_CHANGE
    0xC000006E: _ACCOUNT,  # ACCOUNT_RESTRICTION
    0xC000006F: _ACCOUNT,  # INVALID_LOGON_HOURS
    0xC0000070: _ACCOUNT,  # INVALID_WORKSTATION
    0xC0000072: _ACCOUNT,  # ACCOUNT_DISABLED
    0xC0000193: _ACCOUNT,  # ACCOUNT_EXPIRED
    0xC0000234: _ACCOUNT,  # ACCOUNT_LOCKED_OUT
    0xC0000133: Meaning(  # TIME_DIFFERENCE_AT_DC
        Code.HOST_AUTH, "the host's clock and the domain's differ", "let both follow the domain's time"
    ),
    0xC000015B: _ACCOUNT,  # LOGON_TYPE_NOT_GRANTED
    0xC0000022: Meaning(Code.HOST_PERMISSION, "access is denied", ADMIN_HINT),  # ACCESS_DENIED
    0xC0000061: Meaning(Code.HOST_PERMISSION, "a privilege is not held", ADMIN_HINT),  # PRIVILEGE_NOT_HELD
    0xC00000CC: Meaning(  # BAD_NETWORK_NAME
        Code.HOST_UNSUPPORTED,
        "the host has no such share: administrative shares are switched off, or there is no such volume",
        "remove AutoShareServer and AutoShareWks from the registry key LanmanServer\\Parameters and restart the service"
        " Server: docs/hyperv.md, Set-up",
    ),
    0xC00000C9: _SHARE_GONE,  # NETWORK_NAME_DELETED
    0xC0000043: _IN_USE,  # SHARING_VIOLATION
    0xC0000054: _IN_USE,  # FILE_LOCK_CONFLICT
    0xC0000056: _IN_USE,  # DELETE_PENDING
    0xC0000121: _IN_USE,  # CANNOT_DELETE
    0xC0000243: _IN_USE,  # USER_MAPPED_FILE
    0xC0000034: _MISSING,  # OBJECT_NAME_NOT_FOUND
    0xC000003A: _MISSING,  # OBJECT_PATH_NOT_FOUND
    0xC000000F: _MISSING,  # NO_SUCH_FILE
    0xC0000225: _MISSING,  # NOT_FOUND
    0xC0000035: Meaning(Code.VM_NAME_TAKEN, "there is such a file or folder already"),  # OBJECT_NAME_COLLISION
    0xC0000101: Meaning(Code.VM_NAME_TAKEN, "the folder holds other files"),  # DIRECTORY_NOT_EMPTY
    0xC000007F: _FULL,  # DISK_FULL
    0xC0000044: _FULL,  # QUOTA_EXCEEDED
    0xC0000128: _GONE,  # FILE_CLOSED
    0xC0000203: _GONE,  # USER_SESSION_DELETED
    0xC000035C: _GONE,  # NETWORK_SESSION_EXPIRED
    0xC000020C: _GONE,  # CONNECTION_DISCONNECTED
    0xC000020D: _GONE,  # CONNECTION_RESET
    0xC00000B5: Meaning(Code.HOST_UNREACHABLE, "the host took too long"),  # IO_TIMEOUT
    0xC0000205: _SHORT,  # INSUFF_SERVER_RESOURCES
    0xC000009A: _SHORT,  # INSUFFICIENT_RESOURCES
    0xC00000D0: _SHORT,  # REQUEST_NOT_ACCEPTED
}


@contextlib.contextmanager
def mapped(host: str, what: str) -> Iterator[None]:
    r"""Let requests be made; what they raise becomes our errors.

    Args:
        host: Name of the host.
        what: What is being done to which file, as a sentence goes on after "can't": ``open D:\vm\a.vhdx``.

    Raises:
        BootpointError: With the code of `MEANINGS`; ``host_unreachable`` for a broken connection; ``host_auth``;
            ``host_unsupported`` where smbprotocol is missing, or the host lacks what is needed.
    """
    try:
        from cryptography.exceptions import InvalidTag
        from smbprotocol import exceptions
    except ImportError as exc:
        raise error(Code.HOST_UNSUPPORTED, "SMB needs smbprotocol: pip install 'bootpoint[hyperv]'", host=host) from exc
    try:
        yield
    except exceptions.SMBResponseException as exc:
        raise error_of(host, what, int(exc.status)) from exc
    except exceptions.SMBOSError as exc:
        raise error_of(host, what, int(exc.ntstatus)) from exc
    except exceptions.SMBAuthenticationError as exc:
        text = f"host {host} and bootpoint can't agree on a login: {exc}"
        raise kerberos.error_of(host, exc) or error(Code.HOST_AUTH, text, host=host) from exc
    except ImportError as exc:
        # smbprotocol asks for it at the login only.
        text = f"Kerberos needs more: pip install 'bootpoint[hyperv-kerberos]' ({exc})"
        raise error(Code.HOST_UNSUPPORTED, text, host=host) from exc
    except exceptions.SMBConnectionClosed as exc:
        raise unreachable(host, f"can't {what}: the connection was cut") from exc
    except InvalidTag as exc:
        raise unreachable(host, f"can't {what}: an answer was changed on the way") from exc
    except (exceptions.SMBException, OSError, EOFError) as exc:
        raise unreachable(host, f"can't {what}: {exc}") from exc


def error_of(host: str, what: str, status: int) -> BootpointError:
    """Return our error for an NT status; see `mapped`."""
    meaning = MEANINGS.get(status, Meaning(Code.TARGET_WRITE_ERROR, "the host failed"))
    return error(
        meaning.code, f"host {host}: can't {what}: {meaning.text} (0x{status:08X})", hint=meaning.hint, host=host
    )
