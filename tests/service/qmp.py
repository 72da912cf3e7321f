"""Commands to a QEMU that runs (QMP: qemu.readthedocs.io, "QEMU Machine Protocol")."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any


def command(control: Path, name: str, **arguments: Any) -> Any:
    """Give QEMU a command, and return its answer.

    Args:
        control: Its socket.
        name: The command's.
        arguments: And what it takes.

    Raises:
        RuntimeError: QEMU refuses it.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(control))
        with client.makefile("rw") as stream:
            stream.readline()
            for execute, given in (("qmp_capabilities", {}), (name, arguments)):
                stream.write(json.dumps({"execute": execute, "arguments": given}) + "\n")
                stream.flush()
                answer = _answer(stream)
    return answer


def _answer(stream: Any) -> Any:
    for line in stream:
        said = json.loads(line)
        if "error" in said:
            raise RuntimeError(said["error"]["desc"])
        if "return" in said:
            return said["return"]
    raise RuntimeError("QEMU said nothing")
