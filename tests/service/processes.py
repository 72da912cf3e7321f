"""A fleet of real processes: workers, schedulers and agents over RabbitMQ, PostgreSQL and a KVM host on this machine.

Everything is done as an operator does it, by the command line, apart from the row of the host (its libvirtd has a
socket of its own) and from the start of a run, which tests do in a loop.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from bootpoint_common.identity import new_id
from bootpoint_common.metric import Metric
from bootpoint_common.store import count
from bootpoint_common.store import run as runs
from bootpoint_common.store.database import Database, Row, one, rows
from bootpoint_common.store.database import run as execute
from bootpoint_common.store.role import Role
from tests.service.libvirt import LibvirtHost
from tests.service.postgres import PostgresServer, url_as
from tests.service.process import PATIENCE, Server, run, wait_for
from tests.service.rabbitmq import RabbitServer, VirtualHost
from tests.service.wrong_clock import wrong_clock

#: Programs of the installation under test.
_PROGRAMS = Path(sys.executable).parent

#: Pool of every process here.
POOL = "kvm"

#: Name of the host's row.
HOST = "kvm1"


@dataclass
class Processes:
    """The processes, and what tests ask of them and of the database.

    Attributes:
        database: The truth.
        vhost: The virtual host that they talk through.
        libvirt: Where the standbys are defined.
        storage: Where the replicas' files go; guests can enter it.
        directory: State, configurations and logs.
        running: Every process that was started, by name.
        clocks: Seconds that the clock of a process is ahead of ours, by its name.
        login: The login of the database that all processes share; None lets each log in under its role.
    """

    database: Database
    vhost: VirtualHost
    libvirt: LibvirtHost
    storage: Path
    directory: Path
    running: dict[str, Server] = field(default_factory=dict)
    clocks: dict[str, int] = field(default_factory=dict)
    login: str | None = None
    _again: dict[str, Callable[[], Server]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(self.directory),
            "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "BOOTPOINT_DATABASE_URL": self.database.url,
            "BOOTPOINT_BROKER_URL": self.vhost.url,
            "BOOTPOINT_STATE": str(self.directory / "state"),
            "BOOTPOINT_METRICS": "127.0.0.1:0",
        }

    # --- processes

    def bootpoint(self, *words: str) -> Any:
        """Run a command of the control plane to its end, and return its JSON.

        Raises:
            RuntimeError: It failed; the message holds its output.
        """
        environment = self.environment if words[0] == "db" else self.under(Role.CONSOLE)
        return json.loads(run([str(_PROGRAMS / "bootpoint"), *words, "-o", "json"], environment=environment))

    def under(self, role: Role) -> dict[str, str]:
        """Return the environment of a process that logs in to the database under a role."""
        return self.environment | {"BOOTPOINT_DATABASE_URL": self.login or url_as(self.database.url, role)}

    def add_worker(self, name: str, *, slices: int = 4) -> Server:
        """Start a worker process."""
        words = ["worker", "--pool", POOL, "--slices", str(slices)]
        return self._start(name, [str(_PROGRAMS / "bootpoint"), *words], "worker serves", self.under(Role.WORKER))

    def add_scheduler(self, name: str) -> Server:
        """Start a scheduler process."""
        words = [str(_PROGRAMS / "bootpoint"), "scheduler"]
        return self._start(name, words, "scheduler runs", self.under(Role.SCHEDULER))

    def add_exporter(self, name: str) -> Server:
        """Start an exporter process."""
        words = [str(_PROGRAMS / "bootpoint"), "exporter"]
        return self._start(name, words, "exporter runs", self.under(Role.EXPORTER))

    def add_agent(self, name: str, files: Sequence[Path], *, snapshot: str = "none") -> Server:
        """Enroll an agent, let it join, and start it; a worker must run."""
        self.configure_agent(name, files, snapshot=snapshot)
        self.agent_command(name, "join", "-", text=self.enroll(name))
        return self.start_agent(name)

    def enroll(self, name: str) -> str:
        """Enroll an agent, give it its login at the broker, and return the token."""
        item = self.bootpoint("agent", "enroll", name, "--pool", POOL)["items"][0]
        for command in item["broker_commands"]:
            self.vhost.broker.paste(command)
        return str(item["token"])

    def configure_agent(self, name: str, files: Sequence[Path], *, snapshot: str = "none") -> None:
        """Write an agent's configuration: the files that may be sources, and how they are held still."""
        listed = ", ".join(json.dumps(f"file:{file}") for file in files)
        self._agent_file(name).write_text(f'files = [{listed}]\nsnapshot = "{snapshot}"\n')

    def agent_words(self, name: str, *words: str) -> list[str]:
        """Return the call of an agent's program with its configuration and state."""
        place = ["--config", str(self._agent_file(name)), "--state", str(self.agent_state(name))]
        return [str(_PROGRAMS / "bootpoint-agent"), *words, *place]

    def agent_command(self, name: str, *words: str, text: str | None = None) -> str:
        """Run one of an agent's commands to its end, and return what it prints.

        Raises:
            RuntimeError: It failed; the message holds its output.
        """
        return run(self.agent_words(name, *words), environment=self.environment, text=text)

    def start_agent(self, name: str) -> Server:
        """Start an agent that has joined."""
        return self._start(name, self.agent_words(name, "run"), "runs; SIGTERM ends it", self.environment)

    def agent_state(self, name: str) -> Path:
        """Return an agent's state directory."""
        return self.directory / f"agent-{name}"

    def _agent_file(self, name: str) -> Path:
        return self.directory / f"agent-{name}.toml"

    def _start(self, name: str, command: Sequence[str], says: str, environment: Mapping[str, str]) -> Server:
        log = self.directory / f"{name}.log"
        before = log.stat().st_size if log.exists() else 0
        server = Server(command, log=log, environment={**environment, **self._clock(name)})
        self.running[name] = server
        self._again[name] = lambda: self._start(name, command, says, environment)
        server.start(lambda: says.encode() in log.read_bytes()[before:], name)
        return server

    def _clock(self, name: str) -> dict[str, str]:
        """Return the environment of a process whose clock is wrong."""
        if name not in self.clocks:
            return {}
        return wrong_clock(self.directory, self.clocks[name])

    def start_again(self, name: str) -> Server:
        """Start a process that has ended, with the words that it had."""
        return self._again[name]()

    def mend(self) -> None:
        """Let every process run that was ever started, whatever an earlier test did to it."""
        for name, server in list(self.running.items()):
            if server.alive:
                server.thaw()
            else:
                self.start_again(name)

    def worker_named(self, process_name: str) -> str:
        """Return our name of the worker that rows call ``worker@<machine>:<pid>``."""
        pid = int(process_name.rpartition(":")[2])
        return next(name for name, server in self.running.items() if server.alive and server.pid == pid)

    def scrape(self, name: str, path: str = "metrics") -> str:
        """Read what a process serves to Prometheus."""
        port = re.findall(r"^metrics on http://127\.0\.0\.1:(\d+)/", self.running[name].log.read_text(), re.MULTILINE)[
            -1
        ]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/{path}", timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    def counted(self, metric: Metric, *labels: str) -> float:
        """Return what all processes together have counted and written down."""
        with self.database.transaction() as connection:
            return count.sums(connection).get(metric.name, {}).get(labels, 0.0)

    def layer_server(self, layer: str) -> int:
        """Return the pid of the qemu-nbd that serves an open layer; 0 when there is none at this moment."""
        return next((pid for pid, words in _qemu_nbds() if any(word.endswith(f"/{layer}") for word in words)), 0)

    def close(self) -> None:
        """End every process, the frozen ones too, and what they left on the host."""
        for server in self.running.values():
            if server.alive:
                server.thaw()
                os.kill(server.pid, signal.SIGTERM)
        for server in self.running.values():
            server.stop()
        for pid, words in _qemu_nbds():
            if any(word.startswith(str(self.storage)) for word in words):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for domain in self.libvirt.virsh("list", "--all", "--name").split():
            if str(self.storage) in self.libvirt.virsh("dumpxml", domain):
                self.libvirt.virsh("undefine", domain)
        self.database.close()

    def logs(self) -> str:
        """Return the end of every log, to explain a failure."""
        return "\n".join(f"=== {name}\n{server.tail(3000)}" for name, server in self.running.items())

    # --- rows

    def row(self, query: str, *arguments: object) -> Row | None:
        """Return the first row of a query."""
        with self.database.transaction() as connection:
            return one(connection, query, *arguments)

    def rows(self, query: str, *arguments: object) -> list[Row]:
        """Return all rows of a query."""
        with self.database.transaction() as connection:
            return rows(connection, query, *arguments)

    def wait_for_row(self, what: str, query: str, *arguments: object, seconds: float = PATIENCE) -> Row:
        """Wait until a query finds something, and return its first row."""
        return self.wait_for(lambda: self.row(query, *arguments), what, seconds)

    def wait_for(self, look: Callable[[], Row | None], what: str, seconds: float = PATIENCE) -> Row:
        """Wait until a look finds something; the logs explain why it did not."""
        try:
            found = wait_for(look, what, seconds)
        except TimeoutError as exc:
            raise TimeoutError(f"{exc}\n{self.logs()}") from None
        assert found is not None
        return found

    def add_host(self) -> None:
        """Write the row of the KVM host."""
        settings = {"virt_type": "qemu", "libvirt_socket": str(self.libvirt.socket)}
        with self.database.transaction() as connection:
            execute(
                connection,
                "INSERT INTO host (id, name, kind, address, port, username, settings, pool)"
                " VALUES (%s, %s, 'kvm', 'local', 22, 'root', %s, %s)",
                new_id(),
                HOST,
                Jsonb(settings),
                POOL,
            )

    def add_job(self, name: str, agent: str, disks: dict[str, Path], more: str = "") -> int:
        """Apply a job of raw files, with more tables in its file, and return its number."""
        listed = ", ".join(
            f"{{ slot = {json.dumps(slot)}, id = {json.dumps(f'file:{path}')} }}" for slot, path in disks.items()
        )
        if "[limits]" not in more:
            more += "[limits]\nnice = 0\n"
        file = self.directory / f"{name}.toml"
        file.write_text(
            f'name = "{name}"\n[source]\nagent = "{agent}"\nconsistency = "crash"\ndisks = [{listed}]\n'
            '[check]\nboot = "never"\n'
            f'[[target]]\nhost = "{HOST}"\npoints = 22\nstorage = {{ name = "{self.storage}" }}\n'
            f'vm = {{ cpus = 1, memory = "128MiB" }}\n{more}'
        )
        applied = self.bootpoint("job", "apply", str(file))
        return int(applied["items"][0]["id"])

    def begin(self, job_id: int) -> runs.Run:
        """Begin a run."""
        with self.database.transaction() as connection:
            return runs.create(connection, job_id, trigger="manual", requested_by="test")

    def ended(self, begun: runs.Run, seconds: float = PATIENCE) -> Row:
        """Wait until a run has ended, and return its row."""
        query = "SELECT * FROM run WHERE uid = %s AND state NOT IN ('waiting', 'running')"
        return self.wait_for_row(f"the end of run {begun.id}", query, begun.uid, seconds=seconds)

    def succeeded(self, begun: runs.Run, seconds: float = PATIENCE) -> Row:
        """Wait until a run has ended, require that it succeeded, and return its row."""
        row = self.ended(begun, seconds)
        assert row["state"] == "succeeded", f"{row['state']} {row['reason']}: {row['message']}\n{self.logs()}"
        return row

    def disk_files(self, run_uid: UUID) -> dict[str, Path]:
        """Return the file of each disk of the committed point that a run made, by slot."""
        found = self.rows(
            "SELECT d.slot, d.layer, y.definition->>'vm_name' AS vm, y.definition->>'folder' AS folder"
            " FROM boot_point p JOIN boot_point_disk d ON d.point_id = p.id JOIN replica y ON y.id = p.replica_id"
            " WHERE p.run_uid = %s AND p.state = 'committed'",
            run_uid,
        )
        return {row["slot"]: self.storage / (row["folder"] or "") / row["vm"] / row["layer"] for row in found}

    def wire_bytes(self, run_uid: UUID) -> int:
        """Return the encrypted bytes that a run sent for its point."""
        row = self.row(
            "SELECT sum(d.wire_bytes) AS n FROM boot_point p JOIN boot_point_disk d ON d.point_id = p.id"
            " WHERE p.run_uid = %s",
            run_uid,
        )
        assert row is not None
        return int(row["n"])


def _qemu_nbds() -> Iterator[tuple[int, list[str]]]:
    """Yield the pid and the words of every qemu-nbd that runs."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if words[0].endswith("qemu-nbd"):
                yield int(entry.name), words


@contextmanager
def own_fleet(
    postgres: PostgresServer, template: str, broker: RabbitServer, libvirt: LibvirtHost
) -> Iterator[Processes]:
    """Make an installation with a database, a virtual host and a storage of its own, for tests that share it."""
    name, vhost = postgres.create_database(template), broker.create_vhost()
    try:
        with (
            tempfile.TemporaryDirectory(
                prefix="bootpoint-storage-", dir="/var/tmp", ignore_cleanup_errors=True
            ) as storage,
            processes(postgres.url(name), vhost, libvirt, Path(storage)) as made,
        ):
            # Guests enter it as libvirt-qemu.
            Path(storage).chmod(0o711)
            yield made
    finally:
        broker.remove_vhost(vhost)
        postgres.drop_database(name)


@contextmanager
def processes(database_url: str, vhost: VirtualHost, libvirt: LibvirtHost, storage: Path) -> Iterator[Processes]:
    """Make an installation without workers and agents: its key, its exchanges, its host."""
    with tempfile.TemporaryDirectory(prefix="bootpoint-fleet-", ignore_cleanup_errors=True) as name:
        made = Processes(
            database=Database(database_url, size=4), vhost=vhost, libvirt=libvirt, storage=storage, directory=Path(name)
        )
        try:
            made.bootpoint("db", "migrate")
            made.add_host()
            yield made
        finally:
            made.close()
