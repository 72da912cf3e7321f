"""RabbitMQ for the tests: one private node for all of them, one virtual host for each."""

from __future__ import annotations

import json
import os
import secrets
import signal
import tempfile
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.service.component import need
from tests.service.process import Server, free_port, listens, run, wait_for

#: The node's own limits. The memory alarm comes at 1 GiB, so that a test that forgets to consume meets it early.
CONFIGURATION = """
listeners.tcp.1 = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {http}
management_agent.disable_metrics_collector = true
vm_memory_high_watermark.absolute = 1GiB
disk_free_limit.absolute = 100MB
collect_statistics_interval = 60000
default_user = admin
default_pass = {password}
log.file.level = warning
"""


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """A virtual host of a test's own.

    Attributes:
        broker: The node it is on.
        name: Its name.
    """

    broker: RabbitServer
    name: str

    @property
    def url(self) -> str:
        """The AMQP URL, as the administrator."""
        return self.url_as("admin", self.broker.password)

    def url_as(self, user: str, password: str) -> str:
        """The AMQP URL, as that user."""
        return f"amqp://{user}:{password}@127.0.0.1:{self.broker.port}/{quote(self.name, safe='')}"

    def add_user(self, user: str, *, configure: str, write: str, read: str) -> str:
        """Make a broker user that may do only this, here, and return its AMQP URL.

        Args:
            user: Name; unique among the tests when it is derived from the virtual host's.
            configure: Regular expression over the names of what it may declare.
            write: Likewise, of what it may publish to.
            read: Likewise, of what it may consume from.
        """
        password = secrets.token_hex(8)
        self.broker.api("PUT", f"users/{quote(user, safe='')}", {"password": password, "tags": ""})
        rights = {"configure": configure, "write": write, "read": read}
        self.broker.api("PUT", f"permissions/{quote(self.name, safe='')}/{quote(user, safe='')}", rights)
        return self.url_as(user, password)

    def set_topic_permission(self, user: str, *, exchange: str, write: str, read: str = "^$") -> None:
        """Narrow the routing keys that a user may publish to, and bind to, on a topic exchange."""
        rights = {"exchange": exchange, "write": write, "read": read}
        self.broker.api("PUT", f"topic-permissions/{quote(self.name, safe='')}/{quote(user, safe='')}", rights)

    def queues(self) -> list[str]:
        """Names of the queues that exist now."""
        totals = "disable_stats=true&enable_queue_totals=true"
        listed = self.broker.api("GET", f"queues/{quote(self.name, safe='')}?{totals}")
        return sorted(queue["name"] for queue in listed)


class RabbitServer:
    """A private RabbitMQ node: own directories, own ports, own epmd, own cookie.

    Args:
        directory: Where everything goes.
    """

    def __init__(self, directory: Path) -> None:
        self.port, self._http, self._epmd_port, distribution = (free_port() for _ in range(4))
        self.password = secrets.token_hex(8)
        self._directory = directory
        self._home = max(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
        (directory / "rabbitmq.conf").write_text(
            CONFIGURATION.format(amqp=self.port, http=self._http, password=self.password)
        )
        (directory / "enabled_plugins").write_text("[rabbitmq_management].\n")
        (directory / "empty.conf").touch()
        self.environment = {
            **os.environ,
            "HOME": str(directory),
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"bootpoint-{secrets.token_hex(4)}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "empty.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none",
            # The script then becomes the Erlang VM instead of watching over it: the pid is the node's.
            "RUNNING_UNDER_SYSTEMD": "true",
        }
        self._epmd = Server(
            ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"],
            log=directory / "epmd.log",
            environment=self.environment,
        )
        self.server = Server(
            [str(self._home / "sbin/rabbitmq-server")], log=directory / "output.log", environment=self.environment
        )
        self._names = iter(range(1, 1_000_000))

    def start(self) -> None:
        """Start the node (and its epmd), and return when it accepts connections."""
        if not listens(self._epmd_port):
            self._epmd.start(lambda: listens(self._epmd_port), "epmd")
        # The management listener comes up after the AMQP one, and only with both is the node complete.
        self.server.start(self._complete, "RabbitMQ")

    def _complete(self) -> bool:
        return listens(self.port) and listens(self._http) and bool(self.api("GET", "overview?disable_stats=true"))

    def stop(self) -> None:
        """End the node in order; its directories stay."""
        self.server.stop(signal.SIGTERM)

    def kill(self) -> None:
        """End the node as a crash would; its directories stay."""
        self.server.kill()

    def restart(self) -> None:
        """Stop and start it over the same directories, on the same ports."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End everything."""
        self.server.kill()  # its directories go too: nobody will miss them
        self._epmd.stop()

    def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` and return what it prints. Takes about a second: never poll with it."""
        return run([str(self._home / "sbin/rabbitmqctl"), "-q", *arguments], environment=self.environment)

    @property
    def memory_bytes(self) -> int:
        """Resident memory of the node."""
        status = Path(f"/proc/{self.server.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))

    def api(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Call the management API, and return its answer (None if it has no body).

        Raises:
            OSError: The node refuses or does not answer.
        """
        credentials = b64encode(f"admin:{self.password}".encode()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._http}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
        )
        # Straight to the loopback interface, whatever proxy the environment names.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as answer:
                text = answer.read()
        except urllib.error.HTTPError as exc:
            with exc:
                raise OSError(f"{method} {path}: {exc.code} {exc.read().decode(errors='replace')}") from None
        return json.loads(text) if text else None

    def create_vhost(self) -> VirtualHost:
        """Make a virtual host of a new name."""
        vhost = VirtualHost(broker=self, name=f"test-{next(self._names)}")
        self.api("PUT", f"vhosts/{vhost.name}", {})
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self.api("PUT", f"permissions/{vhost.name}/admin", everything)
        return vhost

    def remove_vhost(self, vhost: VirtualHost) -> None:
        """Remove a virtual host with all that is in it, and the users that have rights nowhere else."""
        users = [row["user"] for row in self.api("GET", f"vhosts/{vhost.name}/permissions") if row["user"] != "admin"]
        self.api("DELETE", f"vhosts/{vhost.name}")
        for user in users:
            self.api("DELETE", f"users/{quote(user, safe='')}")


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitServer]:
    """The private node. A test that stops it must leave it running (`restart`)."""
    need("rabbitmq")
    with tempfile.TemporaryDirectory(prefix="bootpoint-rabbitmq-", ignore_cleanup_errors=True) as directory:
        server = RabbitServer(Path(directory))
        try:
            server.start()
            yield server
        finally:
            server.close()


@pytest.fixture
def vhost(rabbitmq_server: RabbitServer) -> Iterator[VirtualHost]:
    """A virtual host of the test's own; ``vhost.url`` is its AMQP URL."""
    made = rabbitmq_server.create_vhost()
    try:
        yield made
    finally:
        wait_for(lambda: listens(rabbitmq_server.port), "RabbitMQ, which the test must leave running")
        rabbitmq_server.remove_vhost(made)


@pytest.fixture
def broker_url(vhost: VirtualHost) -> str:
    """The AMQP URL of a virtual host of the test's own, as the administrator."""
    return vhost.url
