"""Commands on a pseudo-terminal, and what a person would see there."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import termios
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.service.process import PATIENCE, wait_for

#: A terminal that knows colours and can move its cursor.
TERM = "xterm-256color"

#: Rows of every terminal here.
ROWS = 24

_CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


class Terminal:
    """A command whose streams are a terminal of its own, but for those that are pipes; a context manager.

    Args:
        command: Program and arguments.
        environment: Its environment; TERM is added.
        columns: How wide the terminal is.
        pipes: Streams that don't go to the terminal: ``stdout``, ``stderr``.

    Attributes:
        columns: As given.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        columns: int = 80,
        pipes: Collection[str] = (),
    ) -> None:
        self.columns = columns
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        streams = {name: subprocess.PIPE if name in pipes else slave for name in ("stdout", "stderr")}
        # With a terminal that controls it, Ctrl-C reaches the program as it does a person's.
        self._child = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=slave, stdout=streams["stdout"], stderr=streams["stderr"],
            env={"TERM": TERM, **environment},
        )  # fmt: skip
        os.close(slave)
        self._got = {"terminal": bytearray(), "stdout": bytearray(), "stderr": bytearray()}
        ends = {"terminal": self._master}
        ends |= {name: file.fileno() for name in pipes if (file := getattr(self._child, name)) is not None}
        self._readers = [threading.Thread(target=self._read, args=end, daemon=True) for end in ends.items()]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()
        for reader in self._readers:
            reader.join()
        for file in (self._child.stdout, self._child.stderr):
            if file is not None:
                file.close()
        os.close(self._master)

    def _read(self, name: str, descriptor: int) -> None:
        while True:
            try:
                data = os.read(descriptor, 65536)
            except OSError:  # nobody has the terminal open any more
                return
            if not data:
                return
            self._got[name] += data

    @property
    def threads(self) -> int:
        """How many threads the command has: more than one once it has opened a database."""
        return len(list(Path(f"/proc/{self._child.pid}/task").iterdir()))

    def raw(self, stream: str = "terminal") -> str:
        """Return everything that came so far on the terminal, or on a pipe."""
        return bytes(self._got[stream]).decode("utf-8", "ignore")

    def type(self, text: str) -> None:
        """Let a person type."""
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        """Let a person press Ctrl-C."""
        self.type("\x03")

    def wait_for(self, pattern: str) -> None:
        """Wait until the pattern is seen somewhere on the terminal."""
        try:
            wait_for(lambda: re.search(pattern, "\n".join(self.screen())), pattern)
        except TimeoutError as exc:
            raise TimeoutError(f"{exc}; there is\n{self.raw()!r}") from None

    def ends(self) -> int:
        """Wait until the command has ended and all is read, and return its exit code."""
        code = self._child.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    def lines(self) -> list[str]:
        """Return each line that was ever drawn, without control sequences."""
        return [line for line in re.split(r"[\r\n]+", _CONTROL.sub("", self.raw())) if line.strip()]

    def screen(self) -> list[str]:
        """Return the lines that are to be seen now, those that scrolled away among them."""
        rows, row, column = [""], 0, 0
        for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", self.raw()):
            control = _CONTROL.fullmatch(part)
            if part == "\r":
                column = 0
            elif part == "\n":
                row += 1
                rows += [""] * (row + 1 - len(rows))
            elif control is not None and control[2] == "A":
                row = max(0, row - int(control[1] or 1))
            elif control is not None and control[2] == "K":
                rows[row] = ""
            elif control is None:
                rows[row] = rows[row][:column].ljust(column) + part + rows[row][column + len(part) :]
                column += len(part)
        return [line.rstrip() for line in rows]
