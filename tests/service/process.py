"""Starting servers as children, waiting for them, and ending them by their pid."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: Longest wait for a server, in seconds: many times what a quiet machine needs, for a loaded one must pass too.
PATIENCE = 90.0

#: Pause between two looks at a condition, in seconds.
INTERVAL = 0.02


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody uses at this moment, and no client will.

    It lies below the range that the kernel gives to clients. In that range a server that is restarted may find its port
    taken: by anybody's connection, or by one of its own clients, which tried so often that it reached itself.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(first // 2, first)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def wait_for(condition: Callable[[], T], what: str, timeout: float = PATIENCE) -> T:
    """Look again and again until the condition returns something true.

    Args:
        condition: What is looked at; may raise OSError, which counts as "not yet".
        what: What is waited for, for the message.
        timeout: Seconds.

    Returns:
        What the condition returned.

    Raises:
        TimeoutError: It did not come true in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(OSError):
            if value := condition():
                return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(INTERVAL)


def listens(port: int, address: str = "127.0.0.1") -> bool:
    """Tell whether somebody accepts connections on a port of this machine, by default of its loopback interface."""
    with socket.socket() as client:
        client.settimeout(1.0)
        return client.connect_ex((address, port)) == 0


class Server:
    """One server program: a child in the foreground that dies with the tests, its output in a log file.

    Args:
        command: Program and arguments.
        log: File that gets stdout and stderr.
        environment: The whole environment; by default that of the tests.
        user: System user to become; by default none.
        prefix: Program and arguments put before all else, such as ``nsenter``.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        become = ["--reuid", user, "--regid", user, "--init-groups"] if user else []
        # setpriv sets the death signal after the change of user, which would clear it, and then becomes the server.
        self.command = [*prefix, "setpriv", *become, "--pdeathsig", "KILL", "--", *command]
        self.log = log
        self.environment = dict(environment) if environment is not None else None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The pid of the running server.

        Raises:
            RuntimeError: It does not run.
        """
        if self._child is None or self._child.poll() is not None:
            raise RuntimeError(f"{self.command} does not run:\n{self.tail()}")
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._child is not None and self._child.poll() is None

    def start(self, ready: Callable[[], object], what: str) -> None:
        """Start it, and return when it is ready.

        Args:
            ready: Tells whether it is.
            what: Its name, for the message.

        Raises:
            RuntimeError: It ended instead.
            TimeoutError: It was not ready in time.
        """
        with self.log.open("ab") as output:
            self._child = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self.environment
            )
        try:
            wait_for(lambda: self.pid and ready(), what)
        except TimeoutError as exc:
            self.kill()
            raise TimeoutError(f"{exc}:\n{self.tail()}") from None

    def stop(self, with_signal: signal.Signals = signal.SIGTERM, timeout: float = PATIENCE) -> None:
        """Ask it to end, wait, and kill it if it does not. Does nothing when it has ended."""
        if self._child is None:
            return
        if self._child.poll() is None:
            self._child.send_signal(with_signal)
            try:
                self._child.wait(timeout)
            except subprocess.TimeoutExpired:
                self._child.kill()
        self._child.wait()
        self._child = None

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self.stop(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop it in its tracks (SIGSTOP), and return when each of its threads stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        tasks = Path(f"/proc/{self.pid}/task")
        wait_for(lambda: all(_stands_still(task) for task in tasks.iterdir()), "a process to stand still")

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def tail(self, length: int = 4000) -> str:
        """Return the end of its log."""
        with contextlib.suppress(FileNotFoundError):
            return self.log.read_text(errors="replace")[-length:]
        return ""


def _stands_still(task: Path) -> bool:
    """Tell whether a thread is stopped: field 3 of proc(5)'s ``stat``, behind the name, which may hold anything."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    text: str | None = None,
    timeout: float = PATIENCE,
) -> str:
    """Run a command to its end and return its stdout.

    Raises:
        RuntimeError: It failed; the message holds its output.
    """
    done = subprocess.run(
        list(command), input=text, capture_output=True, text=True, env=environment, timeout=timeout, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{list(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
