"""A round of a fault test: a run is hit in its midst, goes on or is given up, and the next one shows that all is well.

::

    write, begin ──► open, 0 < watermark < total: hit ──► heal ──► committed, or aborted with its code
    write, begin ──► committed, at most 1.2 × the changed bytes sent ──► every new point equals its source
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest

from bootpoint_common.store.database import Row
from bootpoint_common.store.run import Run
from bootpoint_common.units import GRAIN, MiB
from tests.service.component import need
from tests.service.libvirt import LibvirtHost
from tests.service.postgres import PostgresServer
from tests.service.processes import Processes, own_fleet
from tests.service.rabbitmq import RabbitServer

#: Name of the agent.
AGENT = "source"

#: Size of the source.
SIZE = 256 * MiB

#: Bytes that the run writes that is to be hit: several times the distance between two watermarks, and more than the
#: credit window, so that neither the worker nor the agent is done when the first watermark is recorded.
LARGE = 160 * MiB

#: Bytes that change between a hit run and the one after it.
SMALL = 4 * MiB

#: What the next run may send beyond the changed bytes.
OVERHEAD = 1.2

_MIDST = (
    "SELECT p.id AS point_id, p.state, d.id AS disk_id, d.watermark_bytes, d.writer, d.layer, d.workers"
    " FROM boot_point p JOIN boot_point_disk d ON d.point_id = p.id WHERE p.run_uid = %s"
)


@dataclass
class Subject:
    """A source with its job, and what every point of it has to be.

    Attributes:
        fleet: The processes.
        agent: Name of its agent.
        source: The raw file.
        rng: Makes what is written.
        restart_database: Restarts PostgreSQL.
        job: Number of its job.
        copies: The source at the instant of each run, by run.
        hits: Watermark of each run when it was hit.
    """

    fleet: Processes
    agent: str
    source: Path
    rng: random.Random
    restart_database: Callable[[], None]
    job: int = 0
    copies: dict[UUID, Path] = field(default_factory=dict)
    hits: list[int] = field(default_factory=list)

    def make(self) -> None:
        """Make the file, the job and its first point, which is small: the source is empty at first."""
        with self.source.open("wb") as stream:
            stream.truncate(SIZE)
        self.job = self.fleet.add_job(self.source.stem, self.agent, {"system": self.source})
        self.write(SMALL)
        self.fleet.succeeded(self.begin())
        self.check()

    def write(self, count: int) -> set[int]:
        """Write random bytes, which no compression makes smaller, and return the numbers of the grains."""
        grains = self.rng.sample(range(SIZE // GRAIN), count // GRAIN)
        with self.source.open("r+b") as stream:
            for grain in grains:
                stream.seek(grain * GRAIN)
                stream.write(self.rng.randbytes(GRAIN))
        return set(grains)

    def begin(self) -> Run:
        """Copy the source, which stays as it is while the run lasts, and begin a run."""
        copy = self.source.with_suffix(f".{len(self.copies)}-{self.rng.randrange(1 << 32)}")
        shutil.copyfile(self.source, copy)
        run = self.fleet.begin(self.job)
        self.copies[run.uid] = copy
        return run

    def midst(self, run: Run) -> Row:
        """Wait until a run is in its midst, and return its disk: open, and some of it on the target for certain."""
        row = self.fleet.wait_for_row(
            f"the midst of run {run.id}", _MIDST + " AND p.state = 'open' AND d.watermark_bytes > 0", run.uid
        )
        self.hits.append(row["watermark_bytes"])
        return row

    def now(self, run: Run) -> Row:
        """Return a run's disk as it is now."""
        row = self.fleet.row(_MIDST, run.uid)
        assert row is not None
        return row

    def require_midst(self, run: Run) -> None:
        """Require that a run is in its midst still, now that it was hit."""
        row = self.now(run)
        assert row["state"] == "open", row["state"]
        assert 0 < row["watermark_bytes"] < LARGE, row["watermark_bytes"]

    def round(self, hit: Hit) -> None:
        """Do a round.

        Args:
            hit: The fault. It returns once everything runs again.
        """
        changed = self.write(LARGE)
        struck = self.begin()
        outcome = hit(self, struck)
        row = self.fleet.ended(struck)
        if outcome is None:
            assert row["state"] == "succeeded", f"{row['reason']}: {row['message']}\n{self.fleet.logs()}"
            changed = set()
        else:
            assert (row["state"], row["reason"]) == ("failed", outcome), row["message"]
        changed |= self.write(SMALL)
        after = self.begin()
        self.fleet.succeeded(after)
        assert self.fleet.wire_bytes(after.uid) <= OVERHEAD * len(changed) * GRAIN
        self.check()

    def check(self) -> None:
        """Compare every point that was committed since the last call with its source, and forget the copies."""
        for uid, copy in self.copies.items():
            for layer in self.fleet.disk_files(uid).values():
                subprocess.run(
                    ["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", str(layer), str(copy)], check=True
                )
            copy.unlink()
        self.copies.clear()


#: Strikes a run in its midst, heals, and returns the code that the run fails with; None when it is to succeed.
Hit = Callable[[Subject, Run], str | None]


def kill_agent(subject: Subject, run: Run) -> str | None:
    """The agent dies and is started anew: it has lost its snapshot, and the run is given up."""
    subject.midst(run)
    subject.fleet.running[subject.agent].kill()
    subject.require_midst(run)
    subject.fleet.start_again(subject.agent)
    return "agent_restarted"


def freeze_agent(subject: Subject, run: Run) -> str | None:
    """The agent stops in its tracks until the workers have nothing left to do."""
    subject.midst(run)
    agent = subject.fleet.running[subject.agent]
    agent.freeze()
    subject.require_midst(run)
    subject.fleet.wait_for_row("an idle slice", _MIDST + " AND d.idle >= 2", run.uid)
    agent.thaw()
    return None


def kill_worker(subject: Subject, run: Run) -> str | None:
    """The worker that writes dies; another one takes over once its claim has run out."""
    name = worker_of(subject, subject.midst(run))
    subject.fleet.running[name].kill()
    subject.require_midst(run)
    subject.fleet.ended(run)
    subject.fleet.start_again(name)
    return None


def freeze_worker(subject: Subject, run: Run) -> str | None:
    """The worker that writes stops in its tracks, and wakes up when another one has taken over."""
    before = subject.midst(run)
    worker = subject.fleet.running[worker_of(subject, before)]
    worker.freeze()
    subject.require_midst(run)
    taken = _MIDST + " AND (d.writer > %s OR p.state <> 'open')"
    subject.fleet.wait_for_row("the take-over", taken, run.uid, before["writer"])
    worker.thaw()
    return None


def worker_of(subject: Subject, disk: Row) -> str:
    """Return our name of the worker that applied a disk's first bytes."""
    (process_name,) = disk["workers"]
    return subject.fleet.worker_named(process_name)


def kill_nbd(subject: Subject, run: Run) -> str | None:
    """The server of the open layer dies."""
    os.kill(layer_server(subject, subject.midst(run)), signal.SIGKILL)
    subject.require_midst(run)
    return None


def freeze_nbd(subject: Subject, run: Run) -> str | None:
    """The server of the open layer stops in its tracks, while its worker renews its claim twice."""
    before = subject.midst(run)
    pid = layer_server(subject, before)
    os.kill(pid, signal.SIGSTOP)
    try:
        subject.require_midst(run)
        for _ in range(2):
            until = subject.fleet.row("SELECT writer_until AS at FROM boot_point_disk WHERE id = %s", before["disk_id"])
            assert until is not None
            renewed = "SELECT 1 AS yes FROM boot_point_disk WHERE id = %s AND writer_until > %s"
            subject.fleet.wait_for_row("a renewed claim", renewed, before["disk_id"], until["at"])
    finally:
        os.kill(pid, signal.SIGCONT)
    return None


def layer_server(subject: Subject, disk: Row) -> int:
    """Return the pid of the qemu-nbd of an open layer."""
    pid = subject.fleet.layer_server(disk["layer"])
    assert pid, "the layer has no server"
    return pid


def kill_relay(subject: Subject, run: Run) -> str | None:
    """The scheduler dies; the workers' own relays go on."""
    subject.midst(run)
    subject.fleet.running["scheduler"].kill()
    subject.require_midst(run)
    subject.fleet.start_again("scheduler")
    return None


def freeze_relay(subject: Subject, run: Run) -> str | None:
    """The scheduler stops in its tracks for as long as the run lasts."""
    subject.midst(run)
    scheduler = subject.fleet.running["scheduler"]
    scheduler.freeze()
    subject.require_midst(run)
    subject.fleet.ended(run)
    scheduler.thaw()
    return None


def restart_broker(subject: Subject, run: Run) -> str | None:
    """RabbitMQ is restarted; everybody connects anew."""
    subject.midst(run)
    subject.require_midst(run)
    subject.fleet.vhost.broker.restart()
    return None


def kill_broker(subject: Subject, run: Run) -> str | None:
    """RabbitMQ dies and is started anew."""
    subject.midst(run)
    subject.require_midst(run)
    subject.fleet.vhost.broker.kill()
    subject.fleet.vhost.broker.start()
    return None


def restart_database(subject: Subject, run: Run) -> str | None:
    """PostgreSQL is restarted: every connection is cut."""
    subject.midst(run)
    subject.require_midst(run)
    subject.restart_database()
    return None


#: Every fault, by its name.
HITS: dict[str, Hit] = {
    "agent-killed": kill_agent,
    "agent-frozen": freeze_agent,
    "worker-killed": kill_worker,
    "worker-frozen": freeze_worker,
    "qemu-nbd-killed": kill_nbd,
    "qemu-nbd-frozen": freeze_nbd,
    "relay-killed": kill_relay,
    "relay-frozen": freeze_relay,
    "rabbitmq-restarted": restart_broker,
    "rabbitmq-killed": kill_broker,
    "postgresql-restarted": restart_database,
}


@dataclass(frozen=True, slots=True)
class Ring:
    """A fleet that rounds of every fault share: two workers, a scheduler, and an agent with a source for each fault."""

    fleet: Processes
    directory: Path
    restart_database: Callable[[], None]

    def subject(self, fault: str, rng: random.Random) -> Subject:
        """Return the subject of a fault, with its first point."""
        self.fleet.mend()
        made = Subject(self.fleet, AGENT, self.directory / f"{fault}.raw", rng, self.restart_database)
        made.make()
        return made


@pytest.fixture(scope="module")
def ring(
    postgres_server: PostgresServer,
    template_database: str,
    rabbitmq_server: RabbitServer,
    libvirt_host: LibvirtHost,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Ring]:
    """The fleet of a module's rounds."""
    need("qemu-img", "qemu-nbd", "libnbd")
    directory = tmp_path_factory.mktemp("sources")
    with own_fleet(postgres_server, template_database, rabbitmq_server, libvirt_host) as fleet:
        fleet.add_worker("w1")
        fleet.add_worker("w2")
        fleet.add_scheduler("scheduler")
        fleet.add_agent(AGENT, [directory / f"{fault}.raw" for fault in HITS])
        yield Ring(fleet, directory, postgres_server.restart)
