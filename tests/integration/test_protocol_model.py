"""The protocol against everything that can happen to it: loss, repeat, reorder, crash, late writers.

A state machine takes steps of a small world (`tests.model`) in any order, and after each step the guarantees of the
design are looked at:

- G1, G2, G3, G7: every committed point shows exactly what its source held at its instant, whatever died since;
- G4: when the faults end, every run ends, and the next run of each job commits; then no more points are left than the
  job keeps;
- G5: no stream holds more than its credit;
- G6: no message in the broker holds a plain grain.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from bootpoint_common.units import GRAIN
from tests.conftest import SEED
from tests.model.world import POINTS, WINDOW, World
from tests.service.faulty import Faults
from tests.service.postgres import PostgresServer

#: Where a fault may strike at the target: every step between which a crash matters.
STRIKES = [
    *(("open", step) for step in ("check", "layers", "journal", "done")),
    *(("open_writer", step) for step in ("fence", "serve", "done")),
    *(("commit", step) for step in ("fence", "check", "sync", "journal", "standby", "runbook", "done")),
    *(("abort", step) for step in ("fence", "journal", "layers", "done")),
    *(("consolidate", step) for step in ("check", "mark", "merge", "sync", "settle", "clear", "runbook", "done")),
    *(("write", step) for step in ("called", "done")),
    *(("flush", step) for step in ("called", "done")),
]

#: First bytes of every grain that the model writes: they must never be seen in the broker.
PLAIN = b"plain block of the model "

WORKER = st.integers(0, 1)
SOURCE = st.integers(0, 1)
INDEX = st.integers(0, 5)


class Protocol(RuleBasedStateMachine):
    """The steps."""

    server: PostgresServer
    template: str

    @initialize(seed=st.integers(0, 2**32))
    def make(self, seed: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.name = self.server.create_database(self.template)
        self.world = World(self.server.url(self.name), Path(self.folder.name), seed)
        self.settle(rounds=2)

    # --- the source

    @rule(source=SOURCE, grain=st.integers(0, 11), fill=st.integers(0, 255), zero=st.booleans())
    def write(self, source: int, grain: int, fill: int, zero: bool) -> None:
        agent = self.world.agents[source]
        slot = sorted(agent.disks)[grain % len(agent.disks)]
        data = bytes(GRAIN) if zero else PLAIN + bytes([fill]) + self.world.rng.randbytes(GRAIN - len(PLAIN) - 1)
        agent.write(slot, grain, data)

    @rule(source=SOURCE, grains=st.integers(9, 15))
    def grow(self, source: int, grains: int) -> None:
        self.world.agents[source].grow("a", grains * GRAIN)

    @rule(source=SOURCE)
    def begin_run(self, source: int) -> None:
        self.world.begin_run(source)

    @rule(source=SOURCE)
    def cancel(self, source: int) -> None:
        self.world.cancel(source)

    # --- the agent

    @rule(source=SOURCE, times=st.integers(1, 4))
    def hear(self, source: int, times: int) -> None:
        for _ in range(times):
            self.world.agents[source].hear()

    @rule(source=SOURCE, repeat=st.booleans())
    def hear_wrongly(self, source: int, repeat: bool) -> None:
        self.world.agents[source].hear(lose=not repeat, repeat=repeat)

    @rule(source=SOURCE, disk=st.integers(0, 1), times=st.integers(1, 8))
    def feed(self, source: int, disk: int, times: int) -> None:
        for _ in range(times):
            self.world.agents[source].feed(disk)
            self.world.agents[source].publish()

    @rule(source=SOURCE)
    def say_again(self, source: int) -> None:
        self.world.agents[source].say()

    @rule(source=SOURCE)
    def agent_crashes(self, source: int) -> None:
        self.world.agents[source].boot()

    @rule(
        source=SOURCE,
        faults=st.sampled_from([Faults(refuse=0.3), Faults(repeat=0.4), Faults(disconnect=0.2), Faults(reorder=0.3)]),
    )
    def network_gets_bad(self, source: int, faults: Faults) -> None:
        self.world.agents[source].faults = faults

    @rule(source=SOURCE)
    def network_gets_well(self, source: int) -> None:
        self.world.agents[source].faults = Faults()

    # --- the control plane

    @rule()
    def relay(self) -> None:
        self.world.relay()

    @rule()
    def reap(self) -> None:
        self.world.reap()

    @rule()
    def pass_time(self) -> None:
        self.world.pass_time()

    @rule(worker=WORKER, times=st.integers(1, 4))
    def take_in(self, worker: int, times: int) -> None:
        for _ in range(times):
            self.world.take_in(worker)

    @rule(worker=WORKER, repeat=st.booleans())
    def take_in_wrongly(self, worker: int, repeat: bool) -> None:
        self.world.take_in(worker, lose=not repeat, repeat=repeat)

    @rule(index=INDEX, worker=WORKER, keep=st.booleans())
    def do_task(self, index: int, worker: int, keep: bool) -> None:
        self.world.do_task(index, worker, keep=keep)

    @rule(index=INDEX)
    def drop_task(self, index: int) -> None:
        self.world.drop_task(index)

    @rule(worker=WORKER)
    def begin_slice(self, worker: int) -> None:
        self.world.begin_slice(worker)

    @rule(worker=WORKER, index=INDEX, times=st.integers(1, 5))
    def step_slice(self, worker: int, index: int, times: int) -> None:
        for _ in range(times):
            self.world.step_slice(worker, index)

    @rule(worker=WORKER)
    def worker_dies(self, worker: int) -> None:
        self.world.kill(worker)

    # --- the host

    @rule()
    def power_cut(self) -> None:
        self.world.cut_power()

    @rule(strike=st.sampled_from(STRIKES), how=st.sampled_from(["die", "power", "disconnect"]))
    def fault(self, strike: tuple[str, str], how: str) -> None:
        self.world.strike(*strike, how)

    @rule(rounds=st.integers(1, 6))
    def settle(self, rounds: int) -> None:
        """A while in which everything works: without it, most sequences would end before the first commit."""
        for _ in range(rounds):
            self.world.relay()
            for agent in self.world.agents:
                while agent.hear():
                    pass
                for disk in (0, 1):
                    agent.feed(disk)
                agent.publish()
            while self.world.take_in(0):
                pass
            self.world.relay()
            for _ in range(len(self.world.tasks)):
                self.world.do_task(0, 1)

    # --- the guarantees

    @invariant()
    def points_are_what_their_sources_were(self) -> None:
        if not hasattr(self, "world"):
            return
        expected = {point: content for agent in self.world.agents for point, content in agent.expected.items()}
        for row in self.world.rows(
            "SELECT p.id, p.replica_id, p.name FROM boot_point p JOIN replica y ON y.id = p.replica_id WHERE"
            " p.state = 'committed' AND p.consolidated_at IS NULL AND y.consolidating IS DISTINCT FROM p.id"
        ):
            for slot, content in expected[row["id"]].items():
                found = self.world.host.content(row["replica_id"], row["id"], slot)
                assert found == content, f"{row['name']} disk {slot} differs from its source"

    @invariant()
    def streams_hold_no_more_than_their_credit(self) -> None:
        if not hasattr(self, "world"):
            return
        for name, bodies in self.world.contents().items():
            distinct = {bytes(body) for body in bodies}
            if name.startswith("stream."):
                assert sum(len(body) for body in distinct) <= WINDOW, name
            assert not any(PLAIN in body for body in distinct), f"{name} holds a plain block"

    @invariant()
    def one_point_a_replica_is_unfinished(self) -> None:
        if hasattr(self, "world"):
            doubled = self.world.row(
                "SELECT replica_id FROM boot_point WHERE state NOT IN ('committed', 'aborted')"
                " GROUP BY 1 HAVING count(*) > 1"
            )
            assert doubled is None

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self._comes_to_an_end()
        finally:
            self.world.close()
            self.server.drop_database(self.name)
            self.folder.cleanup()

    def _comes_to_an_end(self) -> None:
        """When the faults end, every run ends, and the next run of each job commits."""
        self.world.host.clear_faults()
        for agent in self.world.agents:
            agent.faults = Faults()
        self._until_quiet()
        before = {row["id"] for row in self.world.rows("SELECT id FROM boot_point WHERE state = 'committed'")}
        for number in range(len(self.world.agents)):
            self.world.begin_run(number)
        self._until_quiet()
        after = self.world.rows("SELECT id FROM boot_point WHERE state = 'committed'")
        assert len({row["id"] for row in after} - before) == len(self.world.agents), self._story()
        self.points_are_what_their_sources_were()
        self._no_more_points_than_wanted()

    def _no_more_points_than_wanted(self) -> None:
        """Retention comes to its end as well, and the rows say what the host has."""
        for _ in range(20):
            self.world.pass_time()
            self.world.reap()
            self.settle(rounds=2)
        listed = self.world.rows(
            "SELECT y.id, array_agg(p.id ORDER BY p.sequence) AS points FROM replica y JOIN boot_point p"
            " ON p.replica_id = y.id AND p.state = 'committed' AND p.consolidated_at IS NULL GROUP BY y.id"
        )
        for row in listed:
            manifest = self.world.host.manifest_of(row["id"])
            assert manifest is not None
            assert [point.point_id for point in manifest.points] == row["points"], self._story()
            assert len(row["points"]) <= POINTS, self._story()

    def _until_quiet(self) -> None:
        for _ in range(60):
            self.world.pass_time()
            self.world.reap()
            for agent in self.world.agents:
                agent.say()
            self.settle(rounds=4)
            for worker in (0, 1):
                for index in range(3):
                    self.world.step_slice(worker, index)
            if self.world.row("SELECT 1 FROM run WHERE state IN ('waiting', 'running')") is None and not any(
                agent.work for agent in self.world.agents
            ):
                return
        raise AssertionError(f"the runs don't end:\n{self._story()}")

    def _story(self) -> str:
        events = self.world.rows("SELECT kind, run, text, code FROM event ORDER BY id")
        states = self.world.rows(
            "SELECT r.id, r.state, r.ending, r.reason, r.line, p.name, p.state AS point FROM run r"
            " LEFT JOIN boot_point p ON p.run_uid = r.uid ORDER BY r.id"
        )
        return "\n".join(str(row) for row in [*events, *states, *self.world.tasks])


@pytest.mark.timeout(900)
def test_every_guarantee_holds_after_every_step(postgres_server: PostgresServer, template_database: str) -> None:
    Protocol.server, Protocol.template = postgres_server, template_database
    examples = 120 if SEED else 40
    # Without shrinking: a failing sequence is replayed by its seed; shrinking one takes longer than the whole suite.
    chosen = settings(
        max_examples=examples, stateful_step_count=60, deadline=None, phases=[Phase.explicit, Phase.generate]
    )
    run_state_machine_as_test(Protocol, settings=chosen)
