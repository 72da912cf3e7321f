"""What a run may take of its machine: right within 5 % over 10 s, over all its disks, whatever changes meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.job import limits_of
from bootpoint_common.stream.memory import MemoryBroker, MemoryWorkerCarrier
from bootpoint_common.stream.sender import Outlet, StreamSender
from bootpoint_common.units import GRAIN, KiB, MiB
from bootpoint_producer.limit import LOOK_SECONDS, Metered, RunLimits
from bootpoint_producer.priority import Priority, io_priority
from bootpoint_producer.sources import open_source
from tests.service.component import need
from tests.service.load import Load

ALL = 1 << 60

#: A day in Rome without a change of the clock.
NOON = datetime(2026, 11, 26, 11, 0, tzinfo=UTC)

#: How far a rate may be off over 10 s.
TOLERANCE = 0.05


def limits(network: int | list[dict[str, Any]] = 0, *, read: int = 0, nice: int = 0) -> dict[str, Any]:
    rates = [{"value": network}] if isinstance(network, int) else network
    return {"nice": nice, "read_bytes_per_second": read, "network_kb_per_second": rates}


class Line:
    """Some streams of one run over one connection, on a clock that passes when told."""

    def __init__(self, asked: dict[str, Any], *, streams: int = 3, start: datetime = NOON, **more: bool) -> None:
        self.now = 0.0
        self.start = start
        self.limits = RunLimits(now=lambda: self.start + timedelta(seconds=self.now), clock=lambda: self.now, **more)
        self.limits.change(asked, "Europe/Rome", 1)
        self.sent: dict[UUID, int] = {}
        broker = MemoryBroker()
        self.worker: MemoryWorkerCarrier = broker.worker_carrier()
        self.sender = StreamSender(connect=broker.agent_carrier("erp").publisher, clock=lambda: self.now)
        self.outlets: list[tuple[Outlet, Any]] = []
        for _ in range(streams):
            stream = uuid4()
            self.worker.declare_stream("erp", stream, 1 << 30)
            outlet = self.sender.open(stream, pace=self.limits)
            outlet.allow(ALL)
            self.outlets.append((outlet, self.worker.consume(stream, 0)))
            self.sent[stream] = 0

    def go(self, seconds: float, *, offering: bool = True) -> int:
        """Let time pass, with everything offered that can be; return what came through."""
        before = sum(self.sent.values())
        end = self.now + seconds
        while self.now < end:
            for outlet, consumer in self.outlets:
                body = bytes(self.limits.bundle_bytes())
                while offering and outlet.offer(body, outlet._window.offered_offset + len(body), 0):
                    pass
                while (delivery := consumer.get(0)) is not None:
                    self.sent[outlet.stream] += len(delivery.body)
                    consumer.ack(delivery.tag)
            for _ in range(2 * len(self.outlets)):
                self.sender.step(0)
            self.now += 0.01
        return sum(self.sent.values()) - before


@pytest.mark.parametrize("kb", [400, 1000, 4096, 20480])
def test_what_several_disks_send_is_right_within_5_percent_over_10_seconds(kb: int) -> None:
    line = Line(limits(kb))
    for _ in range(3):
        assert line.go(10) == pytest.approx(kb * KiB * 10, rel=TOLERANCE)
    shares = sorted(line.sent.values())
    assert shares[-1] - shares[0] <= MiB, "one disk waits for another"
    line.sender.close()


def test_what_is_sent_again_counts() -> None:
    line, rate = Line(limits(1000), streams=1), 1000 * KiB
    ((outlet, _),) = line.outlets
    body = bytes(line.limits.bundle_bytes())
    for number in range(8 * rate // len(body)):
        outlet.offer(body, (number + 1) * len(body))
    line.go(9, offering=False)
    assert outlet.wait_drained(0)
    outlet.resend_from(0)
    assert line.go(5, offering=False) == outlet.republished_bytes
    assert 4.5 * rate < outlet.republished_bytes < 5.5 * rate
    line.sender.close()


def test_a_new_limit_holds_from_now_on_and_an_older_one_never() -> None:
    line = Line(limits(1000))
    line.go(5)
    line.limits.change(limits(4000), "Europe/Rome", 3)
    assert line.go(10) == pytest.approx(4000 * KiB * 10, rel=TOLERANCE)
    line.limits.change(limits(100), "Europe/Rome", 2)
    assert line.limits.revision == 3
    assert line.go(10) == pytest.approx(4000 * KiB * 10, rel=TOLERANCE)
    line.limits.change(limits(0), "Europe/Rome", 4)
    assert line.go(1) > 40 * MiB
    line.sender.close()


def test_the_calendar_changes_the_rate_in_the_midst_of_a_run() -> None:
    day = [{"from": "08:00", "to": "12:00", "value": 1000}, {"from": "12:00", "to": "18:00", "value": 4000}]
    line = Line(limits(day), start=NOON - timedelta(seconds=10))  # 11:59:50 in Rome
    assert line.go(10) == pytest.approx(1000 * KiB * 10, rel=TOLERANCE)
    line.go(LOOK_SECONDS)
    assert line.go(10) == pytest.approx(4000 * KiB * 10, rel=TOLERANCE)
    line.sender.close()


@pytest.mark.parametrize(
    ("instant", "kb"),
    [
        ("2026-03-29T00:59:59Z", 100),  # 01:59:59; the clock goes from 02:00 to 03:00 now
        ("2026-03-29T01:00:00Z", 300),  # 03:00
        ("2026-10-24T23:59:59Z", 100),  # 01:59:59
        ("2026-10-25T00:00:00Z", 200),  # 02:00 for the first time
        ("2026-10-25T00:59:59Z", 200),
        ("2026-10-25T01:00:00Z", 200),  # 02:00 for the second time
        ("2026-10-25T01:59:59Z", 200),
        ("2026-10-25T02:00:00Z", 300),  # 03:00
        ("2026-07-01T21:59:59Z", 300),
        ("2026-07-01T22:00:00Z", 100),  # midnight
    ],
)
def test_parts_of_the_day_go_by_the_clock_on_the_wall(instant: str, kb: int) -> None:
    day = limits_of(
        limits(
            [
                {"from": "00:00", "to": "02:00", "value": 100},
                {"from": "02:00", "to": "03:00", "value": 200},
                {"value": 300},
            ]
        )
    )
    assert day.network_at(datetime.fromisoformat(instant), ZoneInfo("Europe/Rome")) == kb * KiB


def test_nothing_is_limited_before_the_machine_stops() -> None:
    line = Line(limits(1000, read=1000, nice=19), last_breath=True)
    assert line.go(1) > 40 * MiB
    assert line.limits.reading.bytes_per_second == 0
    line.sender.close()


def test_a_zone_that_the_machine_does_not_know_is_named() -> None:
    with pytest.raises(BootpointError, match="Europe/Atlantis") as caught:
        RunLimits().change(limits(1000), "Europe/Atlantis", 1)
    assert caught.value.code is Code.SPEC_INVALID


# --- in real time


def test_real_streams_and_disks_keep_to_their_rates(tmp_path: Path) -> None:
    rate, seconds = 2 * MiB, 3.0
    disk = tmp_path / "disk.raw"
    disk.write_bytes(os.urandom(MiB))
    run = RunLimits()
    run.change(limits(rate // KiB, read=rate), None, 1)
    # What passes at once weighs more in 3 s than in 10.
    read, taken = Load(run, disk, disks=2, streams=3).measure(seconds)
    assert read == pytest.approx(rate, rel=TOLERANCE * 10 / seconds)
    assert taken == pytest.approx(rate, rel=TOLERANCE * 10 / seconds)


def test_a_read_is_whole_however_small_its_pieces(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    content = os.urandom(MiB + 512)
    disk.write_bytes(content)
    run = RunLimits()
    run.change(limits(read=5 * MiB), None, 1)
    source = Metered(open_source(disk), run, threading.Event())
    assert source.read(0, MiB) == content[:MiB]
    assert source.read(GRAIN, MiB - GRAIN + 512) == content[GRAIN:]
    assert source.read(5, 0) == b""
    source.close()


# --- priority


def in_a_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def nice_of(thread: int) -> int:
    """Return what the kernel says of a thread (proc(5), /proc/pid/stat, field 19)."""
    return int(Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()[16])


def test_each_thread_stands_back_by_itself_and_the_process_does_not() -> None:
    need("root")
    own = nice_of(os.getpid())
    priority = Priority(own + 3)

    def look() -> tuple[int, int]:
        priority.heed()
        before = nice_of(threading.get_native_id())
        priority.nice = own + 1
        priority.heed()
        return before, nice_of(threading.get_native_id())

    assert in_a_thread(look) == (own + 3, own + 1)
    assert nice_of(os.getpid()) == own


def test_the_disks_follow_the_nice_value() -> None:
    best_effort, idle = 2, 3
    levels = {nice: divmod(io_priority(nice), 1 << 13) for nice in (0, 10, 18, 19)}
    assert levels == {0: (best_effort, 4), 10: (best_effort, 6), 18: (best_effort, 7), 19: (idle, 0)}


def test_nobody_gets_ahead_of_the_process() -> None:
    least = os.getpriority(os.PRIO_PROCESS, os.getpid())
    priority = Priority(0)

    def look() -> int:
        priority.heed()
        return nice_of(threading.get_native_id())

    assert in_a_thread(look) == max(least, 0)
