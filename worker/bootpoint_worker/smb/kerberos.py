"""What a failure of Kerberos means here: the only place where codes of GSS-API become errors of ours.

Two libraries speak it, one for SMB and one for WinRM; both call MIT's, and hand its codes on in exceptions of their
own. Major codes: RFC 2744 3.9.1. Minor ones: RFC 4120 7.5.9, and MIT's own behind them, in its table krb5_err.et.
"""

from __future__ import annotations

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.meaning import Meaning

#: What is added to codes of the table krb5 (com_err).
_TABLE = 0x96C73A00

#: Codes have 32 bits; only one of the two libraries reads the highest as a sign.
_BITS = 0xFFFFFFFF

#: What to do where a host refuses a ticket that the domain gave.
STALE_HINT = "`kinit` again: a ticket from before the host joined its domain anew isn't good any more"

_NO_TICKET = Meaning(
    Code.HOST_AUTH,
    "there is no Kerberos ticket of its account here",
    "get one as the worker's user, and where KRB5CCNAME says: `kinit USER@REALM`, the account as the host's --user has"
    " it, the realm in capitals: docs/hyperv.md, Kerberos",
)
_EXPIRED = Meaning(
    Code.HOST_AUTH,
    "the Kerberos ticket has expired",
    "get another as the worker's user: `kinit USER@REALM`; k5start renews one in time: docs/hyperv.md, Kerberos",
)
_SKEW = Meaning(
    Code.HOST_AUTH,
    "the clocks of this machine, the domain and the host differ by more than Kerberos bears",
    "let all of them follow the domain's time: 5 minutes are too much",
)
_UNKNOWN = Meaning(
    Code.HOST_AUTH,
    "the domain knows no service of that name",
    "give the host by the name that it has in the domain, not by an IP address: `bootpoint host set NAME --address N`;"
    " `setspn -L` on it lists its names: docs/hyperv.md, Kerberos",
)
_NO_KDC = Meaning(
    Code.HOST_UNREACHABLE,
    "no controller of the domain answers",
    "let this machine reach one at port 88, TCP and UDP, and find it: by DNS, or in /etc/krb5.conf: docs/hyperv.md,"
    " Kerberos",
)
_UNPROVEN = Meaning(
    Code.HOST_AUTH,
    "what answers doesn't prove that it is this host",
    "look who has its address: what is there has none of the host's keys, and was sent nothing but a ticket",
)
_OTHER = Meaning(Code.HOST_AUTH, "the login by Kerberos has failed", "set Kerberos up as docs/hyperv.md has it")

#: Minor code -> what it means.
MINOR = {
    _TABLE + 7: _UNKNOWN,  # KDC_ERR_S_PRINCIPAL_UNKNOWN
    _TABLE + 32: _EXPIRED,  # KRB_AP_ERR_TKT_EXPIRED
    _TABLE + 37: _SKEW,  # KRB_AP_ERR_SKEW
    _TABLE + 154: _NO_KDC,  # KRB5_REALM_UNKNOWN
    _TABLE + 156: _NO_KDC,  # KRB5_KDC_UNREACH
}

#: Major code -> what it means where the minor one says nothing.
MAJOR = {7 << 16: _NO_TICKET, 11 << 16: _EXPIRED}  # GSS_S_NO_CRED, GSS_S_CREDENTIALS_EXPIRED


def error_of(host: str, exc: BaseException) -> BootpointError | None:
    """Return our error for an exception that comes from Kerberos; None for any other.

    Args:
        host: Name of the host.
        exc: What a library raised, on top of what it had caught.
    """
    # Its class can't be imported where pykerberos is missing.
    if type(exc).__name__ == "MutualAuthenticationError":
        return _error(host, _UNPROVEN, exc)
    found: BaseException | None = exc
    while found is not None:
        if said := _codes(found):
            major, minor, text = said
            meaning = MINOR.get(minor & _BITS) or MAJOR.get(major & _BITS, _OTHER)
            return _error(host, meaning, text)
        found = getattr(found, "base_error", None) or found.__cause__ or found.__context__
    return None


def _error(host: str, meaning: Meaning, said: object) -> BootpointError:
    return error(meaning.code, f"host {host}: {meaning.text}: {said}", hint=meaning.hint, host=host)


def _codes(exc: BaseException) -> tuple[int, int, str] | None:
    """Return major code, minor code and text: of gssapi's exceptions, or pykerberos'; None of any other."""
    match exc.args, getattr(exc, "maj_code", None), getattr(exc, "min_code", None):
        case _, int(major), int(minor):
            return major, minor, str(exc)
        case ((str(), int(major)), (str(text), int(minor))), None, None:
            return major, minor, text
    return None
