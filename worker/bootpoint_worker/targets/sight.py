"""What can be seen of a test VM from outside, at one moment."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

#: Bytes of the end of a serial log that a look brings.
SERIAL_TAIL = 16 * 1024

#: What a terminal takes as a command and not as text: firmware and boot loaders draw.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_=>]|[^\x20-\x7e\n\t\x80-\U0010ffff]")

#: The same, where it moves the cursor to the start of a line: what follows is a line of its own.
_NEW_LINE = re.compile(r"\x1b\[\d+;0?1H|\x1b\[2J|\x1bc")


@dataclass(frozen=True, slots=True)
class Sight:
    """A look at a test VM.

    Attributes:
        state: ``running``, ``paused`` (the hypervisor stopped it, for an I/O error for example), ``off``,
            ``crashed`` (the guest told the hypervisor of its panic), or ``absent`` (there is no such VM).
        why: Why it is in that state, in the hypervisor's words.
        resets: How often its firmware has begun anew since it was started.
        serial: The end of what it wrote to its first serial port, without what only moves a cursor.
        firmware: The end of what its firmware says of itself, where the hypervisor shows that.
        text: The characters of its screen in VGA text mode; None in a graphics mode, or where they can't be had.
        picture: Its screen as PNG; None where it has none.
        agent: Whether the QEMU guest agent (or the hypervisor's own) in it answers.
        read_bytes: Bytes that it has read from its disks since its start.
        written_bytes: Bytes that it has written to them.
        cpu_seconds: Time of processors that it has used.
    """

    state: str
    why: str | None = None
    resets: int = 0
    serial: str = ""
    firmware: str = ""
    text: str | None = None
    picture: bytes | None = field(default=None, repr=False)
    agent: bool = False
    read_bytes: int = 0
    written_bytes: int = 0
    cpu_seconds: float = 0.0


def plain(written: bytes) -> str:
    """Return what was written to a terminal as lines of text."""
    text = written.decode("utf-8", "replace").replace("\r\n", "\n")
    return _CONTROL.sub("", _NEW_LINE.sub("\n", text))
