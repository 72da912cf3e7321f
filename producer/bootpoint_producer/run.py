"""One run at the agent: scripts, snapshot, offer, publishing, and what the control plane makes of it.

The run's thread waits for messages about it; each disk of each replica has a thread that makes bundles. Bundles leave
through the outlets of one `StreamSender`, which knows nothing but credit and order.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from bootpoint_common import message
from bootpoint_common.digest import SegmentTable
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.job import Script
from bootpoint_common.message import Base
from bootpoint_common.stream.sender import Outlet, StreamClosedError, StreamSender
from bootpoint_common.stream.window import HOLD
from bootpoint_common.units import MiB

from .feed import Feed, Ground
from .link import Link
from .script import Stage, run_script
from .snapshots import Consistency, Snapshot, SnapshotSet
from .sources.base import Source
from .state import AgentState
from .trackers.hash import HashTracker

_log = logging.getLogger(__name__)

#: Seconds until an offer without an answer is repeated.
OFFER_SECONDS = 5.0

#: Seconds that a stream waits for credit until the agent asks for it, and between two questions.
CREDIT_SECONDS = 5.0

#: Seconds without an offered bundle after which the next one is announced by `More`.
QUIET_SECONDS = 0.9

#: Bytes of bundles that are held for all streams of a run, and for one at least: a few bundles.
HOLD_ALL, LEAST_HOLD = 2 * HOLD, 4 * MiB

#: Disks that are read at a time: each holds up to 64 MiB of blocks on their way.
DISKS_AT_A_TIME = 2


@dataclass(slots=True)
class _Replica:
    """What a run does for one replica."""

    replica_id: UUID
    point_id: UUID | None = None
    name: str | None = None
    expected: frozenset[str] = frozenset()
    roots: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    feeds: list[_Channel] = field(default_factory=list)
    final: bool = False


@dataclass(slots=True)
class _Channel:
    feed: Feed
    source: Source
    outlet: Outlet
    asked_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Tools:
    """What a run works with.

    Attributes:
        state: The agent's directory.
        link: Messages to the control plane.
        sender: Bundles to the streams.
        resolve: Finds the path of a disk id; raises ``disk_missing`` or ``source_ineligible``.
        choose: Chooses the snapshot for the paths of the slots.
    """

    state: AgentState
    link: Link
    sender: StreamSender
    resolve: Callable[[str], Path]
    choose: Callable[[dict[str, Path]], Snapshot]


class _ReadingOver(Exception):  # noqa: N818 - the end of a thread's work, not an error of ours
    """The run is over; what is still to be read doesn't matter."""


class _Stoppable:
    """A source whose reader ends with the run: an unchanged disk is read for hours without offering a bundle."""

    def __init__(self, source: Source, over: threading.Event) -> None:
        self._source = source
        self._over = over
        self.path, self.size_bytes = source.path, source.size_bytes
        self.data_extents, self.close = source.data_extents, source.close

    def read(self, offset: int, length: int) -> bytes:
        if self._over.is_set():
            raise _ReadingOver
        return self._source.read(offset, length)


class RunCancelled(Exception):  # noqa: N818 - the end of a run, not an error of ours
    """The control plane ended the run."""


class Run:
    """One run; `work` is its thread's body, `tell` may be called by any thread.

    Args:
        order: What is to be done.
        tools: What it works with.
    """

    def __init__(self, order: message.StartRun, tools: Tools) -> None:
        self.order = order
        self._tools = tools
        self._inbox: queue.Queue[message.ToAgent] = queue.Queue()
        self._replicas = {r.replica_id: _Replica(r.replica_id) for r in order.replicas}
        self._results: list[message.ScriptResult] = []
        self._stop = threading.Event()
        self._over = threading.Event()
        self._failure: BootpointError | None = None
        self._threads: list[threading.Thread] = []
        self._reading = threading.Semaphore(DISKS_AT_A_TIME)
        self._lock = threading.Lock()

    def tell(self, body: message.ToAgent) -> None:
        """Hand over a message that concerns this run."""
        self._inbox.put(body)

    def stop(self) -> None:
        """End the run at once: the agent is stopping."""
        self._stop.set()
        self._inbox.put(message.Aborted(run=self.order.run, replica_id=None, point_id=None, problem=_STOPPING))

    def progress(self) -> message.RunProgress:
        """Return how far the run is."""
        with self._lock:
            channels = [channel for replica in self._replicas.values() for channel in replica.feeds]
        disks = [channel.feed.progress(channel.outlet.credit_wait_seconds) for channel in channels]
        return message.RunProgress(run=self.order.run, disks=disks)

    def work(self) -> None:
        """Do the run to its end; never raises for what a run can meet."""
        snapshot: SnapshotSet | None = None
        try:
            snapshot = self._snapshot()
            self._offer(snapshot)
            self._publish(snapshot)
        except RunCancelled as ended:
            _log.info("run ended by the control plane", extra={"run": self.order.number, "cause": str(ended)})
        except BootpointError as problem:
            self._fail(problem)
        except Exception as problem:  # noqa: BLE001 - the thread's boundary: nobody else would tell of the run's end
            _log.exception("run broke off", extra={"run": self.order.number})
            self._fail(error(Code.SNAPSHOT_FAILED, f"the agent could not go on: {problem}"))
        finally:
            self._end(snapshot)

    # --- before the offer

    def _snapshot(self) -> SnapshotSet:
        if datetime.now(UTC) > self.order.expires_at:
            raise error(Code.AGENT_OFFLINE, f"run {self.order.number} was begun too late by this agent")
        self._script(Stage.BEFORE_SNAPSHOT, None)
        paths = {disk.slot: self._tools.resolve(disk.id) for disk in self.order.disks}
        taken = self._tools.choose(paths).take(paths)
        try:
            self._script(Stage.AFTER_SNAPSHOT, taken.consistency)
            self._demand(taken.consistency, taken.reason)
        except BaseException:
            taken.release()
            raise
        return taken

    def _demand(self, reached: Consistency, reason: str) -> None:
        wanted = Consistency(self.order.consistency)
        if not reached.reaches(wanted):
            text = f"the snapshot reached {reached}, the job wants {wanted}: {reason}"
            raise error(Code.CONSISTENCY_TOO_LOW, text, key="source.consistency", value=str(wanted))

    def _script(self, stage: Stage, reached: Consistency | None, point: str | None = None) -> None:
        stored: dict[str, Any] | None = self.order.scripts.get(str(stage))
        if not stored:
            return
        script = msgspec.convert(stored, Script)
        told = {"job": self.order.job, "run": self.order.number, "point": point, "consistency": reached}
        outcome = run_script(script, stage, told, stop=self._stop)
        self._results.append(
            message.ScriptResult(
                stage=str(stage),
                exit_code=outcome.exit_code,
                duration_seconds=outcome.duration_seconds,
                output=outcome.output,
            )
        )
        failure = outcome.failure(script)
        if failure is not None and script.abort:
            raise failure

    # --- the offer

    def _offer(self, snapshot: SnapshotSet) -> None:
        disks = []
        for disk in self.order.disks:
            with contextlib.closing(snapshot.source(disk.slot)) as source:
                disks.append(message.OfferDisk(slot=disk.slot, size_bytes=source.size_bytes))
        offer = message.Offer(
            run=self.order.run,
            instant=snapshot.instant,
            consistency=str(snapshot.consistency),
            snapshot=snapshot.kind,
            disks=disks,
            replicas=[
                message.OfferReplica(replica_id=replica_id, base=self._tools.state.base(replica_id))
                for replica_id in self._replicas
            ],
            scripts=self._results,
        )
        while not all(replica.point_id or replica.final for replica in self._replicas.values()):
            self._tools.link.send(offer, pool=self.order.pool)
            deadline = time.monotonic() + OFFER_SECONDS
            while (left := deadline - time.monotonic()) > 0:
                if self._hear(left, snapshot) and all(r.point_id or r.final for r in self._replicas.values()):
                    break

    # --- publishing

    def _ready(self, ready: message.Ready, snapshot: SnapshotSet) -> None:
        replica = self._replicas.get(ready.replica_id)
        if replica is None or replica.final:
            return
        if replica.point_id is not None:
            for disk in ready.disks:
                self._credit(disk.point_disk_id, disk.may_send_until)
            return
        replica.point_id, replica.name = ready.point_id, ready.name
        replica.expected = frozenset(disk.slot for disk in ready.disks)
        held = self._held_head(ready)
        for disk in ready.disks:
            channel = self._channel(replica, ready, disk, held, snapshot)
            with self._lock:
                replica.feeds.append(channel)
        for channel in replica.feeds:
            thread = threading.Thread(target=self._feed, args=(channel,), name=f"feed {channel.feed.slot}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _held_head(self, ready: message.Ready) -> Base | None:
        """Return the head if its maps are held here, as the base or as a candidate of an earlier run."""
        if ready.head is None:
            return None
        held = self._tools.state.held(ready.replica_id, ready.head.point_id)
        if held is None or {d.slot: d for d in held.disks} != {d.slot: d for d in ready.head.disks}:
            return None
        return held

    def _channel(
        self, replica: _Replica, ready: message.Ready, disk: message.ReadyDisk, held: Base | None, snapshot: SnapshotSet
    ) -> _Channel:
        state = self._tools.state
        source = _Stoppable(snapshot.source(disk.slot), self._over)
        sizes = {} if ready.head is None else {known.slot: known.size_bytes for known in ready.head.disks}
        if disk.slot not in sizes:
            ground = Ground()
        elif sizes[disk.slot] > source.size_bytes:
            text = f"disk {disk.slot} shrank from {sizes[disk.slot]} to {source.size_bytes} bytes"
            source.close()
            raise error(Code.DISK_CHANGED, text, key="disk", value=disk.slot)
        elif held is not None:
            ground = Ground(base=state.map_path(replica.replica_id, held.point_id, disk.slot))
        else:
            ground = Ground(head=_table(disk, sizes[disk.slot]), fallback="base_lost")
        feed = Feed(
            slot=disk.slot,
            source=source,
            tracker=HashTracker(),
            ground=ground,
            candidate_path=state.map_path(replica.replica_id, ready.point_id, disk.slot),
            key=self._tools.link.identity.key,
            point_id=ready.point_id,
            point_disk_id=disk.point_disk_id,
            before_seal=lambda slot, size, root: self._keep(replica, slot, size, root),
            confirm_consistency=lambda: self._confirm(snapshot),
        )
        streams = len(ready.disks) * len(self._replicas)
        hold = max(HOLD_ALL // max(streams, HOLD_ALL // HOLD), LEAST_HOLD)
        outlet = self._tools.sender.open(disk.point_disk_id, hold_bytes=hold)
        outlet.allow(disk.may_send_until)
        return _Channel(feed, source, outlet)

    def _keep(self, replica: _Replica, slot: str, size: int, root: bytes) -> None:
        """Note a finished map; with the last one the point is kept, before that disk's seal is made."""
        with self._lock:
            replica.roots[slot] = (size, root)
            complete = set(replica.roots) == set(replica.expected)
        if complete and replica.point_id is not None:
            self._tools.state.keep_point(replica.replica_id, replica.point_id, replica.roots)

    def _confirm(self, snapshot: SnapshotSet) -> str:
        reached = snapshot.confirm()
        self._demand(reached, "somebody wrote to the disk while it was read")
        return str(reached)

    def _feed(self, channel: _Channel) -> None:
        """The body of a disk's thread."""
        stream = channel.outlet.stream
        quiet_since = 0.0
        try:
            with self._reading, contextlib.closing(channel.source):
                for body, end in channel.feed.bodies():
                    if time.monotonic() - quiet_since >= QUIET_SECONDS:
                        self._tools.link.send(message.More(disks=[stream]), pool=self.order.pool)
                    channel.outlet.offer(body, end)
                    quiet_since = time.monotonic()
            channel.outlet.wait_drained()
            self._tools.link.send(message.More(disks=[stream]), pool=self.order.pool)
        except (StreamClosedError, _ReadingOver):
            _log.info("feed ended: its stream was closed", extra={"stream": str(stream)})
            if self._tools.sender.failure is not None:
                self._break(error(Code.SNAPSHOT_FAILED, f"publishing failed: {self._tools.sender.failure}"))
        except BootpointError as problem:
            self._break(problem)
        except OSError as problem:
            self._break(
                error(Code.DISK_READ_ERROR, f"disk {channel.feed.slot}: {problem}", key="disk", value=channel.feed.slot)
            )
        except Exception as problem:  # noqa: BLE001 - the thread's boundary: the run would wait for ever
            _log.exception("feed broke off", extra={"stream": str(stream)})
            text = f"disk {channel.feed.slot}: the agent could not go on: {problem}"
            self._break(error(Code.SNAPSHOT_FAILED, text, key="disk", value=channel.feed.slot))

    def _break(self, problem: BootpointError) -> None:
        self._failure = self._failure or problem
        self._inbox.put(message.Aborted(run=self.order.run, replica_id=None, point_id=None, problem=_STOPPING))

    def _publish(self, snapshot: SnapshotSet) -> None:
        """Wait until every replica's point is final; ask for credit where none comes."""
        while not all(replica.final for replica in self._replicas.values()):
            self._hear(1.0, snapshot)
            self._ask_for_credit()
        committed = [replica for replica in self._replicas.values() if replica.point_id and replica.name]
        if committed:
            self._script(Stage.AFTER_POINT, snapshot.consistency, committed[0].name)
            self._tools.link.send(message.Report(run=self.order.run, scripts=self._results), pool=self.order.pool)

    def _ask_for_credit(self) -> None:
        now = time.monotonic()
        waiting = []
        for replica in self._replicas.values():
            for channel in replica.feeds:
                if channel.outlet.starved_seconds >= CREDIT_SECONDS and now - channel.asked_at >= CREDIT_SECONDS:
                    channel.asked_at = now
                    waiting.append(channel.outlet.stream)
        if waiting:
            self._tools.link.send(message.CreditQuery(disks=waiting), pool=self.order.pool)

    # --- what the control plane says

    def _hear(self, seconds: float, snapshot: SnapshotSet) -> bool:
        """Take one message, waiting at most ``seconds``; returns whether one came.

        Raises:
            RunCancelled: The run is over.
            BootpointError: A disk's thread failed.
        """
        try:
            heard = self._inbox.get(timeout=seconds)
        except queue.Empty:
            return False
        if self._failure is not None:
            raise self._failure
        match heard:
            case message.Ready():
                self._ready(heard, snapshot)
            case message.Credit():
                self._credit(heard.point_disk_id, heard.may_send_until)
            case message.ResendFrom():
                self._resend(heard)
            case message.Committed():
                self._committed(heard)
            case message.Aborted():
                self._aborted(heard)
        return True

    def _outlets(self, stream: UUID) -> list[Outlet]:
        return [c.outlet for r in self._replicas.values() for c in r.feeds if c.outlet.stream == stream]

    def _credit(self, stream: UUID, until: int) -> None:
        for outlet in self._outlets(stream):
            outlet.allow(until)

    def _resend(self, heard: message.ResendFrom) -> None:
        for outlet in self._outlets(heard.point_disk_id):
            outlet.resend_from(heard.sequence)

    def _committed(self, heard: message.Committed) -> None:
        self._tools.state.adopt(heard.replica_id, heard.point_id)
        replica = self._replicas.get(heard.replica_id)
        if replica is not None:
            replica.final = True

    def _aborted(self, heard: message.Aborted) -> None:
        if heard.replica_id is not None and heard.point_id is not None:
            self._tools.state.drop(heard.replica_id, heard.point_id)
        raise RunCancelled(heard.problem.message)

    # --- the end

    def _fail(self, problem: BootpointError) -> None:
        """Tell the control plane until it says that the run is over."""
        _log.warning(
            "run failed", extra={"run": self.order.number, "code": str(problem.code), "cause": problem.message}
        )
        self._close_outlets()
        told = message.Problem(
            code=str(problem.code),
            message=problem.message,
            key=problem.key,
            hint=problem.hint,
            value=None if problem.value is None else str(problem.value),
        )
        while not self._stop.is_set():
            self._tools.link.send(
                message.Failed(run=self.order.run, problem=told, scripts=self._results), pool=self.order.pool
            )
            deadline = time.monotonic() + OFFER_SECONDS
            while (left := deadline - time.monotonic()) > 0:
                with contextlib.suppress(queue.Empty):
                    heard = self._inbox.get(timeout=left)
                    if isinstance(heard, message.Aborted) and heard.problem is not _STOPPING:
                        if heard.replica_id is not None and heard.point_id is not None:
                            self._tools.state.drop(heard.replica_id, heard.point_id)
                        return

    def _close_outlets(self) -> None:
        self._over.set()
        for replica in self._replicas.values():
            for channel in replica.feeds:
                channel.outlet.close()

    def _end(self, snapshot: SnapshotSet | None) -> None:
        self._close_outlets()
        for thread in self._threads:
            thread.join()
        for channel in (channel for replica in self._replicas.values() for channel in replica.feeds):
            channel.source.close()
        if snapshot is not None:
            snapshot.release()
        self._tools.state.keep_ended(self.order.run)


_STOPPING = message.Problem(code=str(Code.AGENT_RESTARTED), message="the agent stops")


def _table(disk: message.ReadyDisk, size_bytes: int) -> SegmentTable:
    digests = disk.head_segments or b""
    return SegmentTable(size_bytes, (digests[at : at + 32] for at in range(0, len(digests), 32)))
