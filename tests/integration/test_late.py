"""What comes too late, twice, or out of turn: words, notes, disks, and streams of points that have ended."""

from __future__ import annotations

import errno
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast
from uuid import UUID

import pytest

from bootpoint_common import message
from bootpoint_common.cipher import AgentKey
from bootpoint_common.config import AgentConfig
from bootpoint_common.errors import Code, error
from bootpoint_common.identity import new_id
from bootpoint_common.store.database import run as execute
from bootpoint_common.stream.carrier import CarrierLost
from bootpoint_common.stream.memory import MemoryBroker
from bootpoint_common.units import GRAIN, MiB
from bootpoint_producer import state as agent_state
from bootpoint_producer.agent import Agent
from bootpoint_producer.board import RunBoard
from bootpoint_producer.limit import RunLimits
from bootpoint_producer.link import Link
from bootpoint_producer.present import Present
from bootpoint_producer.publication import Publication
from bootpoint_producer.run import Run
from bootpoint_producer.state import AgentState, Identity
from bootpoint_producer.tools import Tools
from bootpoint_producer.trackers.keeper import TrackerKeeper
from bootpoint_worker import opening, replicate
from bootpoint_worker.targets.fake_host import FakeHost
from tests.integration.test_away import talk
from tests.model.source import MACHINE
from tests.model.world import World
from tests.service.fleet import Fleet

# --- the control plane


def test_a_counter_of_any_size_costs_nothing(world: World) -> None:
    talk(world)
    link = world.agents[0].link
    for counter in (2**62, 0):
        link._counter = counter
        link.send(message.Heartbeat(runs=[]))
    while world.take_in(0):
        pass
    assert world.row("SELECT counter FROM agent WHERE name = 's0'") == {"counter": 2**62 + 1}


def test_an_overtaken_hello_does_not_hide_what_a_newer_heartbeat_says(world: World) -> None:
    talk(world)
    pool = world.broker._state.pools["fake"].messages
    world.agents[0]._greet()
    world.agents[0].link.send(message.Heartbeat(runs=[message.RunProgress(run=new_id())]))
    pool.rotate(1)
    while world.take_in(0):
        pass
    assert world.row("SELECT jsonb_array_length(runs) AS n FROM agent WHERE name = 's0'") == {"n": 1}


def newest_disk(world: World) -> UUID:
    row = world.row("SELECT id FROM boot_point_disk ORDER BY id DESC LIMIT 1")
    assert row is not None
    return cast(UUID, row["id"])


def test_what_a_slice_has_in_hand_is_not_missing_though_its_stream_was_once_deleted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, second = world.agents[0], world.workers[1].context.carrier
    world.begin_run(0)
    talk(world)
    disk = newest_disk(world)
    world.workers[0].context.carrier.delete_stream(disk)
    world.pass_time()
    world.relay()
    while world.tasks:
        world.do_task(0, 0)
    # It is made anew; for a minute nothing differs, and then much does.
    with world.database.transaction() as connection:
        execute(connection, "UPDATE boot_point_disk SET gap_since = gap_since - interval '61 seconds'")
    for _ in range(12):
        source.feed(0)
        source.publish()
    asked = []

    def ask_for_credit(_: object) -> None:
        # RabbitMQ has handed everything to the slice that is flushing now: the stream looks empty.
        monkeypatch.setattr(second, "depth", lambda _: 0)
        source.say()
        while world.take_in(1):
            pass
        world.relay()
        for task in [task for task in world.tasks if task.kind == "replicate"]:
            world.do_task(world.tasks.index(task), 1)
        world.relay()
        while source.hear():
            pass
        assert source.work is not None
        asked.append(source.work.failed)

    world.host.act_at("flush", "called", ask_for_credit)
    world.pass_time()
    world.reap()
    world.relay()
    world.do_task(next(index for index, task in enumerate(world.tasks) if task.kind == "replicate"), 0)
    assert asked == [None]


def test_a_stream_that_was_made_for_a_point_that_has_ended_is_deleted_in_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.begin_run(0)
    talk(world)
    context = world.workers[0].context
    before = replicate.look(context, newest_disk(world))
    assert before is not None

    def lost(*_: object) -> None:
        raise CarrierLost("gone")

    def end(*_: object) -> object:
        """Let the point end between the look and the making of the stream."""
        world.cancel(0)
        talk(world)
        while world.tasks:
            world.do_task(0, 1)
        patch.setattr(context.carrier, "delete_stream", lost)
        return before

    with monkeypatch.context() as patch:
        patch.setattr(replicate, "look", end)
        replicate._declare_again(context, before)
    assert world.broker._state.streams
    with world.database.transaction() as connection:
        execute(connection, "UPDATE boot_point SET ended_at = ended_at - interval '1 hour'")
    world.reap()
    assert not world.broker._state.streams


def test_the_note_of_a_step_that_somebody_else_has_done_meanwhile_is_not_kept(world: World) -> None:
    world.begin_run(0)
    frozen: list[bool] = []

    def freeze(_: object) -> None:
        if frozen:
            return
        frozen.append(True)
        world.pass_time()
        row = world.row("SELECT id FROM boot_point")
        assert row is not None
        opening.open_point(world.workers[1].context, row["id"])
        raise error(Code.HOST_UNREACHABLE, "it did not answer in time")

    world.host.act_at("open", "called", freeze)
    talk(world)
    assert frozen
    assert world.row("SELECT state, waits_for FROM boot_point") == {"state": "open", "waits_for": None}


# --- disks that come and go


def test_a_disk_that_is_there_only_after_the_agents_start_is_protected(installation: Fleet, tmp_path: Path) -> None:
    mount, later = tmp_path / "mount", tmp_path / "later"
    later.mkdir()
    (later / "system.raw").write_bytes(b"x" * MiB)
    host_id = installation.add_host(f"fake-{tmp_path.name}")
    installation.add_agent("erp", [mount / "system.raw"])
    installation.add_worker("w1")
    installation.wait_until(lambda: installation.row("SELECT 1 FROM agent WHERE inventory IS NOT NULL"))
    later.rename(mount)
    job = installation.add_job("erp", "erp", {"system": mount / "system.raw"}, host_id)
    installation.wait(installation.run(job))


def test_a_sparse_disk_that_is_larger_than_the_storage_is_not_refused_for_its_size(
    installation: Fleet, tmp_path: Path
) -> None:
    disk = tmp_path / "system.raw"
    with disk.open("wb") as file:
        file.truncate(512 * MiB)
        file.write(b"x" * MiB)
    host = FakeHost.install(FakeHost(f"fake-{tmp_path.name}", storages={"default": 8 * MiB}))
    host_id = installation.add_host(host.name)
    installation.add_agent("erp", [disk])
    installation.add_worker("w1")
    installation.wait_until(lambda: installation.row("SELECT 1 FROM agent WHERE inventory IS NOT NULL"))
    job = installation.add_job("erp", "erp", {"system": disk}, host_id)
    installation.wait(installation.run(job))
    other = tmp_path / "full.raw"
    other.write_bytes(b"x" * (16 * MiB))
    installation.add_agent("full", [other])
    installation.wait_until(
        lambda: installation.row("SELECT 1 FROM agent WHERE name = 'full' AND inventory IS NOT NULL")
    )
    job = installation.add_job("full", "full", {"a": other}, host_id)
    row = installation.wait(installation.run(job), state="failed")
    assert row["reason"] == "host_full"
    assert row["started_at"] is None


def test_a_disk_of_all_that_is_gone_is_not_left_out_in_silence(installation: Fleet, tmp_path: Path) -> None:
    disks = [tmp_path / "system.raw", tmp_path / "data.raw"]
    for disk in disks:
        disk.write_bytes(b"x" * MiB)
    host_id = installation.add_host(f"fake-{tmp_path.name}")
    installation.add_agent("erp", disks)
    installation.add_worker("w1")
    job = installation.add_job("erp", "erp", {"system": disks[0], "data": disks[1]}, host_id)
    listed: Callable[[str, str], str] = "UPDATE {} SET spec = spec #- '{{source,disks}}' WHERE {}".format
    installation.wait_until(lambda: installation.row("SELECT 1 FROM agent WHERE inventory IS NOT NULL"))
    with installation.database.transaction() as connection:
        execute(connection, listed("job", "id = %s"), job)
        # What else this machine has is not the test's business.
        execute(
            connection,
            "UPDATE agent SET inventory = jsonb_set(inventory, '{items}', (SELECT jsonb_agg(item) FROM"
            " jsonb_array_elements(inventory->'items') item WHERE item->>'id' LIKE 'file:%%'))",
        )
    installation.wait(installation.run(job))
    with installation.database.transaction() as connection:
        execute(connection, "UPDATE agent SET inventory = inventory #- '{items,0}'")
    row = installation.wait(installation.run(job), state="failed")
    assert row["reason"] == "disk_missing"
    assert row["started_at"] is None


# --- the agent


class SilentLink:
    """A link whose messages nobody takes."""

    identity = Identity("erp", "fake", "", AgentKey(1, bytes(32)), MACHINE)
    present = Present()

    def send(self, body: object, pool: str | None = None) -> None:
        """Drop it."""


def order_of(replicas: list[UUID]) -> message.StartRun:
    return message.StartRun(
        run=new_id(),
        number=1,
        job="erp",
        pool="fake",
        expires_at=datetime.now(UTC) + timedelta(hours=1),
        disks=[],
        consistency="crash",
        skip=[],
        scripts={},
        limits={},
        replicas=[message.RunReplica(replica_id=replica, host="h") for replica in replicas],
        last_breath=False,
    )


def tools_of(state: AgentState) -> Tools:
    silent = cast(Link, SilentLink())
    return Tools(state, silent, None, None, None, RunBoard(), None, TrackerKeeper(state))  # type: ignore[arg-type]


def base_and_candidate(state: AgentState, replica: UUID) -> UUID:
    """Keep a base and a candidate of a replica; return the candidate's point."""
    for number in (1, 2):
        point = new_id()
        state.map_path(replica, point, "a").write_bytes(b"map")
        state.keep_point(replica, point, {"a": (GRAIN, bytes([number]) * 32)})
        if number == 1:
            state.adopt(replica, point)
    return point


def ended(run: UUID) -> message.Aborted:
    problem = message.Problem(code="stalled", message="the run has ended")
    return message.Aborted(run=run, replica_id=None, point_id=None, problem=problem)


def test_a_commit_that_is_told_while_the_agent_gives_up_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, replica = AgentState(tmp_path), new_id()
    point = base_and_candidate(state, replica)
    order = order_of([replica])
    run = Run(order, tools_of(state))

    def give_up() -> None:
        raise error(Code.STALLED, "nothing was heard")

    monkeypatch.setattr(run, "_work", give_up)
    run.tell(message.Committed(run=order.run, replica_id=replica, point_id=point, name="V", run_ended=True))
    run.tell(ended(order.run))
    run.work()
    base = state.base(replica)
    assert base is not None
    assert base.point_id == point


def test_a_commit_that_is_told_behind_the_end_of_the_run_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, replica = AgentState(tmp_path / "state"), new_id()
    state.keep_identity(SilentLink.identity)
    point = base_and_candidate(state, replica)
    agent = Agent(state, AgentConfig(), MemoryBroker().agent_carrier("erp"), machine_now=MACHINE)
    order = order_of([replica])
    run = Run(order, tools_of(state))
    agent._runs[order.run] = run
    run.tell(ended(order.run))
    run.tell(message.Committed(run=order.run, replica_id=replica, point_id=point, name="V", run_ended=True))

    def listen() -> None:
        cut = TrackerKeeper(state).cut({})
        publication = Publication(
            order,
            tools_of(state),
            None,  # type: ignore[arg-type]
            cut,
            demand=lambda _: None,
            broke=print,
            limits=RunLimits(),
        )
        while True:
            run._hear(1.0, publication)

    monkeypatch.setattr(run, "_work", listen)
    agent._work(run)
    base = state.base(replica)
    assert base is not None
    assert base.point_id == point


def test_an_agent_starts_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = AgentState(tmp_path)
    state.keep_identity(SilentLink.identity)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(agent_state, "replace_file", full)
    Agent(state, AgentConfig(), MemoryBroker().agent_carrier("erp"), machine_now=MACHINE)


def test_an_unnamed_password_does_not_outlive_its_question(world: World) -> None:
    with world.database.transaction() as connection:
        execute(
            connection,
            "INSERT INTO request (id, kind, addressee, secret, requested_by, expires_at)"
            " VALUES (gen_random_uuid(), 'host_show', 'pool fake', 'secret', 'test', now() - interval '1 second'),"
            " (gen_random_uuid(), 'disks', 'agent s0', NULL, 'test', now() - interval '2 days')",
        )
    world.reap()
    assert world.rows("SELECT kind, secret FROM request WHERE requested_by = 'test'") == [
        {"kind": "host_show", "secret": None}
    ]


