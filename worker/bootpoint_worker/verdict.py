"""Has a machine booted? A state machine over what can be seen of it from outside, without a clock and without I/O.

Signs are looked for in this order, and the first one decides:

1. a failure that the machine itself tells (`_FAILURES`), or `RESETS` resets: ``does_not_boot``;
2. the guest agent, a login prompt, a target of systemd, a greeting: ``boots``;
3. it powered itself off, or its hypervisor ended it: ``unknown``;
4. nothing moves for `STUCK_SECONDS` and hardly anything was read: ``does_not_boot``;
5. nothing moves for `QUIET_SECONDS`, it has written to its disks and idles: ``boots``, the weakest sign;
6. the time is over: ``unknown``.

A still picture alone says nothing: it may be a panic's. What panicked spins on a processor, and what did not find its
root file system has never written.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from bootpoint_common.units import KiB, MiB, format_duration, format_size
from bootpoint_worker.targets.sight import Sight

#: Seconds until a check without any sign ends: a slow machine with a long list of services needs some minutes.
LIMIT_SECONDS = 600.0

#: Resets that make an endless reboot: one or two belong to some first boots (relabelling, updates, file system checks).
RESETS = 3

#: Seconds without any change after which a machine that read next to nothing is stuck in its firmware or boot loader.
STUCK_SECONDS = 60.0

#: Seconds without any change after which a machine that wrote and idles is taken for booted.
QUIET_SECONDS = 60.0

#: Looks within those seconds at least: a host that was away shows nothing of what happened meanwhile.
QUIET_LOOKS = 5

#: Bytes that the firmware and a boot loader read without a kernel.
LOADER_BYTES = 1 * MiB

#: Bytes that a running system has written; the journal of a file system that is only looked at is less.
WRITTEN_BYTES = 256 * KiB

#: Processors that an idle machine uses; a panic takes one whole.
IDLE = 0.5

#: What a guest that asks for no login can print on its first serial port, at the start of a line.
GREETING = "BOOTPOINT-GUEST"

#: Different pictures of a screen on which nothing but a cursor blinks.
_BLINKING = 2

_FLAGS = re.MULTILINE

#: What machines print when they can't boot -> what that is. Prompts count only where they are the last thing said.
_FAILURES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^No bootable device", _FLAGS), "the firmware found no bootable device"),
    (re.compile(r"^BdsDxe: No bootable option", _FLAGS), "the firmware found no bootable device"),
    (re.compile(r"(^|\n)Shell> *\s*\Z"), "it ended in the UEFI shell"),
    (re.compile(r"(^|\n)grub rescue> *\s*\Z"), "it ended in GRUB's rescue prompt"),
    (re.compile(r"(^|\n)grub> *\s*\Z"), "it ended in GRUB's prompt"),
    (re.compile(r"Kernel panic - not syncing: ?([^\n]{0,120})"), "its kernel panicked"),
    (re.compile(r"^\(initramfs\)", _FLAGS), "it ended in the shell of its initramfs"),
    (re.compile(r"ALERT! .{0,200} does not exist\.\s+Dropping to a shell", re.DOTALL), "its root was not found"),
    (re.compile(r"^dracut:/# ", _FLAGS), "it ended in dracut's emergency shell"),
    (re.compile(r"Entering emergency mode\. Exit the shell to continue"), "it ended in dracut's emergency shell"),
    (re.compile(r"You are in (emergency|rescue) mode"), "it ended in systemd's emergency mode"),
    (re.compile(r"Give root password for maintenance|Press Enter for maintenance"), "it waits for maintenance"),
    (re.compile(r"^(Missing operating system|MISSING OPERATING SYSTEM)", _FLAGS), "its boot sector found no system"),
    (re.compile(r"^(Error loading operating system|Invalid partition table)", _FLAGS), "its boot sector is damaged"),
    (re.compile(r"^(BOOTMGR|NTLDR) is (missing|compressed)", _FLAGS), "Windows' boot loader was not found"),
    (re.compile(r"^(Operating [Ss]ystem not found|An operating system wasn't found)", _FLAGS), "no system was found"),
)

#: What machines print when they are up -> what that is.
_SUCCESSES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^([A-Za-z0-9][\w.-]* )?login: *$", _FLAGS), "it asks for a login"),
    (
        re.compile(r"^(\[ *OK *\]|.{0,60}systemd\[1\]:) Reached target .{0,60}(Multi-User|Graphical)", _FLAGS),
        "systemd has reached its target",
    ),
    (re.compile(rf"^{GREETING}\b", _FLAGS), "it says so on its serial port"),
)


class Verdict(StrEnum):
    """How a boot check ends."""

    BOOTS = "boots"
    """It was seen to come up."""
    DOES_NOT_BOOT = "does_not_boot"
    """It was seen to fail."""
    UNKNOWN = "unknown"
    """Neither was seen."""


class Seen(msgspec.Struct, frozen=True):
    """What is remembered from look to look; written to the row in between.

    Attributes:
        pictures: Digests of the pictures since anything else changed.
        said: Digest of all text at the last look.
        quiet_since: Seconds after the start since when nothing has changed.
        quiet_cpu: Time of processors that it had used then.
        looks: Looks since then.
        read_bytes: Bytes that it had read; a VM that is off says nothing of them.
        written_bytes: Bytes that it had written.
    """

    pictures: tuple[str, ...] = ()
    said: str = ""
    quiet_since: float = 0.0
    quiet_cpu: float = 0.0
    looks: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with its reason, one sentence without a full stop."""

    verdict: Verdict
    reason: str


def judge(seen: Seen, sight: Sight, seconds: float) -> tuple[Seen, Judgement | None]:
    """Take one look into account.

    Args:
        seen: What the looks before gave; `Seen()` for the first one.
        sight: The look.
        seconds: How long ago the VM was started.

    Returns:
        What to remember, and the verdict where there is one.
    """
    after = _remember(seen, sight, seconds)
    found = _failure(sight) or _success(sight) or _gone(sight, seconds) or _quiet(after, sight, seconds)
    if found is None and seconds >= LIMIT_SECONDS:
        text = f"within {format_duration(seconds)} it showed neither that it is up nor why it isn't"
        found = Judgement(Verdict.UNKNOWN, text)
    return after, found


def _remember(seen: Seen, sight: Sight, seconds: float) -> Seen:
    said = digest(f"{sight.state} {sight.resets}\n{sight.text}\n{sight.serial}".encode("utf-8", "replace"))
    picture = None if sight.picture is None else digest(sight.picture)
    pictures = seen.pictures if picture is None or picture in seen.pictures else (*seen.pictures, picture)
    amounts = {
        "read_bytes": max(seen.read_bytes, sight.read_bytes),
        "written_bytes": max(seen.written_bytes, sight.written_bytes),
    }
    if seen.looks and said == seen.said and len(pictures) <= _BLINKING:
        return msgspec.structs.replace(seen, pictures=pictures, looks=seen.looks + 1, **amounts)
    return Seen(
        pictures=() if picture is None else (picture,),
        said=said,
        quiet_since=seconds,
        quiet_cpu=sight.cpu_seconds,
        looks=1,
        **amounts,
    )


def digest(content: bytes) -> str:
    """Return a short digest that is the same in every process."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _texts(sight: Sight) -> list[str]:
    return [text for text in (sight.serial, sight.text, sight.firmware) if text]


def _failure(sight: Sight) -> Judgement | None:
    for text in _texts(sight):
        for pattern, meaning in _FAILURES:
            if found := pattern.search(text):
                said = " ".join(found[0].split())
                return Judgement(Verdict.DOES_NOT_BOOT, f"{meaning} ({said})")
    if sight.state == "crashed":
        return Judgement(Verdict.DOES_NOT_BOOT, "its kernel panicked and told the hypervisor so")
    if sight.resets >= RESETS:
        return Judgement(Verdict.DOES_NOT_BOOT, f"it was reset {sight.resets} times: it reboots without end")
    return None


def _success(sight: Sight) -> Judgement | None:
    if sight.agent:
        return Judgement(Verdict.BOOTS, "the guest agent in it answers")
    for text in (sight.serial, sight.text):
        for pattern, meaning in _SUCCESSES:
            if text and (found := pattern.search(text)):
                return Judgement(Verdict.BOOTS, f"{meaning} ({' '.join(found[0].split())})")
    return None


def _gone(sight: Sight, seconds: float) -> Judgement | None:
    if sight.state == "absent":
        return Judgement(Verdict.UNKNOWN, "its VM is no longer on the host")
    if sight.state != "off":
        return None
    if sight.why == "shutdown":
        text = f"it powered itself off within {format_duration(seconds)} and had not shown that it was up"
    else:
        text = f"its VM ended ({sight.why or 'the hypervisor does not say why'})"
    return Judgement(Verdict.UNKNOWN, text)


def _quiet(after: Seen, sight: Sight, seconds: float) -> Judgement | None:
    """Judge a machine on which nothing moves any more."""
    quiet = seconds - after.quiet_since
    if sight.state != "running" or after.looks < QUIET_LOOKS:
        return None
    if quiet >= STUCK_SECONDS and after.read_bytes < LOADER_BYTES:
        text = f"nothing moved for {quiet:.0f} s, and it has read only {format_size(after.read_bytes)} of its disks"
        return Judgement(Verdict.DOES_NOT_BOOT, text)
    idle = sight.cpu_seconds - after.quiet_cpu < IDLE * quiet
    if quiet >= QUIET_SECONDS and after.pictures and after.written_bytes >= WRITTEN_BYTES and idle:
        text = (
            f"a weak sign: its picture has not changed for {quiet:.0f} s, it has written"
            f" {format_size(after.written_bytes)} to its disks and idles; neither a login nor a guest agent was seen"
        )
        return Judgement(Verdict.BOOTS, text)
    return None
