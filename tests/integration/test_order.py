"""Flush, record, ack, credit: what breaks when a worker or its host dies between two of them, step by step."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootpoint_common.store.claim import claim
from bootpoint_common.store.database import Row
from bootpoint_common.units import GRAIN
from tests.model.source import ModelAgent
from tests.model.world import World


@pytest.fixture(params=range(4))
def world(request: pytest.FixtureRequest, database: str, tmp_path: Path) -> Iterator[World]:
    made = World(database, tmp_path, request.param)
    for agent in made.agents:
        for slot, path in agent.disks.items():
            for grain in range(path.stat().st_size // GRAIN):
                agent.write(slot, grain, made.rng.randbytes(GRAIN))
    yield made
    made.close()


def talk(world: World, *, agent: ModelAgent, tasks: bool = True) -> None:
    """Let messages flow until nothing moves; tasks of slices stay where they are."""
    for _ in range(6):
        world.relay()
        while agent.hear():
            pass
        while world.take_in(0):
            pass
        world.relay()
        for task in list(world.tasks) if tasks else []:
            if task.kind != "replicate":
                world.do_task(world.tasks.index(task), 0)


def feed(agent: ModelAgent, disk: int, bundles: int) -> None:
    for _ in range(bundles):
        agent.feed(disk)
        agent.publish()


def finish(world: World) -> None:
    """Let everything go its way until no run is under way."""
    for _ in range(40):
        world.pass_time()
        world.reap()
        for agent in world.agents:
            agent.say()
            for disk in (0, 1):
                feed(agent, disk, 6)
            talk(world, agent=agent)
        for worker in (0, 1):
            world.step_slice(worker, 0)
        while world.tasks:
            world.do_task(0, 1)
        if world.row("SELECT 1 FROM run WHERE state IN ('waiting', 'running')") is None:
            return
    raise AssertionError(world.rows("SELECT kind, text FROM event ORDER BY id"))


def only_point(world: World, number: int) -> Row:
    row = world.row(
        "SELECT p.*, r.state AS run_state, r.message FROM boot_point p JOIN run r ON r.uid = p.run_uid"
        " WHERE r.job_id = %s ORDER BY p.sequence DESC LIMIT 1",
        world.jobs[number],
    )
    assert row is not None
    return row


def assert_whole(world: World, number: int) -> None:
    """The newest point of a job is committed, by the first run, and shows what the source held."""
    row = only_point(world, number)
    assert row["state"] == "committed", row["message"]
    for slot, content in world.agents[number].expected[row["id"]].items():
        assert world.host.content(row["replica_id"], row["id"], slot) == content


def watermark(world: World, number: int) -> int:
    row = world.row(
        "SELECT max(d.watermark_bytes) AS mark FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id"
        " JOIN replica y ON y.id = p.replica_id WHERE y.job_id = %s",
        world.jobs[number],
    )
    assert row is not None
    return int(row["mark"] or 0)


def open_and_feed(world: World, number: int, bundles: int) -> None:
    agent = world.agents[number]
    world.begin_run(number)
    talk(world, agent=agent)
    feed(agent, 0, bundles)
    agent.say()
    talk(world, agent=agent)


def test_what_lies_below_the_watermark_survives_a_power_cut(world: World) -> None:
    open_and_feed(world, 0, 4)
    world.begin_slice(0)
    for _ in range(5):
        world.step_slice(0, 0)
    assert watermark(world, 0) > 0
    world.cut_power()
    finish(world)
    assert_whole(world, 0)


def test_a_worker_that_dies_in_the_flush_loses_nothing(world: World) -> None:
    open_and_feed(world, 0, 4)
    world.strike("flush", "called", "die")
    world.begin_slice(0)
    for _ in range(5):
        world.step_slice(0, 0)
    finish(world)
    assert_whole(world, 0)
    assert world.row("SELECT count(*) AS n FROM run") == {"n": 1}


def test_a_host_that_loses_power_in_the_flush_is_not_ahead_of_itself(world: World) -> None:
    open_and_feed(world, 0, 4)
    world.strike("flush", "called", "power")
    world.begin_slice(0)
    for _ in range(5):
        world.step_slice(0, 0)
    finish(world)
    assert_whole(world, 0)


def test_an_agent_with_an_old_state_sends_what_differs_from_the_head(world: World, tmp_path: Path) -> None:
    agent = world.agents[0]
    world.begin_run(0)
    finish(world)
    old = tmp_path / "old"
    shutil.copytree(agent.state.directory, old)
    agent.write("a", 3, b"second")
    world.begin_run(0)
    finish(world)
    shutil.rmtree(agent.state.directory)
    shutil.copytree(old, agent.state.directory)
    agent.boot()
    agent.write("a", 5, b"third")
    world.begin_run(0)
    finish(world)
    assert_whole(world, 0)
    row = only_point(world, 0)
    assert (row["kind"], row["reason"]) == ("increment", "base_lost")


def test_a_point_of_two_disks_waits_for_both_seals(world: World) -> None:
    agent = world.agents[1]
    world.begin_run(1)
    talk(world, agent=agent)
    for _ in range(6):
        feed(agent, 1, 3)
        agent.say()
        talk(world, agent=agent)
        while world.tasks:
            world.do_task(0, 1)
        talk(world, agent=agent)
    sealed = world.rows(
        "SELECT d.slot FROM boot_point_disk d WHERE d.point_id = %s AND d.sealed_at IS NOT NULL",
        only_point(world, 1)["id"],
    )
    assert [row["slot"] for row in sealed] == ["b"]
    assert only_point(world, 1)["state"] == "open"
    finish(world)
    assert_whole(world, 1)


def test_a_slice_that_was_frozen_can_do_no_harm(world: World) -> None:
    open_and_feed(world, 0, 4)
    world.begin_slice(0)
    world.step_slice(0, 0)
    agent = world.agents[0]
    world.pass_time()
    world.reap()
    talk(world, agent=agent)
    world.begin_slice(1)
    for _ in range(3):
        world.step_slice(1, 0)
    before = watermark(world, 0)
    for _ in range(3):
        world.step_slice(0, 0)
    assert watermark(world, 0) == before
    assert not world.workers[0].slices
    finish(world)
    assert_whole(world, 0)


def test_a_claim_that_was_taken_ends_the_earlier_one_before_the_target_does(world: World) -> None:
    open_and_feed(world, 0, 4)
    world.begin_slice(0)
    world.step_slice(0, 0)
    world.pass_time()
    row = world.row("SELECT id FROM boot_point_disk WHERE writer > 0")
    assert row is not None
    assert claim(world.database, "boot_point_disk", row["id"], renewing=False) is not None
    before = watermark(world, 0)
    for _ in range(3):
        world.step_slice(0, 0)
    assert watermark(world, 0) == before
    assert not world.workers[0].slices


def test_an_abort_that_comes_late_touches_nothing_of_the_next_point(world: World) -> None:
    open_and_feed(world, 0, 3)
    world.begin_slice(0)
    world.step_slice(0, 0)
    world.cancel(0)
    world.relay()
    late = next(task for task in world.tasks if task.kind == "abort")
    finish(world)
    assert only_point(world, 0)["state"] == "aborted"
    open_and_feed(world, 0, 4)
    world.begin_slice(0)
    for _ in range(4):
        world.step_slice(0, 0)
    assert watermark(world, 0) > 0
    world.tasks.append(late)
    world.do_task(len(world.tasks) - 1, 1)
    finish(world)
    assert_whole(world, 0)


def test_two_disks_that_seal_at_once_leave_one_commit(world: World) -> None:
    agent = world.agents[1]
    world.begin_run(1)
    talk(world, agent=agent)
    for worker in (0, 1):
        world.begin_slice(worker)
    for _ in range(30):
        for disk in (0, 1):
            feed(agent, disk, 2)
        agent.say()
        talk(world, agent=agent)
        for worker in (0, 1):
            if not world.workers[worker].slices:
                world.begin_slice(worker)
            world.step_slice(worker, 0)
    finish(world)
    assert_whole(world, 1)
    committed = world.rows("SELECT 1 FROM event WHERE kind = 'point_committed'")
    assert len(committed) == 1
