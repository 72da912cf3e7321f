"""A whole installation in processes of its own, for measuring: broker, database, libvirt, workers, an agent."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bootpoint_common.store.database import Row
from bootpoint_common.store.run import Run
from tests.bench.usage import CpuMeter
from tests.service.libvirt import LibvirtHost
from tests.service.postgres import PostgresServer
from tests.service.processes import Processes, processes
from tests.service.rabbitmq import RabbitServer

#: Names of the worker processes.
WORKERS = ("w1", "w2")

#: Name of the agent.
AGENT = "source"

#: Longest that one run may take, in seconds.
PATIENCE = 600.0


@dataclass(frozen=True, slots=True)
class Measured:
    """A copy that was made.

    Attributes:
        seconds: From the request until it was there.
        cpu_seconds: Of all processes that took part.
        parts: The processor seconds of each part of ours.
        phases: The seconds of each phase of ours.
    """

    seconds: float
    cpu_seconds: float
    parts: Mapping[str, float] = field(default_factory=dict)
    phases: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Rig:
    """The installation, and what the measurements do with it.

    Attributes:
        fleet: Its processes.
        broker: RabbitMQ.
        postgres: PostgreSQL.
    """

    fleet: Processes
    broker: RabbitServer
    postgres: PostgresServer

    def pids(self) -> dict[str, list[int]]:
        """Return the processes whose time counts, by part; the servers of layers come and go."""
        ours = {name: server.pid for name, server in self.fleet.running.items() if server.alive}
        return {
            "agent": [ours[AGENT]],
            "workers": [pid for name, pid in ours.items() if name in WORKERS],
            "RabbitMQ": [self.broker.server.pid],
            "PostgreSQL": [self.postgres.server.pid],
        }

    def copy(self, job: int) -> tuple[Measured, Run]:
        """Run a job, and measure from the request until the point is committed."""
        with CpuMeter(self.pids(), self.fleet.storage) as meter:
            began = time.monotonic()
            run = self.fleet.begin(job)
            self.fleet.succeeded(run, PATIENCE)
            seconds = time.monotonic() - began
        return Measured(seconds, meter.seconds, meter.by_part, self._phases(run)), run

    def _phases(self, run: Run) -> dict[str, float]:
        """Return how long a run's parts took: until its point was open, until it was sealed, until it was committed."""
        found = self.fleet.row(
            "SELECT extract(epoch FROM p.opened_at - r.due_at)::float8 AS before,"
            " extract(epoch FROM p.sealed_at - p.opened_at)::float8 AS stream,"
            " extract(epoch FROM p.committed_at - p.sealed_at)::float8 AS commit"
            " FROM boot_point p JOIN run r ON r.uid = p.run_uid WHERE p.run_uid = %s",
            run.uid,
        )
        assert found is not None
        return {"until open": found["before"], "stream": found["stream"], "commit": found["commit"]}

    def totals(self, run: Run) -> Row:
        """Return what a run's point says: ``wire_bytes``, ``changed_bytes``, ``scanned_bytes``, ``segments``."""
        found = self.fleet.row(
            "SELECT sum(d.wire_bytes)::bigint AS wire_bytes, sum(d.changed_bytes)::bigint AS changed_bytes,"
            " sum(d.scanned_bytes)::bigint AS scanned_bytes,"
            " (SELECT count(*) FROM segment s JOIN boot_point_disk e ON e.id = s.point_disk_id"
            "  JOIN boot_point q ON q.id = e.point_id WHERE q.run_uid = %s) AS segments"
            " FROM boot_point p JOIN boot_point_disk d ON d.point_id = p.id WHERE p.run_uid = %s",
            run.uid,
            run.uid,
        )
        assert found is not None
        return found

    def forget(self, run: Run) -> None:
        """Remove the files of a run's point, which nobody needs any more, for their memory's sake."""
        for file in self.fleet.disk_files(run.uid).values():
            file.unlink()


@contextmanager
def rig(storage: Path, sources: Sequence[Path]) -> Iterator[Rig]:
    """Start everything, and end it.

    Args:
        storage: Directory that replicas go to; its parents can be entered by guests.
        sources: Files that the agent may read.
    """
    with ExitStack() as stack:
        postgres = _postgres(stack)
        broker = stack.enter_context(closing(RabbitServer(_directory(stack, "rabbitmq"))))
        broker.start()
        libvirt = LibvirtHost(_directory(stack, "v"))
        stack.callback(libvirt.stop)
        libvirt.start()
        database = postgres.url(postgres.create_database())
        fleet = stack.enter_context(processes(database, broker.create_vhost(), libvirt, storage))
        for name in WORKERS:
            fleet.add_worker(name)
        fleet.add_agent(AGENT, sources)
        yield Rig(fleet, broker, postgres)


def _directory(stack: ExitStack, name: str) -> Path:
    made = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"bp-{name}-", ignore_cleanup_errors=True))
    Path(made).chmod(0o755)
    return Path(made)


def _postgres(stack: ExitStack) -> PostgresServer:
    """Start Debian's PostgreSQL, which a fleet would use."""
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"))
    server = PostgresServer(binaries=binaries, directory=_directory(stack, "postgres"), user="postgres")
    server.create()
    stack.callback(server.stop)
    server.start()
    server.make_logins()
    return server


@contextmanager
def scratch(on: Path) -> Iterator[Path]:
    """Make a directory that guests can enter, and remove it with all that is in it."""
    made = Path(tempfile.mkdtemp(prefix="bootpoint-bench-", dir=on))
    made.chmod(0o711)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
