"""Runs that are cancelled, in each of their stages: real processes over RabbitMQ, two workers, a snapshot that is real.

The source lies on a file system that shares blocks, so its snapshot is a nameless copy that the agent's process holds.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from bootpoint_common.store import run as runs
from bootpoint_common.store.database import Row
from bootpoint_common.units import MiB
from tests.integration.source.loop import run as shell
from tests.integration.source.loop import unmount
from tests.service.component import need
from tests.service.libvirt import LibvirtHost
from tests.service.postgres import PostgresServer
from tests.service.process import wait_for
from tests.service.processes import HOST, Processes, own_fleet
from tests.service.rabbitmq import RabbitServer

#: Seconds within which a cancelled run has let go of everything.
SOON = 5.0

SIZE = 16 * MiB

THROTTLED = "[limits]\nnice = 0\nnetwork_kb_per_second = [ { value = 512 } ]\n"


@dataclass
class Bench:
    """A fleet, and two disks on storage that shares blocks.

    Attributes:
        fleet: The processes.
        store: Where the disks lie.
        notes: Where scripts leave what they did.
        jobs: How many jobs were made.
    """

    fleet: Processes
    store: Path
    notes: Path
    jobs: int = 0

    @property
    def disks(self) -> dict[str, Path]:
        return {slot: self.store / f"{slot}.raw" for slot in ("system", "data")}

    def job(self, more: str) -> int:
        self.jobs += 1
        return self.fleet.add_job(f"erp-{self.jobs}", "erp", self.disks, more)

    def scripts(self, **texts: str) -> str:
        lines = [f"{stage} = {{ run = ['/bin/sh', '-c', '''{text}'''] }}\n" for stage, text in texts.items()]
        return "[scripts]\n" + "".join(lines)

    def snapshots(self) -> int:
        """Return how many nameless copies the agent holds."""
        found = 0
        for entry in Path(f"/proc/{self.fleet.running['erp'].pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(entry.readlink())
                found += target.startswith(str(self.store)) and target.endswith("(deleted)")
        return found

    def left_on_host(self) -> list[str]:
        """Return the layers that lie on the host beside those of committed points, and the servers of open ones."""
        query = (
            "SELECT d.layer FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id"
            " WHERE p.state <> 'committed' AND d.layer IS NOT NULL"
        )
        layers = [row["layer"] for row in self.fleet.rows(query)]
        found = [layer for layer in layers if any(self.fleet.storage.rglob(layer))]
        return found + [layer for layer in layers if self.fleet.layer_server(layer)]

    def streams(self) -> list[str]:
        """Return the streams that the broker still has."""
        listed = self.fleet.vhost.broker.ctl("list_queues", "-q", "-p", self.fleet.vhost.name, "name")
        return [name for name in listed.split() if name.startswith("stream.")]

    def cancel(self, begun: runs.Run) -> Row:
        """Cancel a run as an operator does, and measure when all of it is gone."""
        self.fleet.bootpoint("run", "cancel", str(begun.id))
        asked = self.fleet.row("SELECT * FROM event WHERE kind = 'cancel_requested' AND run = %s", begun.id)
        assert asked is not None
        gone = {
            "run": lambda: self.fleet.row("SELECT 1 FROM run WHERE uid = %s AND state = 'cancelled'", begun.uid),
            "snapshot": lambda: not self.snapshots(),
            "layers and servers": lambda: not self.left_on_host(),
            "streams": lambda: not self.streams(),
        }
        took = {what: self._seconds_until(what, look, asked) for what, look in gone.items()}
        assert max(took.values()) < SOON, took
        return asked

    def _seconds_until(self, what: str, look: Callable[[], object], asked: Row) -> float:
        wait_for(look, f"{what} to be gone", 60.0)
        return float(time.time() - asked["at"].timestamp())


@pytest.fixture(scope="module")
def bench(
    postgres_server: PostgresServer,
    template_database: str,
    rabbitmq_server: RabbitServer,
    libvirt_host: LibvirtHost,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Bench]:
    need("root", "loop", "xfs", "qemu-img", "qemu-nbd", "libnbd")
    directory = tmp_path_factory.mktemp("cancelled")
    image, store = directory / "store.img", directory / "store"
    shell("truncate", "--size", "400M", image)
    shell("mkfs.xfs", "-q", image)
    store.mkdir()
    shell("mount", "-o", "loop", image, store)
    with contextlib.ExitStack() as undo:
        undo.callback(unmount, store)
        made = undo.enter_context(own_fleet(postgres_server, template_database, rabbitmq_server, libvirt_host))
        (directory / "notes").mkdir()
        bench = Bench(made, store, directory / "notes")
        for path in bench.disks.values():
            path.write_bytes(os.urandom(SIZE))
        for name in ("w1", "w2"):
            made.add_worker(name)
        made.add_scheduler("scheduler")
        made.add_agent("erp", list(bench.disks.values()), snapshot="reflink")
        yield bench


def test_a_throttled_stream(bench: Bench, rng: Random) -> None:
    run = bench.fleet.begin(bench.job(THROTTLED))
    query = (
        "SELECT count(*) AS n FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id"
        " WHERE p.run_uid = %s AND d.watermark_bytes > 0 HAVING count(*) = 2"
    )
    bench.fleet.wait_for_row("both streams", query, run.uid)
    assert bench.snapshots() > 0
    assert bench.left_on_host()
    assert len(bench.streams()) == 2
    asked = bench.cancel(run)
    assert "@" in asked["actor"]
    assert asked["origin"] == "run cancel"
    assert bench.fleet.rows("SELECT 1 FROM boot_point WHERE state = 'committed'") == []


def test_a_script(bench: Bench) -> None:
    began = bench.notes / "began"
    scripts = bench.scripts(
        before_snapshot=f"touch {began}; sleep 300", after_snapshot=f"echo $BOOTPOINT_RUN > {bench.notes}/resumed"
    )
    run = bench.fleet.begin(bench.job(scripts))
    wait_for(began.exists, "the script")
    bench.cancel(run)
    wait_for((bench.notes / "resumed").exists, "what was paused to go on", SOON)
    told = "SELECT 1 FROM run WHERE uid = %s AND jsonb_array_length(scripts) = 2"
    bench.fleet.wait_for_row("both results in the run's log", told, run.uid)


def test_the_line(bench: Bench) -> None:
    bench.fleet.rows("UPDATE host SET max_open_points = 0 WHERE name = %s RETURNING id", HOST)
    try:
        run = bench.fleet.begin(bench.job(THROTTLED))
        in_line = "SELECT 1 FROM run WHERE uid = %s AND state = 'waiting' AND enqueued_at IS NULL"
        bench.fleet.wait_for_row("the run in the line", in_line, run.uid)
        bench.cancel(run)
    finally:
        bench.fleet.rows("UPDATE host SET max_open_points = 8 WHERE name = %s RETURNING id", HOST)


def test_a_script_that_kills_its_agent_leaves_nothing_paused(bench: Bench) -> None:
    killed, resumed = bench.notes / "killed", bench.notes / "resumed-after-all"
    scripts = bench.scripts(
        before_snapshot=f"touch {killed}; kill -9 $PPID", after_snapshot=f"echo $BOOTPOINT_RUN > {resumed}"
    )
    run = bench.fleet.begin(bench.job(scripts))
    wait_for(killed.exists, "the script")
    wait_for(lambda: not bench.fleet.running["erp"].alive, "the agent to be dead")
    assert not resumed.exists()
    bench.fleet.start_again("erp")
    wait_for(resumed.exists, "what was paused to go on")
    assert resumed.read_text() == f"{run.id}\n"
    told = "SELECT 1 FROM run WHERE uid = %s AND jsonb_array_length(scripts) = 1"
    bench.fleet.wait_for_row("the result in the run's log", told, run.uid)
    bench.cancel(run)


def test_a_run_after_all_that_is_right(bench: Bench) -> None:
    run = bench.fleet.begin(bench.job(""))
    bench.fleet.succeeded(run)
    assert bench.snapshots() == 0
    assert bench.left_on_host() == []
