"""A unix socket in the agent's directory, by which commands on this machine talk to the agent that runs.

One request and one or more answers to a connection, each a line of JSON; the last one has ``done``.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from bootpoint_common.errors import BootpointError, Code, error

_log = logging.getLogger(__name__)

#: Its name in the agent's directory.
NAME = "agent.sock"

#: Longest request in bytes.
LONGEST = 4096

#: Seconds that a caller has to say what he wants.
REQUEST_SECONDS = 5.0

Say = Callable[[dict[str, Any]], None]

#: Does what a request asks, telling what happens meanwhile; returns the last answer, or raises a `BootpointError`.
Answer = Callable[[dict[str, Any], Say], dict[str, Any]]


@contextmanager
def _address(directory: Path) -> Iterator[str]:
    """Give a short path to the socket: the kernel takes 107 bytes, and directories may be deeper."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{NAME}"
    finally:
        os.close(descriptor)


class Doorbell:
    """The agent's end; each caller has a thread of his own.

    Args:
        directory: The agent's; only who may write there can call.
        answer: Does what a request asks.
    """

    def __init__(self, directory: Path, answer: Answer) -> None:
        self._directory = directory
        self._answer = answer
        self._listener: socket.socket | None = None
        self._thread = threading.Thread(target=self._listen, name="agent doorbell", daemon=True)

    def start(self) -> None:
        """Begin to answer; a socket that a dead agent left is replaced."""
        file = self._directory / NAME
        file.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        with _address(self._directory) as path:
            self._listener.bind(path)
        # Before `listen`: until then nobody can connect.
        file.chmod(0o600)
        self._listener.listen()
        self._thread.start()

    def stop(self) -> None:
        """Answer nobody any more; may be called twice."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        listener.close()
        (self._directory / NAME).unlink(missing_ok=True)

    def _listen(self) -> None:
        listener = self._listener
        while listener is not None:
            try:
                caller, _ = listener.accept()
            except OSError:  # it was shut down
                return
            threading.Thread(target=self._serve, args=(caller,), name="agent caller", daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        with closing(caller), suppress(_CallerGone):
            caller.settimeout(REQUEST_SECONDS)
            try:
                last = self._answer(_read(caller), lambda told: _tell(caller, told))
            except BootpointError as problem:
                last = {"error": problem.as_json()}
            except _CallerGone:
                raise
            except Exception as failure:  # noqa: BLE001 - the thread's boundary: the caller would never hear of it
                _log.exception("a call failed")
                last = {"error": error(Code.BUSY, f"the agent could not do it: {failure}").as_json()}
            _tell(caller, {**last, "done": True})


class _CallerGone(Exception):  # noqa: N818 - no error: what the caller asked for goes on without him
    """Nobody reads what the agent answers."""


def _read(caller: socket.socket) -> dict[str, Any]:
    found = None
    with caller.makefile("rb") as stream, suppress(OSError, ValueError):
        found = json.loads(stream.readline(LONGEST))
    if not isinstance(found, dict):
        raise error(Code.SPEC_INVALID, "the agent was asked nothing that it understands")
    return found


def _tell(caller: socket.socket, told: dict[str, Any]) -> None:
    try:
        _write(caller, told)
    except OSError as gone:
        raise _CallerGone from gone


def _write(end: socket.socket, told: dict[str, Any]) -> None:
    end.sendall(json.dumps(told, ensure_ascii=False).encode() + b"\n")


def ring(directory: Path, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Ask the agent that runs over a directory, and yield its answers; the last one has ``done``.

    Raises:
        RetryableError: ``agent_offline``: none runs there, or it ended before it answered.
        BootpointError: What it answers instead.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
        try:
            with _address(directory) as path:
                client.connect(path)
        except PermissionError as refused:
            text = f"the agent over {directory} can't be asked by this user"
            raise error(Code.AGENT_OFFLINE, text, key="state_directory", hint="do it as root") from refused
        except OSError as missing:
            raise error(
                Code.AGENT_OFFLINE, f"no agent runs over {directory}", key="state_directory", value=str(directory),
                hint="start it with `bootpoint-agent run`, or name the directory of the one that runs with --state",
            ) from missing  # fmt: skip
        _write(client, request)
        with client.makefile("rb") as stream:
            for line in stream:
                told = json.loads(line)
                if "error" in told:
                    raise _raised(told["error"])
                yield told
                if told.get("done"):
                    return
    raise error(Code.AGENT_OFFLINE, "the agent ended before it was done")


def _raised(stored: dict[str, Any]) -> BootpointError:
    fields = {name: stored[name] for name in ("key", "value", "hint", "job", "host")}
    return error(Code(stored["code"]), stored["message"], **fields)
