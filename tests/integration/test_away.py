"""Something is gone for a while: a stream, the host's consent, the control plane, an order of messages."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bootpoint_common import message
from bootpoint_common.identity import new_id
from bootpoint_common.metric import REFUSED, REPLAYED
from bootpoint_common.store.database import run as execute
from bootpoint_common.units import MiB
from bootpoint_producer import publication
from bootpoint_producer import run as agent_run
from bootpoint_producer.snapshots.joint import JointSet
from bootpoint_producer.state import AgentState
from bootpoint_worker.targets.fake_host import FakeHost
from tests.model.world import World
from tests.service.fleet import Fleet
from tests.service.process import wait_for


def talk(world: World) -> None:
    """Let messages flow until nothing moves; tasks of slices stay where they are."""
    for _ in range(6):
        world.relay()
        while world.agents[0].hear():
            pass
        while world.take_in(0):
            pass
        world.relay()
        for task in [task for task in world.tasks if task.kind != "replicate"]:
            world.do_task(world.tasks.index(task), 0)


def work(world: World, rounds: int = 30) -> None:
    """Let everything go its way until no run is under way."""
    for _ in range(rounds):
        world.pass_time()
        world.reap()
        world.agents[0].say()
        for _ in range(6):
            world.agents[0].feed(0)
            world.agents[0].publish()
        talk(world)
        while world.tasks:
            world.do_task(0, 1)
        if world.row("SELECT 1 FROM run WHERE state IN ('waiting', 'running')") is None:
            return


def newest_run(world: World) -> tuple[str, str | None]:
    row = world.row("SELECT state, reason FROM run ORDER BY id DESC LIMIT 1")
    assert row is not None
    return row["state"], row["reason"]


def kinds(world: World) -> list[str]:
    return [row["kind"] for row in world.rows("SELECT kind FROM event ORDER BY id")]


# --- a stream that somebody deleted


def begin(world: World, bundles: int) -> None:
    world.begin_run(0)
    talk(world)
    for _ in range(bundles):
        world.agents[0].feed(0)
        world.agents[0].publish()


def delete_the_stream(world: World) -> None:
    row = world.row("SELECT id FROM boot_point_disk ORDER BY id DESC LIMIT 1")
    assert row is not None
    world.workers[0].context.carrier.delete_stream(row["id"])


def lose_the_binding(world: World) -> None:
    row = world.row("SELECT id FROM boot_point_disk ORDER BY id DESC LIMIT 1")
    assert row is not None
    world.workers[0].context.carrier.bind_stream("nobody", row["id"])


@pytest.mark.parametrize("bundles", [0, 3])
def test_a_stream_that_the_broker_no_longer_gives_anything_to_is_bound_again(world: World, bundles: int) -> None:
    begin(world, bundles)
    lose_the_binding(world)
    work(world)
    assert newest_run(world) == ("succeeded", None)
    assert "stream_lost" not in kinds(world)


def test_a_stream_that_was_deleted_before_anything_was_in_it_is_made_anew(world: World) -> None:
    begin(world, 0)
    delete_the_stream(world)
    work(world)
    assert newest_run(world) == ("succeeded", None)
    assert "stream_lost" in kinds(world)


def test_bundles_that_were_lost_with_their_stream_end_the_run_at_once_and_the_next_succeeds(world: World) -> None:
    begin(world, 3)
    delete_the_stream(world)
    work(world, rounds=2)
    with world.database.transaction() as connection:
        execute(connection, "UPDATE boot_point_disk SET gap_since = gap_since - interval '2 minutes'")
    work(world, rounds=6)
    assert newest_run(world) == ("failed", "stream_gap")
    world.begin_run(0)
    work(world)
    assert newest_run(world) == ("succeeded", None)
    assert not world.broker._state.streams


# --- a host that doesn't do what is asked


@pytest.mark.parametrize("verb", ["commit", "open", "abort"])
def test_a_step_that_a_host_refuses_is_seen_in_the_history_once_and_in_the_run(world: World, verb: str) -> None:
    if verb == "abort":
        begin(world, 1)
        world.cancel(0)
    else:
        world.begin_run(0)
    world.host.disconnect_at(verb, "called", times=1000)
    work(world, rounds=8)
    told = world.rows("SELECT text FROM event WHERE kind = 'point_waits' AND code = 'host_unreachable'")
    assert len(told) == 1
    assert "is tried again" in told[0]["text"]
    row = world.row("SELECT targets FROM v_run ORDER BY id DESC LIMIT 1")
    assert row is not None
    assert row["targets"][0]["reason"] == ("cancelled" if verb == "abort" else "host_unreachable")
    world.host.clear_faults()
    work(world)
    assert newest_run(world)[0] == ("cancelled" if verb == "abort" else "succeeded")
    assert world.row("SELECT waits_for FROM boot_point ORDER BY id DESC LIMIT 1") == {"waits_for": None}


# --- messages that overtake each other


def test_an_overtaken_message_is_taken_and_a_replayed_one_is_not(world: World) -> None:
    talk(world)
    link = world.agents[0].link
    pool = world.broker._state.pools["fake"].messages
    for _ in range(3):
        link.send(message.Heartbeat(runs=[]))
    first, second, third = list(pool)[-3:]
    pool.clear()
    for late in (third, first, second, first, third):
        pool.append(late)
    before = rejected(world)
    while world.take_in(0):
        pass
    assert rejected(world) - before == 2


def rejected(world: World) -> float:
    tally = world.workers[0].context.tally
    taken = tally.take()
    tally.back(taken)
    return taken.get((REFUSED, (REPLAYED,)), 0.0)


def test_a_heartbeat_that_was_overtaken_does_not_hide_what_the_newer_one_says(world: World) -> None:
    talk(world)
    link = world.agents[0].link
    pool = world.broker._state.pools["fake"].messages
    link.send(message.Heartbeat(runs=[]))
    link.send(message.Heartbeat(runs=[message.RunProgress(run=new_id())]))
    pool.rotate(1)
    while world.take_in(0):
        pass
    row = world.row("SELECT jsonb_array_length(runs) AS n FROM agent WHERE name = 's0'")
    assert row == {"n": 1}


def test_a_start_of_an_agent_is_newer_than_all_before_though_the_clock_was_set_back(tmp_path: Path) -> None:
    state = AgentState(tmp_path)
    far = new_id().int + (10_000_000 << 80)
    (tmp_path / "incarnation").write_text(str(type(new_id())(int=far)))
    first = AgentState(tmp_path).new_incarnation()
    assert far < first.int < state.new_incarnation().int


# --- a control plane that is away


def one_disk(installation: Fleet, tmp_path: Path) -> tuple[int, Path]:
    disk = tmp_path / "system.raw"
    disk.write_bytes(b"x" * MiB)
    host_id = installation.add_host(f"fake-{tmp_path.name}")
    installation.add_agent("erp", [disk])
    return installation.add_job("erp", "erp", {"system": disk}, host_id), disk


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a snapshot was released."""
    done = threading.Event()
    real = JointSet.release

    def release(self: JointSet) -> None:
        real(self)
        done.set()

    monkeypatch.setattr(JointSet, "release", release)
    return done


def test_an_agent_that_hears_nothing_for_long_lets_go_of_its_snapshot(
    installation: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, released: threading.Event
) -> None:
    monkeypatch.setattr(agent_run, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(agent_run, "OFFER_SECONDS", 0.2)
    job_id, _ = one_disk(installation, tmp_path)
    service = installation.add_worker("w1")
    monkeypatch.setattr(publication.Publication, "answered", property(lambda _: False))
    begun = installation.run(job_id)
    installation.wait_until(lambda: installation.row("SELECT 1 FROM run WHERE state = 'running'"))
    installation.stop(service)
    assert released.wait(20)
    installation.add_worker("w2")
    row = installation.wait(begun, state="failed")
    assert row["reason"] == "stalled"


def test_a_snapshot_is_released_once_everything_is_sent(
    installation: Fleet, tmp_path: Path, released: threading.Event
) -> None:
    job_id, _ = one_disk(installation, tmp_path)
    installation.add_worker("w1")
    on = installation.row("SELECT address FROM host")
    assert on is not None
    FakeHost.at(on["address"]).disconnect_at("commit", "called", times=1000)
    begun = installation.run(job_id)
    assert released.wait(20)
    assert installation.row("SELECT 1 FROM run WHERE state = 'running'") is not None
    FakeHost.at(on["address"]).clear_faults()
    with installation.database.transaction() as connection:
        execute(connection, "UPDATE boot_point SET enqueued_at = NULL")
    installation.wait(begun)


def test_the_disks_of_an_agent_are_known_soon_after_its_start(installation: Fleet, tmp_path: Path) -> None:
    one_disk(installation, tmp_path)
    installation.add_worker("w1")
    row = installation.wait_until(
        lambda: installation.row("SELECT inventory FROM agent WHERE inventory IS NOT NULL"), 20
    )
    assert [item["id"] for item in row["inventory"]["items"] if item["id"].startswith("file:")]
    wait_for(lambda: installation.row("SELECT 1 FROM request WHERE state = 'asked'") is None, "the answer to be kept")
