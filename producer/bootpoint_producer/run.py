"""One run at the agent: scripts, snapshot, offer, publishing, and what the control plane makes of it.

The run's thread waits for messages about it; what is read and sent is its `Publication`'s business.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from pathlib import Path

from bootpoint_common import message
from bootpoint_common.errors import BootpointError, Code, error

from .board import Step
from .deadline import Deadline
from .limit import RunLimits
from .publication import Publication
from .snapshots import Consistency, SnapshotSet
from .stage import OwedScripts, Stages
from .tools import Tools
from .trackers.keeper import Cut

_log = logging.getLogger(__name__)

#: Seconds until an offer without an answer is repeated.
OFFER_SECONDS = 5.0

#: Seconds without a word from the control plane after which the agent asks whether anybody is there.
SILENCE_SECONDS = 60.0

#: Seconds without a word after which the run is given up: a snapshot must not grow until it fills the source's disk.
PATIENCE_SECONDS = 1800.0


class RunCancelled(Exception):  # noqa: N818 - the end of a run, not an error of ours
    """The control plane ended the run."""


class Run:
    """One run; `work` is its thread's body, `tell` and `progress` may be called by any thread.

    Args:
        order: What is to be done.
        tools: What it works with.
    """

    def __init__(self, order: message.StartRun, tools: Tools) -> None:
        self.order = order
        self._tools = tools
        self._inbox: queue.Queue[message.ToAgent] = queue.Queue()
        self._limits = RunLimits(last_breath=order.last_breath, now=tools.link.present.now)
        self._stop = threading.Event()
        self._over = threading.Event()
        self._stages = Stages(order, OwedScripts(tools.state.directory), over=self._over, stopping=self._stop)
        self._failure: BootpointError | None = None
        self._problem: BootpointError | None = None
        self._snapshot: SnapshotSet | None = None
        self._cut: Cut | None = None
        self._publication: Publication | None = None
        self._heard_at = time.monotonic()
        self._deadline = Deadline(order, now=tools.link.present.now)

    def tell(self, body: message.ToAgent) -> None:
        """Hand over a message that concerns this run."""
        if isinstance(body, message.NewLimits):
            self._change(body)
            return
        if isinstance(body, message.Aborted):
            self._over.set()
        self._inbox.put(body)

    def _change(self, new: message.NewLimits) -> None:
        """Take other limits; those that can't be read leave the run as it is."""
        try:
            self._limits.change(new.limits, new.time_zone, new.revision)
        except BootpointError as problem:
            _log.warning("new limits not taken", extra={"run": self.order.number, "cause": problem.message})

    def unheard(self) -> list[message.ToAgent]:
        """Return the messages that came too late for the run's thread."""
        found: list[message.ToAgent] = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._inbox.get_nowait())
        return found

    @property
    def expired(self) -> bool:
        """Whether it is too late to begin it."""
        return self._deadline.expired

    def stop(self) -> None:
        """End the run at once: the agent is stopping."""
        self._stop.set()
        self.tell(message.Aborted(run=self.order.run, replica_id=None, point_id=None, problem=_STOPPING))

    def progress(self) -> message.RunProgress:
        """Return how far the run is."""
        publication = self._publication
        disks = [] if publication is None else publication.progress()
        return message.RunProgress(run=self.order.run, disks=disks, revision=max(self._limits.revision, 0))

    def work(self) -> None:
        """Do the run to its end; never raises for what a run can meet."""
        try:
            with self._tools.turn, contextlib.ExitStack() as end:
                # First of all: the control plane may be away for long, and the snapshot is of no use any more.
                end.callback(self._release)
                self._work_safely()
        finally:
            if self._problem is not None:
                self._fail(self._problem)
            elif self._stages.untold:
                self._insist(message.Report(run=self.order.run, scripts=self._stages.results))
            self._tools.state.keep_ended(self.order.run)

    def _work_safely(self) -> None:
        try:
            self._work()
        except RunCancelled as ended:
            _log.info("run ended by the control plane", extra={"run": self.order.number, "cause": str(ended)})
        except BootpointError as failed:
            self._problem = failed
        except Exception as failed:  # noqa: BLE001 - the thread's boundary: nobody else would tell of the run's end
            _log.exception("run broke off", extra={"run": self.order.number})
            self._problem = error(Code.SNAPSHOT_FAILED, f"the agent could not go on: {failed}")

    def _work(self) -> None:
        snapshot, cut = self._take()
        self._publication = Publication(
            self.order,
            self._tools,
            snapshot,
            cut,
            demand=lambda reached: self._demand(Consistency(reached), "somebody wrote to the disk while it was read"),
            broke=self._break,
            limits=self._limits,
        )
        self._offer(snapshot, self._publication)
        self._publish(snapshot, self._publication)

    def _release(self) -> None:
        """Let go of the streams, and then of the snapshot that they read."""
        try:
            if self._publication is not None:
                self._publication.close()
        finally:
            if self._snapshot is not None:
                self._snapshot.release()
            if self._cut is not None:
                self._cut.close()

    # --- before the offer

    def _take(self) -> tuple[SnapshotSet, Cut]:
        if self._deadline.expired:
            raise error(Code.AGENT_OFFLINE, f"run {self.order.number} was begun too late by this agent")
        self._limits.change(self.order.limits, self.order.time_zone, self.order.revision)
        # Before the script: nobody's database is paused for a disk that isn't there, or for a run without time.
        resolve = self._tools.known if self.order.last_breath else self._tools.resolve
        paths = {disk.slot: resolve(disk.id) for disk in self.order.disks}
        self._deadline.require_time_for(paths, self._tools.trackers)
        try:
            self._go_on()
            self._stages.before_snapshot()
            self._go_on()
            taken, cut = self._hold(paths)
            self._go_on()
        except BaseException:
            try:
                self._let_go()
            finally:  # a snapshot that can't be given back is no reason to leave a database paused
                self._stages.resume()
            raise
        self._stages.after_snapshot(taken.consistency, let_go=self._let_go)
        self._go_on()
        self._demand(taken.consistency, taken.reason)
        return taken, cut

    def _hold(self, paths: dict[str, Path]) -> tuple[SnapshotSet, Cut]:
        snapshot = self._tools.choose(paths)
        cut = self._cut = self._tools.trackers.cut(paths)
        taken = self._snapshot = snapshot.take(paths, at_instant=cut.instant)
        cut.taken(settled=taken.settled, pictures={slot: Path(taken.path(slot)) for slot in paths})
        return taken, cut

    def _go_on(self) -> None:
        """Go on unless the run was ended meanwhile.

        Raises:
            RunCancelled: It was.
        """
        if self._over.is_set():
            raise RunCancelled("ended before its snapshot was offered")

    def _let_go(self) -> None:
        if self._snapshot is not None:
            self._snapshot.release()

    def _demand(self, reached: Consistency, reason: str) -> None:
        wanted = Consistency(self.order.consistency)
        if not reached.reaches(wanted):
            text = f"the snapshot reached {reached}, the job wants {wanted}: {reason}"
            raise error(
                Code.CONSISTENCY_TOO_LOW,
                text,
                key="source.consistency",
                value=str(wanted),
                hint=f'put the disk on storage that keeps snapshots (docs/snapshots.md), or accept "{reached}"',
            )

    # --- the offer, and publishing

    def _offer(self, snapshot: SnapshotSet, publication: Publication) -> None:
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
                message.OfferReplica(replica_id=replica.replica_id, base=self._tools.state.base(replica.replica_id))
                for replica in self.order.replicas
            ],
            scripts=list(self._stages.results),
        )
        self._heard_at = time.monotonic()
        again_at = 0.0
        while not publication.answered:
            if time.monotonic() >= again_at:
                self._tools.link.send(offer, pool=self.order.pool)
                again_at = time.monotonic() + OFFER_SECONDS
            self._hear(self._deadline.within(again_at - time.monotonic()), publication)
            self._deadline.require()
        self._stages.heard(len(offer.scripts))

    def _publish(self, snapshot: SnapshotSet, publication: Publication) -> None:
        """Wait until every replica's point is final; ask for credit where none comes."""
        while not publication.final:
            self._hear(1.0, publication)
            if publication.sent:
                # The commit may take long, and needs nothing of the source.
                snapshot.release()
                self._tools.board.note(self.order.run, Step.SENT)
                continue
            self._deadline.require()
            silent = time.monotonic() - self._heard_at >= SILENCE_SECONDS
            publication.ask_for_credit(all_streams=silent)
        self._tools.board.note(self.order.run, Step.COMMITTED)
        name = publication.committed_name
        if name is not None:
            self._stages.after_point(snapshot.consistency, name)

    def _break(self, problem: BootpointError) -> None:
        """Called by a disk's thread that can't go on."""
        self._failure = self._failure or problem
        self._inbox.put(message.Aborted(run=self.order.run, replica_id=None, point_id=None, problem=_STOPPING))

    # --- what the control plane says

    def _hear(self, seconds: float, publication: Publication) -> None:
        """Take one message, waiting at most ``seconds`` for it.

        Raises:
            RunCancelled: The run is over.
            BootpointError: A disk's thread failed, or nobody has said anything for too long.
        """
        try:
            heard = self._inbox.get(timeout=seconds)
        except queue.Empty:
            if not publication.sent and time.monotonic() - self._heard_at >= PATIENCE_SECONDS:
                text = f"nothing was heard of the control plane for {PATIENCE_SECONDS / 60:.0f} minutes"
                raise error(Code.STALLED, text, job=self.order.job) from None
            return
        if self._failure is not None:
            raise self._failure
        self._heard_at = time.monotonic()
        match heard:
            case message.Ready():
                publication.ready(heard)
            case message.Credit():
                publication.credit(heard.point_disk_id, heard.may_send_until)
            case message.ResendFrom():
                publication.resend(heard)
            case message.Committed():
                self._tools.state.adopt(heard.replica_id, heard.point_id)
                publication.committed(heard.replica_id)
            case message.Aborted():
                self._drop(heard)
                self._tools.board.note(self.order.run, Step.FAILED, problem=heard.problem)
                raise RunCancelled(heard.problem.message)

    def _drop(self, heard: message.Aborted) -> None:
        if heard.replica_id is not None and heard.point_id is not None:
            self._tools.state.drop(heard.replica_id, heard.point_id)

    # --- the end

    def _fail(self, problem: BootpointError) -> None:
        """Tell the control plane until it says that the run is over."""
        _log.warning(
            "run failed", extra={"run": self.order.number, "code": str(problem.code), "cause": problem.message}
        )
        told = message.Problem.of(problem)
        self._tools.board.note(self.order.run, Step.FAILED, problem=told)
        self._insist(message.Failed(run=self.order.run, problem=told, scripts=self._stages.results))

    def _insist(self, body: message.Failed | message.Report) -> None:
        """Say it until the control plane answers that it knows, or the agent stops; a report is given up some day."""
        patient_until = time.monotonic() + PATIENCE_SECONDS
        while True:
            self._tools.link.send(body, pool=self.order.pool)
            deadline = time.monotonic() + OFFER_SECONDS
            while (left := deadline - time.monotonic()) > 0 and not self._stop.is_set():
                with contextlib.suppress(queue.Empty):
                    if self._answers(body, self._inbox.get(timeout=left)):
                        return
            if self._stop.is_set() or (isinstance(body, message.Report) and time.monotonic() > patient_until):
                return

    def _answers(self, body: message.Failed | message.Report, heard: message.ToAgent) -> bool:
        """Take a message that comes after the work, and tell whether it is what the control plane says to ours."""
        if isinstance(heard, message.Committed):
            self._tools.state.adopt(heard.replica_id, heard.point_id)
        if isinstance(heard, message.Aborted) and heard.problem is not _STOPPING:
            self._drop(heard)
            return isinstance(body, message.Failed)
        return isinstance(heard, message.Noted)


_STOPPING = message.Problem(code=str(Code.AGENT_RESTARTED), message="the agent stops")
