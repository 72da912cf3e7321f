"""A replica's directory on the host: reading its journal, changing it, and long operations in it."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from bootpoint_common.errors import Code, error
from bootpoint_worker.targets.kvm import journal, script
from bootpoint_worker.targets.kvm.session import COMMAND_TIMEOUT, Result, Session, check

#: Seconds that the lock on a replica's VMs is held at most; starting a VM takes a few.
GUARD_SECONDS = 300

#: Seconds to wait for that lock; the script on the host gives up sooner.
GUARD_WAIT = 45.0

_Answer = TypeVar("_Answer")

#: Times that a change is worked out anew when somebody else was quicker.
ATTEMPTS = 8

#: Times that a long operation is started again after it vanished with a restart of the host.
RESTARTS = 3


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A replica's directory as it was read.

    Attributes:
        manifest: The journal.
        digest: What it is compared by when it is changed.
        scratch: Length in bytes of every scratch layer, by file name.
    """

    manifest: journal.Manifest
    digest: str
    scratch: dict[str, int] = field(default_factory=dict)


class Changed(Exception):  # noqa: N818 - not an error: the work starts again from what is there now
    """The journal was changed by somebody else since it was read."""


class Place:
    """A replica's directory.

    Args:
        session: The way to the host.
        directory: Its absolute path there.
    """

    def __init__(self, *, session: Session, directory: str) -> None:
        self.session = session
        self.directory = directory

    def read(self) -> Snapshot | None:
        """Read the journal; None when there is none."""
        result = self.session.run(script.script("read"), self.directory)
        if result.exit_code == script.NO_REPLICA:
            return None
        data, _, lengths = check(self.session, result, f"read the journal in {self.directory}").stdout.partition(b"\0")
        found = re.findall(r"^(\d+) (.+)$", lengths.decode(), re.MULTILINE)
        return Snapshot(
            manifest=journal.decode(data, host=self.session.host),
            digest=journal.digest(data),
            scratch={name: int(length) for length, name in found},
        )

    def change(
        self, name: str, before: Snapshot, after: journal.Manifest | None, *arguments: str, what: str
    ) -> Snapshot:
        """Run a script that changes this directory, under the lock and only if the journal is still ``before``.

        Args:
            name: The script.
            before: What the change was worked out from.
            after: The new journal; None when the script doesn't replace it.
            arguments: The script's, after directory and digests.
            what: What it does, to be read after "could not".

        Returns:
            The directory as it is afterwards; the lengths of scratch layers are those before.

        Raises:
            Changed: Somebody else changed the journal.
        """
        data = b"" if after is None else after.encoded()
        digests = [before.digest] if after is None else [before.digest, journal.digest(data)]
        self.run(name, *digests, *arguments, stdin=data, what=what)
        return before if after is None else Snapshot(after, digests[1], before.scratch)

    def run(
        self, name: str, *arguments: str, stdin: bytes = b"", what: str, timeout: float = COMMAND_TIMEOUT
    ) -> Result:
        """Run a script on this directory.

        Raises:
            Changed: The journal isn't the one that was read.
            RetryableError: ``busy``, ``layer_lost``, and what `check` says.
        """
        result = self.session.run(script.script(name), self.directory, *arguments, stdin=stdin, timeout=timeout)
        if result.exit_code in (script.CHANGED, script.NO_REPLICA):
            raise Changed
        if result.exit_code in (script.BUSY, script.STUCK):
            raise error(Code.BUSY, f"{what}: {result.stderr.strip() or 'somebody holds it'}", host=self.session.host)
        if result.exit_code == script.GONE:
            raise error(
                Code.LAYER_LOST,
                f"{what}: a layer's file in {self.directory} is gone {result.stderr.strip()}".strip(),
                host=self.session.host,
            )
        return check(self.session, result, what)

    def operate(
        self, operation: str, command: Sequence[str], *, timeout: float, what: str, before: Snapshot | None = None
    ) -> tuple[int, str]:
        """Run a long command that outlives this connection, and wait for its end.

        Called again with the same id it finds the command running or ended.

        Args:
            operation: Its id, part of file names.
            command: Program and arguments; the working directory is the replica's.
            timeout: Seconds; past it the command goes on, and the next call finds it.
            what: What it does, to be read after "could not".
            before: Given, it is started only if the journal is still this one.

        Returns:
            Exit code, and what it printed (the last 64 KiB).

        Raises:
            Changed: Somebody else changed the journal.
            RetryableError: ``busy``: it still runs; ``host_unreachable``.
        """
        digest = "any" if before is None else before.digest
        polls = max(1, round(timeout / 4))
        for _ in range(RESTARTS):
            self.run("operation_begin", digest, operation, *command, what=what)
            for _ in range(polls):
                result = self.session.run(script.script("operation_poll"), self.directory, operation)
                if result.exit_code != script.STILL_RUNNING:
                    break
            if result.exit_code == 0:
                code, _, output = result.text.partition("\n")
                self.forget(operation)
                if not code:
                    # It ended, and the file that was to say how took not even a number.
                    text = f"host {self.session.host} had no room for the outcome: {what}"
                    raise error(Code.HOST_FULL, text, host=self.session.host)
                return int(code), output
            if result.exit_code == script.STILL_RUNNING:
                raise error(
                    Code.BUSY, f"{what}: the host still works on it after {timeout:.0f} s", host=self.session.host
                )
            self.forget(operation)
        raise error(Code.TARGET_WRITE_ERROR, f"{what}: the command vanished on the host", host=self.session.host)

    def stored_bytes(self, files: Sequence[str]) -> dict[str, int]:
        """Return how many bytes files take on the storage."""
        stored = {}
        for line in self.run("lengths", *files, what="measure layers").text.splitlines():
            _length, blocks, block, name = line.split(" ", 3)
            stored[name] = int(blocks) * int(block)
        return stored

    def overlays(self) -> dict[str, str]:
        """Return what each file in the directory stands on, as its own header says: the directory is the truth."""
        words = self.run("overlays", what="look which file stands on which").stdout.split(b"\0")[:-1]
        names = [word.decode(errors="surrogateescape") for word in words]
        return dict(zip(names[::2], names[1::2], strict=True))

    def forget(self, operation: str) -> None:
        """Remove what a long operation left."""
        self.run("operation_forget", operation, what="tidy up")

    def write(self, name: str, content: bytes) -> None:
        """Replace a file beside the journal."""
        self.run("write", name, journal.digest(content), stdin=content, what=f"write {name}")

    def retried(self, work: Callable[[], _Answer]) -> _Answer:
        """Do work that reads the journal and changes it, again while others are quicker, and return its answer.

        Raises:
            RetryableError: ``busy``.
        """
        for _ in range(ATTEMPTS):
            try:
                return work()
            except Changed:
                continue
        raise error(Code.BUSY, f"the journal in {self.directory} keeps changing", host=self.session.host)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Hold the lock on the replica's VMs and scratch layers; ``vm start --direct`` takes it too.

        It is let go when this process dies, and after `GUARD_SECONDS` at the latest.

        Raises:
            RetryableError: ``busy``.
        """
        connection = self.session.attach(script.script("guard"), self.directory, str(GUARD_SECONDS))
        with connection:
            connection.settimeout(GUARD_WAIT)
            try:
                answer = connection.recv(64).strip()
            except OSError:
                answer = b""
            if answer == b"absent":
                raise Changed
            if answer != b"held":
                raise error(
                    Code.BUSY,
                    f"somebody else works on the VMs of {self.directory}",
                    host=self.session.host,
                )
            try:
                yield
            finally:
                # Only when the other side has ended is the lock free for certain.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(64)
