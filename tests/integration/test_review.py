"""What a review found broken: each test failed before its repair. Step by step where that will do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from bootpoint_common import message
from bootpoint_common.cipher import AgentKey
from bootpoint_common.identity import new_id
from bootpoint_common.store import agent as agents
from bootpoint_common.store import ending, outbox, point, request, segment, watermark
from bootpoint_common.store.database import run as execute
from bootpoint_common.store.watermark import Watermark
from bootpoint_common.stream.carrier import CarrierLost
from bootpoint_common.stream.memory import MemoryWorkerCarrier
from bootpoint_common.stream.sender import Outlet, Pace, StreamSender
from bootpoint_common.stream.window import HOLD
from bootpoint_common.units import GRAIN, MiB
from bootpoint_producer.agent import Agent
from bootpoint_producer.sources.base import Source
from bootpoint_producer.state import AgentState
from bootpoint_producer.trackers.hash import HashTracker
from bootpoint_worker import admission, arrival, reaper, replicate
from bootpoint_worker.preflight import preflight
from tests.model.source import MACHINE
from tests.model.world import World
from tests.service.fleet import Fleet
from tests.service.process import wait_for


def talk(world: World, number: int) -> None:
    """Let messages flow until nothing moves; tasks of slices stay where they are."""
    for _ in range(6):
        world.relay()
        while world.agents[number].hear():
            pass
        while world.take_in(0):
            pass
        world.relay()
        for task in [task for task in world.tasks if task.kind != "replicate"]:
            world.do_task(world.tasks.index(task), 0)


def open_and_feed(world: World, number: int, bundles: int) -> None:
    world.begin_run(number)
    talk(world, number)
    for _ in range(bundles):
        world.agents[number].feed(0)
        world.agents[number].publish()


def finish(world: World, number: int) -> None:
    """Let everything go its way until no run is under way."""
    for _ in range(30):
        world.pass_time()
        world.reap()
        world.agents[number].say()
        for _ in range(6):
            for disk in (0, 1):
                world.agents[number].feed(disk)
                world.agents[number].publish()
        talk(world, number)
        while world.tasks:
            world.do_task(0, 1)
        if world.row("SELECT 1 FROM run WHERE state IN ('waiting', 'running')") is None:
            return
    raise AssertionError(world.rows("SELECT kind, text FROM event ORDER BY id"))


def only_run(world: World) -> dict[str, Any]:
    row = world.row("SELECT * FROM run")
    assert row is not None
    return row


def point_state(world: World) -> str:
    row = world.row("SELECT state FROM boot_point ORDER BY sequence DESC LIMIT 1")
    assert row is not None
    return str(row["state"])


def change(world: World, query: str, *arguments: object) -> None:
    with world.database.transaction() as connection:
        execute(connection, query, *arguments)


# --- a run that is given up without need, or never ends


def test_a_long_scan_of_a_disk_that_did_not_change_is_progress(world: World) -> None:
    open_and_feed(world, 0, 0)
    uid = only_run(world)["uid"]

    def beat(scanned: int) -> None:
        change(world, "UPDATE boot_point SET progress_at = now() - interval '1 hour'")
        disk = message.DiskProgress(
            slot="a",
            size_bytes=12 * GRAIN,
            scanned_bytes=scanned,
            changed_bytes=0,
            wire_bytes=0,
            credit_wait_seconds=0.0,
        )
        world.agents[0].link.send(message.Heartbeat(runs=[message.RunProgress(run=uid, disks=[disk])]))
        while world.take_in(0):
            pass
        world.reap()

    beat(GRAIN)
    beat(2 * GRAIN)
    assert point_state(world) == "open"
    beat(2 * GRAIN)
    assert point_state(world) == "aborting"


def test_an_offer_without_disks_opens_nothing(world: World) -> None:
    world.begin_run(0)
    talk_until_told(world)
    offer = message.Offer(
        run=only_run(world)["uid"],
        instant=datetime.now(UTC),
        consistency="fs",
        snapshot="none",
        disks=[],
        replicas=[],
    )
    world.agents[0].link.send(offer)
    while world.take_in(0):
        pass
    assert world.rows("SELECT 1 FROM boot_point") == []
    assert world.row("SELECT 1 FROM event WHERE kind = 'message_refused'") is not None


def talk_until_told(world: World) -> None:
    world.relay()
    while world.tasks:
        world.do_task(0, 0)
    while world.take_in(0):
        pass


def break_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    def candidates(*_: object) -> None:
        raise RuntimeError("a tracker with a mistake")

    monkeypatch.setattr(HashTracker, "candidates", candidates)


def break_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(*_: object) -> None:
        raise ValueError("a snapshot with a mistake")

    monkeypatch.setattr(Agent, "_choose", choose)


@pytest.mark.parametrize("mistake", [break_tracker, break_snapshot])
def test_a_mistake_at_the_agent_ends_its_run(
    installation: Fleet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mistake: Callable[[pytest.MonkeyPatch], None],
) -> None:
    job_id, _ = one_disk(installation, tmp_path, b"x" * MiB)
    mistake(monkeypatch)
    row = installation.wait(installation.run(job_id), state="failed", seconds=20)
    assert "mistake" in row["message"]


def one_disk(installation: Fleet, tmp_path: Path, content: bytes) -> tuple[int, Path]:
    disk = tmp_path / "system.raw"
    disk.write_bytes(content)
    installation.add_worker("w1")
    host_id = installation.add_host(f"fake-{tmp_path.name}")
    installation.add_agent("erp", [disk])
    return installation.add_job("erp", "erp", {"system": disk}, host_id), disk


def test_an_agent_hears_on_after_its_disk_was_full(
    installation: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "RESEND_SECONDS", 1.0)
    job_id, _ = one_disk(installation, tmp_path, b"x" * MiB)
    real, struck = AgentState.ended, threading.Event()

    def ended(self: AgentState) -> list[UUID]:
        if not struck.is_set():
            struck.set()
            raise OSError(28, "No space left on device")
        return real(self)

    monkeypatch.setattr(AgentState, "ended", ended)
    installation.wait(installation.run(job_id), seconds=30)
    assert struck.is_set()


def test_a_cancelled_run_stops_reading_the_source(
    installation: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, disk = one_disk(installation, tmp_path, b"y" * (60 * MiB))
    installation.wait(installation.run(job_id))
    source_type = type(producer_source(disk))
    real, reading = source_type.read, threading.Event()

    def slow(self: Source, offset: int, length: int) -> bytes:
        reading.set()
        time.sleep(0.5)  # as a slow disk takes
        return real(self, offset, length)

    monkeypatch.setattr(source_type, "read", slow)
    begun = installation.run(job_id)
    assert reading.wait(30)
    with installation.database.transaction() as connection:
        ending.cancel(connection, begun.id, actor="test")
    installation.wait(begun, state="cancelled")
    wait_for(lambda: not installation.agents["erp"]._runs, "the agent to let go of its snapshot", 10)


def producer_source(disk: Path) -> Source:
    from bootpoint_producer.sources import open_source

    source = open_source(disk)
    source.close()
    return source


def test_the_source_is_released_while_the_host_is_away(world: World) -> None:
    open_and_feed(world, 0, 2)
    world.host.disconnect_at("abort", "called", times=1000)
    world.cancel(0)
    talk(world, 0)
    assert point_state(world) == "aborting"
    assert world.agents[0].work is None


def test_a_host_that_reboots_does_not_cost_the_copy(world: World) -> None:
    open_and_feed(world, 0, 4)
    world.host.disconnect_at("open_writer", "called", times=8)
    for _ in range(8):
        change(world, "UPDATE outbox SET not_before = now()")
        world.relay()
        while world.tasks:
            world.do_task(0, 0)
    finish(world, 0)
    assert only_run(world)["state"] == "succeeded", only_run(world)["message"]


# --- one who holds up all the others


def test_a_message_that_nobody_takes_holds_up_no_other(world: World) -> None:
    with world.database.transaction() as connection:
        agents.enroll(connection, "gone", "fake", b"")
        key = world.vault.encrypt(agents.key_purpose("gone"), AgentKey(1, bytes(32)).secret)
        agents.joined(connection, "gone", 1, key, MACHINE)
        outbox.tell(connection, "gone", new_id(), message.Welcome(incarnation=new_id()))
    world.begin_run(0)
    finish(world, 0)
    assert only_run(world)["state"] == "succeeded", only_run(world)["message"]
    # It waits for its agent.
    assert world.row("SELECT agent FROM outbox") == {"agent": "gone"}


def offer_of(uid: UUID, *, instant: datetime, size: int) -> message.Offer:
    disks = [message.OfferDisk(slot="a", size_bytes=size)]
    return message.Offer(run=uid, instant=instant, consistency="fs", snapshot="none", disks=disks, replicas=[])


POISON: dict[str, Callable[[UUID, UUID], message.FromAgent]] = {
    "text with NUL": lambda uid, _: message.Report(
        run=uid, scripts=[message.ScriptResult(stage="after_point", exit_code=0, duration_seconds=1.0, output="a\0b")]
    ),
    "size beyond bigint": lambda uid, _: offer_of(uid, instant=datetime.now(UTC), size=2**63),
    "instant without zone": lambda uid, _: offer_of(uid, instant=datetime(2026, 1, 1), size=GRAIN),  # noqa: DTZ001
    "machine of another form": lambda _, incarnation: message.Hello(
        protocol=1, version="1", incarnation=incarnation, machine={"disk_serials": 5}
    ),
}


@pytest.mark.parametrize("kind", POISON)
def test_a_message_that_makes_no_sense_is_refused_once(world: World, kind: str) -> None:
    world.begin_run(0)
    talk_until_told(world)
    world.agents[0].link.send(POISON[kind](only_run(world)["uid"], world.agents[0].link.incarnation))
    assert world.take_in(0)
    assert not world.take_in(0)
    assert world.row("SELECT kind FROM event ORDER BY id DESC LIMIT 1") == {"kind": "message_refused"}


def test_an_agent_can_not_break_the_list_of_jobs(world: World) -> None:
    with world.database.transaction() as connection:
        asked = request.ask_agent(connection, "s0", "disks", {}, requested_by="test", seconds=30)
    world.agents[0].link.send(message.Answer(request=asked, answer={"items": 5}))
    while world.take_in(0):
        pass
    assert len(world.rows("SELECT name, unprotected_disks FROM v_job")) == 2
    assert world.row("SELECT inventory FROM agent WHERE name = 's0'") == {"inventory": None}


def test_a_slow_preflight_is_not_asked_for_again_and_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[int] = []

    def slow(*arguments: Any) -> Any:
        world.reap()
        waiting.append(len(world.rows("SELECT 1 FROM outbox WHERE kind = 'prepare'")))
        return real(*arguments)

    real = preflight
    monkeypatch.setattr(admission, "preflight", slow)
    world.begin_run(0)
    talk_until_told(world)
    assert waiting == [0]


def test_work_on_a_host_that_is_away_waits_between_attempts(world: World) -> None:
    open_and_feed(world, 0, 2)
    world.host.disconnect_at("abort", "called", times=1000)
    world.cancel(0)
    talk(world, 0)
    attempts = [step for step in world.host.trace if step == ("abort", "called")]
    for _ in range(5):
        world.reap()
        talk(world, 0)
    assert [step for step in world.host.trace if step == ("abort", "called")] == attempts


# --- the stream


def stream_messages(world: World) -> Any:
    (queue,) = world.broker._state.streams.values()
    return queue.messages


def slice_and_answer(world: World) -> None:
    """Let a slice work, and the agent do what it asks for, before anything new is published."""
    change(world, "UPDATE outbox SET not_before = now()")
    world.relay()
    while world.tasks:
        world.do_task(0, 0)
    talk(world, 0)
    for _ in range(4):
        world.agents[0].publish()


def test_a_bundle_that_the_broker_lost_is_asked_for(world: World) -> None:
    open_and_feed(world, 0, 3)
    messages = stream_messages(world)
    del messages[1]
    for _ in range(2):
        slice_and_answer(world)
        change(world, "UPDATE boot_point_disk SET gap_since = gap_since - interval '2 minutes'")
    slice_and_answer(world)
    finish(world, 0)
    assert only_run(world)["state"] == "succeeded", only_run(world)["message"]


def test_a_gap_is_filled_though_more_lies_beyond_it_than_a_slice_may_hold(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicate, "PREFETCH", 2)
    monkeypatch.setattr(arrival, "HELD_AHEAD", 1)
    open_and_feed(world, 0, 4)
    messages = stream_messages(world)
    messages.rotate(-1)
    first = messages.pop()
    late = messages.popleft()
    messages.appendleft(first)
    messages.append(late)
    slice_and_answer(world)
    finish(world, 0)
    assert only_run(world)["state"] == "succeeded", only_run(world)["message"]


def test_streams_are_deleted_after_the_broker_was_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise CarrierLost("away")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryWorkerCarrier, "delete_stream", away)
        world.begin_run(0)
        finish(world, 0)
    assert world.broker._state.streams
    change(world, "UPDATE boot_point SET ended_at = ended_at - interval '1 hour'")
    world.reap()
    assert not world.broker._state.streams


def test_the_digests_of_a_large_disk_are_recorded_at_once(world: World) -> None:
    open_and_feed(world, 0, 0)
    digests = {number: number.to_bytes(32) for number in range(65_536)}
    with world.database.transaction() as connection:
        row = world.row("SELECT id FROM boot_point_disk")
        assert row is not None
        disk = point.disk(connection, row["id"])
        assert disk is not None
        twice = [*digests.items(), (5, bytes(32)), (5, digests[5])]
        watermark.record(connection, disk, disk.writer, Watermark(1, 1, bytes(32), 1, segments=twice))
        stored = connection.execute("SELECT count(*) AS n FROM segment").fetchone()
        assert stored == {"n": 65_536}
        assert dict(segment.own_segments(connection, disk.id)) == digests


# --- what an agent keeps and sees


def test_a_commit_that_is_told_twice_leaves_the_next_point_alone(tmp_path: Path) -> None:
    state = AgentState(tmp_path)
    replica, first, second = new_id(), new_id(), new_id()
    state.map_path(replica, first, "a").write_bytes(b"map")
    state.keep_point(replica, first, {"a": (GRAIN, bytes(32))})
    assert state.adopt(replica, first)
    candidate = state.map_path(replica, second, "a")
    candidate.write_bytes(b"in the making")
    assert state.adopt(replica, first)
    assert candidate.exists()


def test_an_agent_learns_nothing_of_another_agents_run(world: World) -> None:
    open_and_feed(world, 0, 1)
    talk(world, 0)
    stranger = world.agents[1]
    world.relay()
    stranger.link.send(message.Heartbeat(runs=[message.RunProgress(run=only_run(world)["uid"])]))
    while world.take_in(0):
        pass
    rows = world.rows("SELECT payload FROM outbox WHERE agent = 's1'")
    told = [message.decode_to_agent(row["payload"]) for row in rows]
    assert [body for body in told if getattr(body, "point_id", None) is not None] == []


def test_a_broker_that_holds_publishers_back_holds_up_no_slice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    open_and_feed(world, 0, 3)
    change(world, "UPDATE outbox SET not_before = now()")
    world.relay()
    monkeypatch.setattr(MemoryWorkerCarrier, "blocked", True)
    monkeypatch.setattr(MemoryWorkerCarrier, "send", lambda *_: pytest.fail("a slice waited for the broker"))
    world.begin_slice(0)
    for _ in range(5):
        world.step_slice(0, 0)
    row = world.row("SELECT watermark_bytes FROM boot_point_disk")
    assert row is not None
    assert row["watermark_bytes"] > 0


def test_many_disks_hold_no_more_than_two(installation: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    real = StreamSender.open

    def counted(self: StreamSender, stream: UUID, *, hold_bytes: int, pace: Pace | None) -> Outlet:
        held.append(hold_bytes)
        return real(self, stream, hold_bytes=hold_bytes, pace=pace)

    monkeypatch.setattr(StreamSender, "open", counted)
    disks = {f"d{number}": tmp_path / f"d{number}.raw" for number in range(8)}
    for path in disks.values():
        path.write_bytes(b"z" * MiB)
    installation.add_worker("w1")
    host_id = installation.add_host(f"fake-{tmp_path.name}")
    installation.add_agent("erp", list(disks.values()))
    # Eight streams take turns on four slices: 13 s, and several times that where others work.
    installation.wait(installation.run(installation.add_job("erp", "erp", disks, host_id)), seconds=150.0)
    assert len(held) == 8
    assert sum(held) <= 2 * HOLD
