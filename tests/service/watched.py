"""An installation that Prometheus watches: real jobs over RabbitMQ on fake hosts, and what can go wrong there."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pika
from psycopg.types.json import Jsonb

from bootpoint_common import job as jobs
from bootpoint_common.keyplace import KeyPlace
from bootpoint_common.store import kept, trial, verification
from bootpoint_common.store.database import Database
from bootpoint_common.store.database import run as execute
from bootpoint_common.store.point import Point
from bootpoint_common.stream.rabbit import agent_permissions
from bootpoint_common.units import GRAIN, MiB
from bootpoint_ops.environment import open_vault
from bootpoint_worker import consolidation
from bootpoint_worker.targets.fake_host import FakeHost
from bootpoint_worker.targets.sight import Sight
from tests.service.fleet import Fleet
from tests.service.process import Server, free_port
from tests.service.prometheus import Prometheus, prometheus
from tests.service.rabbit_fleet import RabbitBroker, rabbit_broker
from tests.service.rabbitmq import VirtualHost
from tests.service.web_server import Receiver, receiver

#: Programs of the installation under test.
_PROGRAMS = Path(sys.executable).parent

#: Size of each disk.
SIZE = 32 * MiB

#: Window of a stream: some bundles, and less than what is sent to a slow host, whose source has to wait.
WINDOW = 8 * MiB

#: An objective that no test breaks.
WIDE = {"point": "4d", "bootable": "4d"}

#: Seconds that each flush of a slow host takes.
_SLOW_SECONDS = 10.0


@dataclass
class Watched:
    """The installation.

    Attributes:
        fleet: Workers, agents and hosts, as threads of this process.
        vhost: Its virtual host.
        broker: The same, as the fleet's.
        rng: Randomness of what is written.
        environment: That of its commands and processes.
        receiver: Takes webhooks.
        running: Processes of their own: the exporter, and a worker of another pool.
        jobs: Numbers of the jobs by name; each has an agent, a disk and a host of that name.
        disks: The disk of each.
        fast: Set when slow hosts are to be fast again.
    """

    fleet: Fleet
    vhost: VirtualHost
    broker: RabbitBroker
    rng: Random
    environment: dict[str, str]
    receiver: Receiver
    running: dict[str, Server] = field(default_factory=dict)
    jobs: dict[str, int] = field(default_factory=dict)
    disks: dict[str, Path] = field(default_factory=dict)
    fast: threading.Event = field(default_factory=threading.Event)
    _watch: Prometheus | None = None

    @property
    def watch(self) -> Prometheus:
        """Who watches."""
        assert self._watch is not None
        return self._watch

    # --- making

    def start(self, name: str, words: list[str], says: str, *, metrics: int) -> None:
        """Start a process of its own that serves metrics at a port."""
        log = self.fleet.directory / f"{name}.log"
        before = log.stat().st_size if log.exists() else 0
        environment = {**self.environment, "BOOTPOINT_METRICS": f"127.0.0.1:{metrics}"}
        server = Server([str(_PROGRAMS / "bootpoint"), *words], log=log, environment=environment)
        self.running[name] = server
        server.start(lambda: says.encode() in log.read_bytes()[before:], name)

    def add_workers(self) -> None:
        """Start a worker that is a scheduler, too, and a process that serves another pool."""
        self.fleet.add_worker("w1", kind="up", window_bytes=WINDOW, slices=4, tasks_url=self.vhost.url)
        self.start("worker", ["worker", "--pool", "kvm"], "worker serves", metrics=free_port())

    def stop_workers(self) -> None:
        """End the one in order, and let the other one crash."""
        self.running["worker"].stop(signal.SIGKILL)
        for service in self.fleet.services:
            self.fleet.stop(service)
        self.fleet.services.clear()

    def add_job(self, name: str, disk: Path, *, points: int = 14) -> None:
        """Make a host, an agent and a job of one name."""
        self.disks[name] = disk
        host_id = self.fleet.add_host(self.host(name).name)
        self.fleet.add_agent(name, [disk])
        target = {"points": points}
        self.jobs[name] = self.fleet.add_job(name, name, {"system": disk}, host_id, target=target)
        self.set(name, objective=WIDE)

    def host(self, name: str) -> FakeHost:
        """Return the host of a job."""
        return FakeHost.at(f"host-{name}-{self.fleet.directory.name}")

    # --- doing

    def bootpoint(self, *words: str) -> str:
        """Run a command of the control plane, and return what it prints."""
        done = subprocess.run(
            [str(_PROGRAMS / "bootpoint"), *words], env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def execute(self, query: str, *arguments: object) -> None:
        """Change rows."""
        with self.fleet.database.transaction() as connection:
            execute(connection, query, *arguments)

    def set(self, name: str, **parts: Any) -> None:
        """Give parts of a job other values, as its file would."""
        row = self.fleet.row("SELECT spec FROM job WHERE id = %s", self.jobs[name])
        assert row is not None
        spec = jobs.as_json(jobs.read_json({**row["spec"], **parts}))
        self.execute("UPDATE job SET spec = %s WHERE id = %s", Jsonb(spec), self.jobs[name])

    def write(self, name: str, grains: int, path: Path | None = None) -> None:
        """Write to some grains of a job's disk, or of another path to its content."""
        with (path or self.disks[name]).open("r+b", buffering=0) as stream:
            for grain in self.rng.sample(range(SIZE // GRAIN), grains):
                stream.seek(grain * GRAIN)
                stream.write(self.rng.randbytes(GRAIN))
            os.fsync(stream.fileno())

    def run(self, name: str, *, state: str = "succeeded") -> None:
        """Do a run of a job."""
        self.fleet.wait(self.fleet.run(self.jobs[name]), state=state, seconds=120)

    def points(self, name: str) -> list[Point]:
        """Return a job's points, oldest first."""
        return self.fleet.points(self.jobs[name])

    def check(self, name: str) -> str:
        """Do a boot check of the newest point, and return its verdict."""
        made = self.points(name)[-1]
        with self.fleet.database.transaction() as connection:
            uid = trial.create(connection, made, "check", requested_by="test", seconds=600.0).id
        row = self.fleet.wait_until(
            lambda: self.fleet.row("SELECT state FROM test_vm WHERE id = %s AND state = 'ended'", uid)
        )
        assert row is not None
        found = self.fleet.row("SELECT boot->>'verdict' AS verdict FROM boot_point WHERE id = %s", made.id)
        assert found is not None
        return str(found["verdict"])

    def verify(self, name: str) -> str:
        """Verify the newest point, and return the result."""
        with self.fleet.database.transaction() as connection:
            asked = verification.ask(connection, self.points(name)[-1].id, requested_by="test", budgeted=False)
        query = "SELECT result FROM verification WHERE id = %s AND ended_at IS NOT NULL"
        return str(self.fleet.wait_until(lambda: self.fleet.row(query, asked))["result"])

    def panic(self, name: str, *, until: bool = False) -> None:
        """Let the standby's kernel panic at each boot, or no more."""
        self.host(name).sights.pop(f"{name}-standby", None)
        if not until:
            sight = Sight(state="running", picture=b"\x89PNG", serial="[ 9.0] Kernel panic - not syncing: VFS\n")
            self.host(name).sights[f"{name}-standby"] = [sight]

    def rot(self, name: str, grain: int) -> None:
        """Let the storage change a byte of the newest point."""
        made = self.points(name)[-1]
        self.host(name).rot(made.replica_id, made.id, "system", grain * GRAIN + 77)

    def pin(self, name: str) -> None:
        """Pin every point, as a merge would find them."""
        with self.fleet.database.transaction() as connection:
            for made in self.points(name):
                kept.pin(connection, made.id, reason="audit", user="test", until=None)
            consolidation.after(connection, self.points(name)[-1].replica_id, most=22)

    def unpin(self, name: str) -> None:
        """Let go of every point."""
        with self.fleet.database.transaction() as connection:
            for made in self.points(name):
                kept.unpin(connection, made.id)

    def fill(self, name: str, share: float) -> None:
        """Let a storage have this share free, and have the host asked."""
        host = self.host(name)
        used = host.storages["default"] - host.free_bytes("default")
        host.storages["default"] = int(used / (1 - share)) + 1
        self.bootpoint("host", "check", host.name)

    def publish_rubbish(self, name: str, times: int) -> None:
        """Publish what nobody can open, with an agent's login and under its own key."""
        url = self.broker.login("stolen", agent_permissions(name))
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            for _ in range(times):
                channel.basic_publish("bp.agent", f"{name}.control.fake", self.rng.randbytes(200))

    def slow(self, name: str) -> None:
        """Make a host so slow that its source waits all the time, and begin a run to it."""
        self.write(name, SIZE // GRAIN // 2)

        def wait(_session: object) -> None:
            self.fast.wait(_SLOW_SECONDS)

        self.host(name).act_at("flush", "called", wait, times=1000)
        self.fleet.run(self.jobs[name])

    def close(self) -> None:
        """End everything."""
        for server in self.running.values():
            server.stop()
        self.fleet.close()
        # Connections to a broker that went away are left to the garbage collector by dramatiq, with their sockets.
        self.fleet.services.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@contextmanager
def watched(database: str, vhost: VirtualHost, directory: Path, rng: Random) -> Iterator[Watched]:
    """Make an installation with its exporter, and Prometheus over it."""
    state = directory / "state"
    state.mkdir()
    vault = open_vault(KeyPlace.in_state(state), create=True)
    with ExitStack() as stack:
        broker = stack.enter_context(rabbit_broker(vhost))
        fleet = Fleet(Database(database, size=16), broker, vault, directory)
        made = Watched(
            fleet=fleet, vhost=vhost, broker=broker, rng=rng, receiver=stack.enter_context(receiver()),
            environment={
                "PATH": f"{_PROGRAMS}:{os.environ['PATH']}", "HOME": str(directory), "LC_ALL": "C.UTF-8",
                "PYTHONDONTWRITEBYTECODE": "1", "BOOTPOINT_DATABASE_URL": database, "BOOTPOINT_BROKER_URL": vhost.url,
                "BOOTPOINT_STATE": str(state),
            },
        )  # fmt: skip
        stack.callback(made.close)
        port = free_port()
        made.start("exporter", ["exporter"], "exporter runs", metrics=port)
        ports = {"exporter": port, "broker": vhost.broker.metrics_port}
        made._watch = stack.enter_context(prometheus(directory, ports))
        yield made
