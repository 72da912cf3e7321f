"""What can be made to go wrong, and how long things take."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.hyperv.machine import Heartbeat
from tests.hyperv.pwsh.failure import Failure


@dataclass
class Trouble:
    """What a test wants to go wrong; any of it may be set at any time.

    Attributes:
        filtered: The administrator is a local one other than the built-in, whom UAC filters over the network.
        lost_answers: How many requests are carried out, and the connection ends instead of an answer.
        killed_shells: How many processes are killed when they call the command `killed_at`.
        killed_at: A command's name; empty for the first that is called.
        merge_piece_seconds: How long each piece of a merge takes.
        merges_held: A merge waits before its first piece until this is False.
        merges_full: How many merges find no space, and stay as they are.
        forced_policy: An execution policy that a group policy sets, whatever the command line says; empty for none.
        power_cli: VMware's PowerCLI is installed beside the Hyper-V module.
        vmms: Status of Hyper-V's service.
        deleting: Another VM is deleted all the time, and to list all of them is an error.
        deaf_guests: Guests don't heed a shutdown.
        heartbeat: What the guest of the next VM that starts tells; None for a guest that is well.
        silent_looks: How many looks at the integration services of the next VM that starts get no answer.
        exchange_disabled: The key-value pair exchange is switched off in the settings of every VM.
        busy_looks: How many looks at a guest that was told its addresses find it still at that.
        guest_refuses: What a guest answers that is told its addresses; empty for one that takes them.
        second_hop: Cluster cmdlets work: the login may go on to the other nodes.
    """

    filtered: bool = False
    lost_answers: int = 0
    killed_shells: int = 0
    killed_at: str = ""
    merge_piece_seconds: float = 0.0
    merges_held: bool = False
    merges_full: int = 0
    forced_policy: str = ""
    power_cli: bool = False
    vmms: str = "Running"
    deleting: bool = False
    deaf_guests: bool = False
    heartbeat: Heartbeat | None = None
    silent_looks: int = 0
    exchange_disabled: bool = False
    busy_looks: int = 1
    guest_refuses: str = ""
    second_hop: bool = True
    _failures: dict[str, list[Callable[[], Failure]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, command: str, failure: Callable[[], Failure], times: int = 1) -> None:
        """Let a command fail the next times.

        Args:
            command: Its name, such as ``Checkpoint-VM``.
            failure: Makes the error.
            times: How many times.
        """
        with self._lock:
            self._failures.setdefault(command.lower(), []).extend([failure] * times)

    def meet(self, command: str) -> None:
        """Raise what a test wants of a command, if anything."""
        with self._lock:
            waiting = self._failures.get(command.lower())
            failure = waiting.pop(0)() if waiting else None
        if failure is not None:
            raise failure

    def loses_answer(self) -> bool:
        """Tell whether the answer of a request gets lost."""
        return self._spend("lost_answers")

    def kills(self, command: str) -> bool:
        """Tell whether a process that calls a command is killed."""
        return self.killed_at.lower() in ("", command.lower()) and self._spend("killed_shells")

    def no_space(self) -> bool:
        """Tell whether a merge finds no space."""
        return self._spend("merges_full")

    def _spend(self, name: str) -> bool:
        with self._lock:
            left: int = getattr(self, name)
            setattr(self, name, max(0, left - 1))
            return left > 0
