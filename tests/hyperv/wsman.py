"""WS-Management's envelopes, as far as remote shells need them.

Sources: [MS-WSMV] "Web Services Management Protocol Extensions for Windows Vista" (shells, faults), DMTF DSP0226
"WS-Management" (the names of faults).
"""

from __future__ import annotations

import re
import uuid
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bootpoint_common.units import KiB

_SOAP = "http://www.w3.org/2003/05/soap-envelope"
_ADDRESSING = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
_TRANSFER = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
_WSMAN = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
_FAULT = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"

#: Namespace of remote shells.
SHELL = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"

#: Largest envelope that the service takes, in bytes: MaxEnvelopeSizekb is 500 since Windows Server 2012.
MAX_ENVELOPE = 500 * KiB

#: Seconds that the service waits for output when a client names none ([MS-WSMV], MaxTimeoutms).
DEFAULT_TIMEOUT = 60.0

_DURATION = re.compile(r"P(?:T(?:(\d+)M)?(?:([\d.]+)S)?)")


class FaultError(Exception):
    """The service refuses a request.

    Args:
        code: Of WSManFault; a Windows error or one of wsmerror.h (ERROR_WSMAN_…, 0x8033…).
        subcode: As DSP0226 names it: ``TimedOut``.
        message: For people.
        sender: Whether it is the client's fault.
    """

    def __init__(self, code: int, subcode: str, message: str, *, sender: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.subcode = subcode
        self.sender = sender


def timed_out() -> FaultError:
    """Return what a Receive gets when there was no output in time: ERROR_WSMAN_OPERATION_TIMEDOUT."""
    text = "The WS-Management service cannot complete the operation within the time specified in OperationTimeout.  "
    return FaultError(2150858793, "TimedOut", text, sender=False)


def no_shell(shell: str) -> FaultError:
    """Return what is said of a shell that is gone (wsmerror.h: ERROR_WSMAN_UNEXPECTED_SELECTORS)."""
    text = (
        f"The request for the Windows Remote Shell with ShellId {shell} failed because the shell was not found on the "
        "server. Possible causes are: the specified ShellId is incorrect or the shell no longer exists on the server. "
        "Provide the correct ShellId or create a new shell and retry the operation. "
    )
    return FaultError(2150858843, "InvalidSelectors", text)


def too_many_shells(limit: int) -> FaultError:
    """Return what is said when MaxShellsPerUser is reached (as hashicorp/vagrant issue 7489 quotes it)."""
    text = (
        "The WS-Management service cannot process the request. This user is allowed a maximum number of "
        f"{limit} concurrent shells, which has been exceeded. Close existing shells or raise the quota for this user. "
    )
    return FaultError(2150859173, "QuotaLimit", text)


def too_large() -> FaultError:
    """Return what is said of an envelope beyond MaxEnvelopeSizekb (wsmerror.h: ERROR_WSMAN_ENCODING_LIMIT)."""
    text = "The WS-Management service cannot process the request. The request exceeds the maximum envelope size. "
    return FaultError(2150858805, "EncodingLimit", text)


def access_denied() -> FaultError:
    """Return what an administrator gets whom UAC filters: Windows' ERROR_ACCESS_DENIED (diyan/pywinrm issue 338)."""
    return FaultError(5, "AccessDenied", "Access is denied. ")


@dataclass(frozen=True, slots=True)
class Request:
    """What a client wants.

    Attributes:
        action: The last part of the action: ``Create``, ``Command``, ``Receive``, ``Send``, ``Signal``, ``Delete``.
        message_id: Which the answer names.
        full_action: The whole of it.
        shell_id: Selector of the shell; empty without one.
        timeout: Seconds for the operation.
        max_envelope: Largest answer that the client takes, in bytes.
        body: The body's content.
    """

    action: str
    message_id: str
    full_action: str
    shell_id: str
    timeout: float
    max_envelope: int
    body: ET.Element

    def text(self, name: str) -> str:
        """Return the text of an element of the body, by its name in the shells' namespace; empty without one."""
        return self.body.findtext(f".//{{{SHELL}}}{name}") or ""

    def texts(self, name: str) -> list[str]:
        """Return the texts of all such elements."""
        return [each.text or "" for each in self.body.findall(f".//{{{SHELL}}}{name}")]

    def command_id(self, name: str) -> str:
        """Return the attribute CommandId of an element."""
        found = self.body.find(f".//{{{SHELL}}}{name}")
        return "" if found is None else found.get("CommandId", "")


def parse(data: bytes) -> Request:
    """Read a request.

    Raises:
        FaultError: It is none, or larger than the service takes.
    """
    if len(data) > MAX_ENVELOPE:
        raise too_large()
    try:
        root = ET.fromstring(data)
    except ET.ParseError as exc:
        raise FaultError(2150858817, "SchemaValidationError", f"The request isn't XML: {exc}") from exc
    action = root.findtext(f".//{{{_ADDRESSING}}}Action") or ""
    shell = next((each.text or "" for each in root.iter(f"{{{_WSMAN}}}Selector") if each.get("Name") == "ShellId"), "")
    body = root.find(f"{{{_SOAP}}}Body")
    return Request(
        action=action.rpartition("/")[2],
        message_id=root.findtext(f".//{{{_ADDRESSING}}}MessageID") or "",
        full_action=action,
        shell_id=shell.upper(),
        timeout=_seconds(root.findtext(f".//{{{_WSMAN}}}OperationTimeout")),
        max_envelope=int(root.findtext(f".//{{{_WSMAN}}}MaxEnvelopeSize") or MAX_ENVELOPE),
        body=ET.Element("none") if body is None else body,
    )


def _seconds(duration: str | None) -> float:
    found = _DURATION.fullmatch(duration or "")
    return int(found[1] or 0) * 60 + float(found[2] or 0) if found else DEFAULT_TIMEOUT


def answer(request: Request, body: str) -> bytes:
    """Return the envelope that answers a request."""
    return _envelope(f"{request.full_action}Response", request.message_id, body)


def fault(request_id: str, wrong: FaultError) -> bytes:
    """Return the envelope that refuses one."""
    side = "Sender" if wrong.sender else "Receiver"
    text = escape(str(wrong))
    body = (
        f"<s:Fault><s:Code><s:Value>s:{side}</s:Value><s:Subcode><s:Value>w:{wrong.subcode}</s:Value></s:Subcode></s:Code>"
        f'<s:Reason><s:Text xml:lang="en-US">{text}</s:Text></s:Reason><s:Detail>'
        f'<f:WSManFault xmlns:f="{_FAULT}" Code="{wrong.code}" Machine="127.0.0.1"><f:Message>{text}</f:Message>'
        "</f:WSManFault></s:Detail></s:Fault>"
    )
    return _envelope("http://schemas.dmtf.org/wbem/wsman/1/wsman/fault", request_id, body)


def _envelope(action: str, relates_to: str, body: str) -> bytes:
    return (
        f'<s:Envelope xml:lang="en-US" xmlns:s="{_SOAP}" xmlns:a="{_ADDRESSING}" xmlns:x="{_TRANSFER}" '
        f'xmlns:w="{_WSMAN}" xmlns:rsp="{SHELL}"><s:Header><a:Action>{action}</a:Action>'
        f"<a:MessageID>uuid:{str(uuid.uuid4()).upper()}</a:MessageID>"
        "<a:To>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:To>"
        f"<a:RelatesTo>{escape(relates_to)}</a:RelatesTo></s:Header><s:Body>{body}</s:Body></s:Envelope>"
    ).encode()
