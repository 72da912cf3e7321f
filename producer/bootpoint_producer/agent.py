"""The agent: hears orders, begins runs, and shows that it lives."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from bootpoint_common import machine, message
from bootpoint_common.config import AgentConfig
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.stream.carrier import AgentCarrier, CarrierLost
from bootpoint_common.stream.sender import StreamSender

from .board import RunBoard, Step
from .doorbell import Doorbell
from .knowndisk import KnownDisks
from .link import Link
from .occasion import Occasion
from .question import Questions
from .run import Run
from .snapshots import choose, remove_leftovers
from .snapshots.base import Snapshot
from .stage import Owed, OwedScripts, pay
from .state import AgentState, Identity
from .tools import Tools
from .trackers import give_back, providers
from .trackers.keeper import TrackerKeeper

_log = logging.getLogger(__name__)

#: Version of this program, as the control plane shows it.
VERSION = "0.1.0"

#: Seconds between heartbeats; also between hellos that nobody answered yet.
HEARTBEAT_SECONDS = 10.0
HELLO_SECONDS = 2.0

#: Seconds between two looks at what trackers hold: a pool may run full between runs, too.
UPKEEP_SECONDS = 60.0

#: Seconds until a lost connection is tried again.
AGAIN_SECONDS = 1.0


class Agent:
    """A running agent: threads for its inbox, its heartbeat, its bundles and its run.

    Args:
        state: Its directory; it has joined.
        config: Settings of the machine's owner.
        carrier: Its connections.
        machine_now: This machine's identity.

    Raises:
        RefusedError: ``agent_is_a_copy``.
    """

    def __init__(
        self,
        state: AgentState,
        config: AgentConfig,
        carrier: AgentCarrier,
        *,
        machine_now: dict[str, Any] | None = None,
        broker_stays: bool = True,
    ) -> None:
        identity = state.identity()
        if identity is None:
            raise error(
                Code.NO_SUCH_AGENT, "this agent has not joined yet", hint="run `bootpoint-agent join -` with a token"
            )
        self._machine = machine_now if machine_now is not None else machine.identity()
        refuse_copy(identity, self._machine)
        self.welcomed = threading.Event()
        self._state = state
        self._config = config
        self._files = [Path(entry.removeprefix("file:")) for entry in config.files]
        self._known_disks = KnownDisks(self._files)
        self._board = RunBoard()
        self._carrier = carrier
        self._link = Link(identity, carrier, state.new_incarnation())
        occasion = Occasion(self._link, self._board, state.directory, broker_stays=broker_stays)
        self._doorbell = Doorbell(state.directory, occasion.answer)
        self._sender = StreamSender(connect=carrier.publisher)
        self._trackers = TrackerKeeper(state, providers(str(config.tracker), directory=state.directory))
        self._questions = Questions(self._link, state, self._files, self._trackers)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._runs: dict[UUID, Run] = {}
        self._working: dict[UUID, threading.Thread] = {}
        self._threads = [
            threading.Thread(target=self._inbox, name="agent inbox", daemon=True),
            threading.Thread(target=self._heartbeat, name="agent heartbeat", daemon=True),
            threading.Thread(target=self._upkeep, name="agent upkeep", daemon=True),
        ]

    def start(self) -> None:
        """Check what is held, clean up after a dead agent, and start the threads."""
        for dropped in self._state.check():
            _log.warning("block map dropped: its digests don't match", extra={"map": dropped})
        remove_leftovers(self._files, self._link.identity.name)
        give_back(str(self._config.tracker), directory=self._state.directory)
        self._sender.start()
        if owed := OwedScripts(self._state.directory).all():
            # Before the first run can begin: its own script must not come between.
            self._turn.acquire()
            threading.Thread(target=self._pay, args=(owed,), name="owed scripts", daemon=True).start()
        for thread in self._threads:
            thread.start()
        self._doorbell.start()

    def stop(self) -> None:
        """End runs and threads."""
        self._stop.set()
        self._doorbell.stop()
        with self._lock:
            runs, working = list(self._runs.values()), list(self._working.values())
        for run in runs:
            run.stop()
        self._sender.close()
        # A run at its end releases its snapshot.
        for thread in (*working, *self._threads):
            thread.join(10.0)
        self._carrier.close()

    # --- threads

    def _heartbeat(self) -> None:
        while not self._stop.is_set():
            if not self.welcomed.is_set():
                self._link.send(self._hello())
                self.welcomed.wait(HELLO_SECONDS)
                continue
            with self._lock:
                runs = list(self._runs.values())
            self._link.send(message.Heartbeat(runs=[run.progress() for run in runs]))
            self._stop.wait(HEARTBEAT_SECONDS)

    def _upkeep(self) -> None:
        while not self._stop.wait(UPKEEP_SECONDS):
            self._trackers.upkeep()

    def _hello(self) -> message.Hello:
        with self._lock:
            runs = list(self._runs)
        return message.Hello(
            protocol=message.PROTOCOL,
            version=VERSION,
            incarnation=self._link.incarnation,
            machine=self._machine,
            runs=runs,
        )

    def _pay(self, owed: list[Owed]) -> None:
        """Run the scripts that a dead agent left to be run, and report them."""
        try:
            for each in owed:
                self._pay_safely(each)
        finally:
            self._turn.release()

    def _pay_safely(self, owed: Owed) -> None:
        try:
            result = pay(owed, OwedScripts(self._state.directory))
            if result is not None:
                self._link.send(message.Report(run=owed.run, scripts=[result]), pool=owed.pool)
        except Exception:  # noqa: BLE001 - the others are owed all the same, and this one again at the next start
            _log.exception("owed script broke off", extra={"run": owed.number})

    def _inbox(self) -> None:
        while not self._stop.is_set():
            try:
                consumer = self._carrier.inbox()
            except CarrierLost as lost:
                _log.info("no connection to the broker", extra={"cause": str(lost)})
                self._stop.wait(AGAIN_SECONDS)
                continue
            try:
                while not self._stop.is_set():
                    delivery = consumer.get(0.5)
                    if delivery is not None:
                        self._hear_safely(delivery.body)
                        consumer.ack(delivery.tag)
            except CarrierLost as lost:
                _log.info("connection to the broker lost", extra={"cause": str(lost)})
                # A new connection may reach a broker that forgot us: say hello again, with the same incarnation.
                self.welcomed.clear()
            finally:
                consumer.close()

    # --- messages

    def _hear_safely(self, body: bytes) -> None:
        try:
            self._hear(body)
        except Exception:  # noqa: BLE001 - the thread's boundary: a full disk must not make the agent deaf for ever
            _log.exception("message not taken; what matters is said again")

    def _hear(self, body: bytes) -> None:
        try:
            heard = self._link.open(body)
        except (BootpointError, msgspec.MsgspecError) as problem:
            _log.warning("message refused", extra={"cause": str(problem)})
            return
        match heard:
            case message.Welcome():
                if heard.incarnation == self._link.incarnation:
                    self._link.present.told(heard.now)
                    self.welcomed.set()
            case message.StartRun():
                self._begin(heard)
            case message.Ask():
                self._questions.hear(heard)
            case message.EventTaken():
                self._board.answer(heard)
            case message.Credit() | message.ResendFrom():
                self._tell_all(heard)
            case message.Ready() | message.Committed() | message.Aborted() | message.NewLimits() | message.Noted():
                self._tell(heard)

    def _tell_all(self, heard: message.ToAgent) -> None:
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            run.tell(heard)

    def _tell(
        self, heard: message.Ready | message.Committed | message.Aborted | message.NewLimits | message.Noted
    ) -> None:
        with self._lock:
            run = self._runs.get(heard.run)
            if run is not None:
                run.tell(heard)
                return
        if isinstance(heard, message.Aborted):
            self._board.note(heard.run, Step.FAILED, job=heard.job, problem=heard.problem)
        if isinstance(heard, message.Committed):
            # The run ended without this agent: it was the last breath of an earlier start.
            self._state.adopt(heard.replica_id, heard.point_id)
        elif isinstance(heard, message.Aborted) and heard.replica_id is not None and heard.point_id is not None:
            self._state.drop(heard.replica_id, heard.point_id)

    # --- runs

    def _begin(self, order: message.StartRun) -> None:
        with self._lock:
            if order.run in self._runs or order.run in self._state.ended():
                return
            run = Run(order, self._tools())
            if run.expired:
                return
            self._runs[order.run] = run
            thread = threading.Thread(target=self._work, args=(run,), name=f"run {order.number}", daemon=True)
            self._working[order.run] = thread
        self._board.note(order.run, Step.BEGUN, job=order.job)
        thread.start()
        self._link.send(message.Heartbeat(runs=[run.progress()]))

    def _work(self, run: Run) -> None:
        try:
            run.work()
        except Exception:  # noqa: BLE001 - the thread's boundary: the run has ended as far as it could
            _log.exception("run broke off", extra={"run": run.order.number})
        finally:
            with self._lock:
                self._runs.pop(run.order.run, None)
                self._working.pop(run.order.run, None)
                unheard = run.unheard()
            for late in unheard:
                if isinstance(late, message.Committed | message.Aborted):
                    self._tell(late)

    def _tools(self) -> Tools:
        return Tools(
            state=self._state,
            link=self._link,
            sender=self._sender,
            resolve=self._known_disks.resolve,
            known=self._known_disks.known,
            board=self._board,
            choose=self._choose,
            trackers=self._trackers,
            sample_share=self._config.sample_percent / 100,
            turn=self._turn,
        )

    def _choose(self, paths: dict[str, Path]) -> Snapshot:
        choice = choose(paths, str(self._config.snapshot), owner=self._link.identity.name)
        _log.info("snapshot chosen", extra={"kinds": choice.kinds, "reasons": choice.reasons})
        return choice.snapshot


def refuse_copy(identity: Identity, now: dict[str, Any]) -> None:
    """Refuse to speak as another machine.

    Raises:
        RefusedError: ``agent_is_a_copy``.
    """
    if not machine.same_machine(identity.machine, now):
        raise error(Code.AGENT_IS_A_COPY, f"this is a copy of agent {identity.name}: join again", value=identity.name)
