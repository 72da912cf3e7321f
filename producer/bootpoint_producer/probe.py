"""Asking the machine's own programs and files what it is made of."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Seconds that a program may take; a dying disk can hold lsblk for a while.
_PATIENCE = 60.0

#: Where administrators' programs are, which a service's PATH may leave out.
_SYSTEM_PATH = ":/usr/sbin:/sbin"

#: What blkid calls its findings for udev, and what they are called here. The encoded forms lose nothing.
_FOUND = {
    "ID_FS_TYPE": "TYPE",
    "ID_FS_LABEL_ENC": "LABEL",
    "ID_FS_UUID_ENC": "UUID",
    "ID_FS_AMBIVALENT": "AMBIVALENT",
    "ID_PART_TABLE_TYPE": "PTTYPE",
}
#: Exit codes of blkid: found something; found several things that contradict each other.
_BLKID_FOUND, _BLKID_AMBIVALENT = 0, 8
_UNPAIRED = re.compile("[\ud800-\udfff]")
_ENCODED = re.compile(rb"\\x([0-9a-fA-F]{2})")


@dataclass(frozen=True, slots=True)
class Reply:
    """How a program ended.

    Attributes:
        text: What it printed; bytes that are no UTF-8 as surrogates.
        code: Its exit code; None when it isn't installed or took too long.
    """

    text: str
    code: int | None


def environment() -> dict[str, str]:
    """Return the environment of a program that is asked: English, and found where only root looks."""
    return {**os.environ, "LC_ALL": "C", "PATH": os.environ.get("PATH", "") + _SYSTEM_PATH}


def is_installed(program: str) -> bool:
    """Say whether there is such a program where `reply` looks for it."""
    return shutil.which(program, path=environment()["PATH"]) is not None


def reply(*command: str) -> Reply:
    """Run a program, and return what it printed and how it ended; never raises."""
    try:
        # check=False: blkid says by its exit code that it found nothing
        done = subprocess.run(
            command, check=False, capture_output=True, timeout=_PATIENCE, env=environment(), stdin=subprocess.DEVNULL
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return Reply("", None)
    return Reply(done.stdout.decode(errors="surrogateescape"), done.returncode)


def ask(*command: str) -> str | None:
    """Return what a program printed; None when it isn't installed, failed, or took too long.

    Nothing of what is asked for here is indispensable: what stays unknown is shown as unknown.
    """
    done = reply(*command)
    return done.text if done.code == 0 else None


def ask_json(*command: str) -> Any:
    """Return what a program printed as JSON; None as with `ask`."""
    return read_json(ask(*command))


def read_json(text: str | None) -> Any:
    """Return what a program meant by its JSON; None where that can't be read.

    A name may hold anything: programs of util-linux write some control characters as they are.
    """
    try:
        return None if text is None else json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def signature(path: str, offset: int = 0, size: int = 0) -> dict[str, str]:
    """Return what blkid finds at a place of a file or a device: TYPE, LABEL, UUID, PTTYPE if there is any.

    Args:
        path: The file or device.
        offset: First byte.
        size: Bytes; 0 for all.

    Returns:
        The findings; only ``AMBIVALENT`` where several contradict each other.
    """
    place = ["--offset", str(offset), "--size", str(size)] if size else []
    done = reply("blkid", "--probe", "--output", "udev", *place, path)
    if done.code not in (_BLKID_FOUND, _BLKID_AMBIVALENT):
        return {}
    lines = (line.partition("=") for line in done.text.splitlines())
    return {_FOUND[name]: _decoded(value) for name, _, value in lines if name in _FOUND}


def _decoded(value: str) -> str:
    """Undo blkid's encoding of what isn't plain, and return text that can be shown."""
    plain = _ENCODED.sub(lambda match: bytes([int(match[1], 16)]), value.encode(errors="surrogateescape"))
    return plain.decode(errors="backslashreplace")


def line_of(path: Path) -> str | None:
    """Return the first line of a file of /proc or /sys without spaces around it; None when it says nothing."""
    try:
        return path.read_text(errors="replace").strip().strip("\0").partition("\n")[0] or None
    except (OSError, ValueError):
        return None


def shown(text: str) -> str:
    r"""Return text that JSON, the database and a terminal can hold: what is no UTF-8 becomes ``\xNN``."""
    return _UNPAIRED.sub(_escape, text).replace("\0", r"\x00")


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    # The upper half of these stands for bytes (PEP 383); the others a program wrote as an escape.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
