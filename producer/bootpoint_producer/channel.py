"""One disk on its way to one replica: its thread reads, compresses and offers, and says what became of it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from uuid import UUID

from bootpoint_common import message
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.stream.sender import Outlet, StreamClosedError

from .feed import Feed
from .limit import ReadingOver, RunLimits
from .sources.base import Source
from .tools import Tools

_log = logging.getLogger(__name__)

#: Seconds that a stream waits for credit until the agent asks for it, and between two questions.
CREDIT_SECONDS = 5.0

#: Seconds without an offered bundle after which the next one is announced by `More`.
QUIET_SECONDS = 0.9


class Channel:
    """A disk's feed and its way out; `work` is its thread's body, all else may be called by others.

    Args:
        tools: What the run works with.
        pool: Whose ingress hears of it.
        feed: Makes the bundles.
        source: What the feed reads; closed with the channel.
        outlet: Where they go.
        limits: What the run may take of its machine.
        broke: Called once if it can't go on.
    """

    def __init__(
        self,
        tools: Tools,
        pool: str,
        feed: Feed,
        source: Source,
        outlet: Outlet,
        *,
        limits: RunLimits,
        broke: Callable[[BootpointError], None],
    ) -> None:
        self._tools = tools
        self._pool = pool
        self._feed = feed
        self._source = source
        self._outlet = outlet
        self._limits = limits
        self._broke = broke
        self._asked_at = 0.0

    @property
    def slot(self) -> str:
        """The disk's slot."""
        return self._feed.slot

    @property
    def stream(self) -> UUID:
        """The stream that it fills."""
        return self._outlet.stream

    def progress(self) -> message.DiskProgress:
        """Return how far it is."""
        return self._feed.progress(self._outlet.credit_wait_seconds)

    def allow(self, until: int) -> None:
        """Take credit."""
        self._outlet.allow(until)

    def resend_from(self, sequence: int) -> None:
        """Publish again from a bundle on.

        Raises:
            RetryableError: ``stream_gap``: its bytes are no longer held.
        """
        self._outlet.resend_from(sequence)

    def wants_credit(self, *, anyway: bool) -> bool:
        """Tell whether to ask for credit now, and take it for asked.

        Args:
            anyway: Ask even if it isn't missing any, but not more often.
        """
        now = time.monotonic()
        if now - self._asked_at < CREDIT_SECONDS or not (anyway or self._outlet.starved_seconds >= CREDIT_SECONDS):
            return False
        self._asked_at = now
        return True

    def end(self) -> None:
        """Publish nothing more, so that the thread ends; may be called twice."""
        self._outlet.close()

    def close(self) -> None:
        """Let go of the source, once the thread has ended; may be called twice."""
        self._source.close()

    def work(self, reading: threading.Semaphore, over: threading.Event) -> None:
        """Send the disk, and wait until the broker holds all of it.

        Args:
            reading: Held while the disk is read.
            over: Set when the run has ended.
        """
        try:
            with reading, contextlib.closing(self._source):
                if over.is_set():
                    raise ReadingOver
                self._send()
            self._outlet.wait_drained()
            self._announce()
        except (StreamClosedError, ReadingOver):
            _log.info("feed ended: its stream was closed", extra={"stream": str(self.stream)})
            if self._tools.sender.failure is not None:
                self._broke(error(Code.SNAPSHOT_FAILED, f"publishing failed: {self._tools.sender.failure}"))
        except BootpointError as problem:
            self._broke(problem)
        except OSError as problem:
            self._broke(error(Code.DISK_READ_ERROR, f"disk {self.slot}: {problem}", key="disk", value=self.slot))
        except Exception as problem:  # noqa: BLE001 - the thread's boundary: the run would wait for ever
            _log.exception("feed broke off", extra={"stream": str(self.stream)})
            text = f"disk {self.slot}: the agent could not go on: {problem}"
            self._broke(error(Code.SNAPSHOT_FAILED, text, key="disk", value=self.slot))

    def _send(self) -> None:
        quiet_since = 0.0
        # Before anything is read: what this thread starts, threads and programs, inherits it.
        self._limits.heed()
        for body, end in self._feed.bodies():
            self._limits.heed()
            if time.monotonic() - quiet_since >= QUIET_SECONDS:
                self._announce()
            self._outlet.offer(body, end)
            quiet_since = time.monotonic()

    def _announce(self) -> None:
        """Tell the workers that there is something to take."""
        self._tools.link.send(message.More(disks=[self.stream]), pool=self._pool)
