"""Remote shells ([MS-WSMV] 3.1.4.5): each runs commands, whose output clients fetch a piece at a time."""

from __future__ import annotations

import base64
import re
import threading
import time
import uuid
from collections.abc import Callable, Sequence

from bootpoint_common.units import KiB
from tests.hyperv import wsman
from tests.hyperv.wsman import SHELL, Request

#: Shells that one user may have at a time: MaxShellsPerUser since Windows Server 2012.
MAX_SHELLS = 30

#: Longest command line that cmd.exe takes, in characters (Microsoft, "Command prompt line string limitation").
MAX_LINE = 8191

#: Exit code of a process that was terminated, as winrs returns it: STATUS_CONTROL_C_EXIT, signed.
TERMINATED = -1073741510

#: Room in an envelope for what is around the output, in bytes.
AROUND = 4 * KiB

#: Words of a command line: those in quotes may hold spaces.
_WORD = re.compile(r'(?:[^\s"]|"[^"]*")+')


class Killed(BaseException):
    """The process was ended; nothing of it catches that."""


class Process:
    """A command that runs.

    Args:
        words: Program and arguments.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._said = {"stdout": b"", "stderr": b""}
        self._exit_code: int | None = None
        self._changed = threading.Condition()
        self._killed = threading.Event()

    def write(self, stream: str, text: str) -> None:
        """Say something on ``stdout`` or ``stderr``."""
        with self._changed:
            self._said[stream] += text.encode()
            self._changed.notify_all()

    def end(self, exit_code: int) -> None:
        """End with an exit code."""
        with self._changed:
            self._exit_code = exit_code
            self._changed.notify_all()

    def kill(self) -> None:
        """Let it end as soon as it looks."""
        self._killed.set()

    @property
    def killed(self) -> bool:
        """Whether it was killed, and fails by whatever it meets then."""
        return self._killed.is_set()

    def check(self) -> None:
        """Go on, unless it was killed.

        Raises:
            Killed: It was.
        """
        if self._killed.is_set():
            raise Killed

    def take(self, timeout: float, limit: int) -> tuple[dict[str, bytes], int | None]:
        """Wait for output or the end, and take at most so many bytes.

        Returns:
            Output by streams, and the exit code when there is nothing left.

        Raises:
            FaultError: There was nothing in time.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not any(self._said.values()) and self._exit_code is None:
                if not self._changed.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                    raise wsman.timed_out()
            taken = {}
            for stream, said in self._said.items():
                taken[stream], self._said[stream] = said[:limit], said[limit:]
                limit -= len(taken[stream])
            return taken, None if any(self._said.values()) else self._exit_code


#: Carries out a process and returns its exit code.
Execute = Callable[[Process], int]


class Shells:
    """All shells of a host.

    Args:
        execute: Carries out what is run in them.
    """

    def __init__(self, execute: Execute) -> None:
        self._execute = execute
        self._shells: dict[str, dict[str, Process]] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self.limit = MAX_SHELLS

    def __len__(self) -> int:
        return len(self._shells)

    def answer(self, request: Request) -> bytes:
        """Do what a request wants.

        Raises:
            FaultError: It can't be done.
        """
        doings = {
            "Create": self._create,
            "Command": self._command,
            "Receive": self._receive,
            "Signal": self._signal,
            "Delete": self._delete,
        }
        if request.action not in doings:
            text = f"The action {request.full_action} isn't supported. "
            raise wsman.FaultError(2150858753, "ActionNotSupported", text)
        return wsman.answer(request, doings[request.action](request))

    def kill(self, *, shells: bool = True) -> None:
        """End all processes, and, unless told otherwise, their shells: as an administrator or a quota does."""
        with self._lock:
            for processes in self._shells.values():
                for each in processes.values():
                    each.kill()
            if shells:
                self._shells.clear()

    def join(self) -> None:
        """Wait until every process has ended."""
        for each in self._threads:
            each.join()
        self._threads.clear()

    def _create(self, _: Request) -> str:
        shell = str(uuid.uuid4()).upper()
        with self._lock:
            if len(self._shells) >= self.limit:
                raise wsman.too_many_shells(self.limit)
            self._shells[shell] = {}
        return (
            f"<x:ResourceCreated><a:Address>http://127.0.0.1/wsman</a:Address><a:ReferenceParameters>"
            f"<w:ResourceURI>{SHELL}/cmd</w:ResourceURI><w:SelectorSet>"
            f'<w:Selector Name="ShellId">{shell}</w:Selector></w:SelectorSet></a:ReferenceParameters>'
            f"</x:ResourceCreated><rsp:Shell><rsp:ShellId>{shell}</rsp:ShellId></rsp:Shell>"
        )

    def _processes(self, request: Request) -> dict[str, Process]:
        found = self._shells.get(request.shell_id)
        if found is None:
            raise wsman.no_shell(request.shell_id)
        return found

    def _process(self, request: Request, element: str) -> Process:
        found = self._processes(request).get(request.command_id(element).upper())
        if found is None:
            text = "The WS-Management service cannot process the request because the command isn't there. "
            raise wsman.FaultError(2150858843, "InvalidSelectors", text)
        return found

    def _command(self, request: Request) -> str:
        processes = self._processes(request)
        line = " ".join([request.text("Command"), *request.texts("Arguments")])
        process = Process([word.replace('"', "") for word in _WORD.findall(line)])
        command = str(uuid.uuid4()).upper()
        processes[command] = process
        if len(line) > MAX_LINE:
            process.write("stderr", "The command line is too long.\r\n")
            process.end(1)
        else:
            thread = threading.Thread(target=self._run, args=(process,), daemon=True)
            self._threads = [each for each in self._threads if each.is_alive()] + [thread]
            thread.start()
        return f"<rsp:CommandResponse><rsp:CommandId>{command}</rsp:CommandId></rsp:CommandResponse>"

    def _run(self, process: Process) -> None:
        exit_code = 1
        try:
            exit_code = self._execute(process)
        except Killed:
            exit_code = TERMINATED
        except Exception as exc:
            if not process.killed:
                process.write("stderr", f"the stand-in failed: {exc!r}")
                raise
            exit_code = TERMINATED
        finally:
            process.end(exit_code)

    def _receive(self, request: Request) -> str:
        process, command = self._process(request, "DesiredStream"), request.command_id("DesiredStream")
        # Base 64 makes four bytes of three.
        limit = (min(request.max_envelope, wsman.MAX_ENVELOPE) - AROUND) // 4 * 3
        taken, exit_code = process.take(request.timeout, limit)
        streams = "".join(
            f'<rsp:Stream Name="{name}" CommandId="{command}">{base64.b64encode(data).decode()}</rsp:Stream>'
            for name, data in taken.items()
            if data
        )
        if exit_code is None:
            state = f'<rsp:CommandState CommandId="{command}" State="{SHELL}/CommandState/Running"/>'
        else:
            ended = "".join(f'<rsp:Stream Name="{name}" CommandId="{command}" End="true"/>' for name in taken)
            state = (
                f'{ended}<rsp:CommandState CommandId="{command}" State="{SHELL}/CommandState/Done">'
                f"<rsp:ExitCode>{exit_code}</rsp:ExitCode></rsp:CommandState>"
            )
        return f"<rsp:ReceiveResponse>{streams}{state}</rsp:ReceiveResponse>"

    def _signal(self, request: Request) -> str:
        """End a command ([MS-WSMV] 3.1.4.5.7: ``terminate``, ``ctrl_c``), or take note that its end was seen."""
        self._process(request, "Signal").kill()
        return "<rsp:SignalResponse/>"

    def _delete(self, request: Request) -> str:
        processes = self._processes(request)
        with self._lock:
            self._shells.pop(request.shell_id, None)
        for each in processes.values():
            each.kill()
        return ""
