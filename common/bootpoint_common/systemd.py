"""Words to systemd about the service that a process is part of: ready, alive, about to end (sd_notify(3))."""

from __future__ import annotations

import functools
import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import click

_log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

#: Words to the watchdog within the time that it waits; sd_watchdog_enabled(3) advises two, one of which may be late.
WORDS = 4


@dataclass(frozen=True, slots=True)
class Manager:
    """systemd, as a process that it started meets it; elsewhere nobody listens.

    Attributes:
        address: Its socket (``NOTIFY_SOCKET``); None where it waits for no word.
        patience: Seconds without a word after which its watchdog ends the process (``WATCHDOG_USEC``); None for ever.
    """

    address: str | None = None
    patience: float | None = None

    def tell(self, words: str) -> None:
        """Say something.

        Args:
            words: What sd_notify(3) knows, such as ``READY=1``.
        """
        if not self.address:
            return
        abstract = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end, suppress(OSError):
            end.sendto(words.encode(), abstract)

    def attend(self, stop: threading.Event, stuck: Callable[[float], str | None]) -> None:
        """Say that the process is ready, and wait for its end; until then the watchdog hears of each loop that moves.

        A loop that hangs isn't covered up: the words end, and systemd starts the process anew.

        Args:
            stop: Set when the process is to end.
            stuck: Given seconds, returns the name of a loop that hasn't moved for longer, if there is one.
        """
        self.tell("READY=1")
        patience = self.patience
        if patience is None:
            stop.wait()
        else:
            while not stop.wait(patience / WORDS):
                if (name := stuck(patience / 2)) is None:
                    self.tell("WATCHDOG=1")
                else:
                    _log.error("a loop hangs: the watchdog hears nothing", extra={"loop": name})
        self.tell("STOPPING=1")


def manager_option(command: F) -> F:
    """Give a command systemd as its argument `manager`, by what systemd puts into the environment of a service."""

    @click.option("--notify-socket", "address", envvar="NOTIFY_SOCKET", hidden=True)
    @click.option("--watchdog-usec", "microseconds", envvar="WATCHDOG_USEC", type=click.IntRange(1), hidden=True)
    @functools.wraps(command)
    def given(*words: Any, address: str | None, microseconds: int | None, **options: Any) -> Any:
        patience = None if microseconds is None else microseconds / 1_000_000
        return command(*words, manager=Manager(address, patience), **options)

    return given  # type: ignore[return-value] # click calls it with the command's other options
