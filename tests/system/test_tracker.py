"""Runs of a disk whose writes are followed: what they look at, and what they say where the tracker is in doubt."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bootpoint_common.metric import FALLBACKS, SAMPLE_MISSES
from bootpoint_common.store.database import Row
from bootpoint_common.units import GRAIN, MiB
from bootpoint_producer.trackers.ebpf import program
from bootpoint_worker.targets.fake_host import FakeHost
from tests.service.component import need
from tests.service.fleet import Fleet, fleet
from tests.service.tracked import bpf_mount
from tests.service.tracker_workload import loop_device

#: Size of the disk: with 1,024 grains, of which each run compares 64.
SIZE = 64 * MiB


@dataclass
class Subject:
    """A protected loop device, and what its runs did."""

    fleet: Fleet
    device: Path
    file: Path
    pins: Path
    host: str
    rng: Random
    job: int = 0

    def write(self, grains: int, path: Path | None = None) -> None:
        """Write to some grains; to the device unless another path to its content is given."""
        with (path or self.device).open("r+b", buffering=0) as stream:
            for grain in self.rng.sample(range(SIZE // GRAIN), grains):
                stream.seek(grain * GRAIN)
                stream.write(self.rng.randbytes(512))
            os.fsync(stream.fileno())

    def run(self) -> Row:
        """Do a run whose point has to equal the source; return its only disk's row."""
        begun = self.fleet.run(self.job)
        self.fleet.wait(begun)
        row = self.fleet.row(
            "SELECT d.tracker, d.fallback, d.scanned_bytes, d.changed_bytes, p.id AS point, p.kind, p.replica_id"
            " FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id WHERE p.run_uid = %s",
            begun.uid,
        )
        assert row is not None
        held = FakeHost.at(self.host).content(row["replica_id"], row["point"], "system")
        assert held == self.file.read_bytes()
        return row


@pytest.fixture
def subject(database: str, tmp_path: Path, rng: Random, monkeypatch: pytest.MonkeyPatch) -> Iterator[Subject]:
    need("root", "loop", "bpf", "fio")
    file, host = tmp_path / "disk.img", f"fake-{tmp_path.name}"
    with (
        bpf_mount(tmp_path) as pins,
        loop_device(file, SIZE) as device,
        monkeypatch.context() as patch,
        fleet(database, tmp_path) as installation,
    ):
        patch.setattr(program, "PINS", pins)
        installation.add_worker("w1")
        made = Subject(installation, device, file, pins, host, rng)
        host_id = installation.add_host(host)
        made.write(100)
        installation.add_agent("erp", [device])
        made.job = installation.add_job("erp", "erp", {"system": device}, host_id)
        yield made


def outcome(row: Row) -> tuple[Any, ...]:
    return row["kind"], row["tracker"], row["fallback"]


def test_an_increment_costs_what_was_written_and_any_doubt_is_a_scan(subject: Subject) -> None:
    first = subject.run()
    assert outcome(first) == ("full", "hash", None)

    subject.write(20)
    second = subject.run()
    assert outcome(second) == ("increment", "ebpf", None)
    assert second["changed_bytes"] == 20 * GRAIN
    assert second["scanned_bytes"] == (20 + 64) * GRAIN

    # Writes while the agent is away are followed.
    subject.fleet.agents["erp"].stop()
    subject.write(7)
    subject.fleet.start_agent("erp", [subject.device])
    third = subject.run()
    assert (*outcome(third), third["changed_bytes"]) == ("increment", "ebpf", None, 7 * GRAIN)

    # The tracker is taken out of the kernel, and something is written that it doesn't hear.
    for link in subject.pins.glob("*/*-link"):
        link.unlink()
    subject.write(5)
    fourth = subject.run()
    assert (*outcome(fourth), fourth["changed_bytes"]) == ("increment", "hash", "tracker_lost", 5 * GRAIN)
    assert fourth["scanned_bytes"] == SIZE

    # And from then on it is believed again.
    subject.write(6)
    assert (*outcome(subject.run()),) == ("increment", "ebpf", None)


def test_a_write_past_the_tracker_is_found_by_the_sample_and_is_an_alert(subject: Subject) -> None:
    subject.run()
    subject.write(3)
    assert outcome(subject.run()) == ("increment", "ebpf", None)
    # Past the device: half of its grains, so that 64 of them can't all be others (odds of 2^-64).
    subject.write(SIZE // GRAIN // 2, subject.file)
    missed = subject.run()
    assert outcome(missed) == ("increment", "hash", "sample_miss")
    assert missed["changed_bytes"] == SIZE // 2
    (told,) = subject.fleet.rows("SELECT * FROM event WHERE kind = 'sample_miss'")
    assert "disk system had missed changes" in told["text"]
    assert told["details"] == {"slot": "system"}
    assert subject.fleet.counted(SAMPLE_MISSES, "erp") == 1
    assert subject.fleet.counted(FALLBACKS, "sample_miss") == 1
    subject.write(4)
    assert outcome(subject.run()) == ("increment", "ebpf", None)
