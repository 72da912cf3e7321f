"""RabbitMQ for the tests: one private node for all of them, one virtual host for each."""

from __future__ import annotations

import hashlib
import json
import os
import re
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

from bootpoint_common.stream.rabbit import Permissions
from bootpoint_common.units import MiB
from bootpoint_ops.authority import Authority
from bootpoint_ops.certificate import Purpose, Wish
from tests.service.component import need
from tests.service.process import Server, free_port, listens, run, wait_for

#: What an operator installs: the node runs with it.
INSTALLED = Path(__file__).parents[2] / "ops/rabbitmq"

#: Bytes of memory and of free disk at which the node's alarms come. The first comes early, for a test that forgets to
#: consume; the disk of a machine that tests is fuller than that of a broker.
MEMORY_ALARM, DISK_ALARM = 1024 * MiB, 100 * MiB

#: What is the node's own, as an operator would write it into a file of ``conf.d``.
CONFIGURATION = """
listeners.tcp.1 = 127.0.0.1:{amqp}
listeners.ssl.1 = 127.0.0.1:{amqps}
ssl_options.cacertfile = {folder}/ca.pem
ssl_options.certfile = {folder}/cert.pem
ssl_options.keyfile = {folder}/key.pem
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
auth_mechanisms.2 = EXTERNAL
ssl_cert_login_from = common_name
management.tcp.ip = 127.0.0.1
management.tcp.port = {http}
prometheus.tcp.ip = 127.0.0.1
prometheus.tcp.port = {prometheus}
load_definitions = {definitions}
vm_memory_high_watermark.relative = {memory:.4f}
disk_free_limit.absolute = {disk}
collect_statistics_interval = 60000
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

    @property
    def tls_url(self) -> str:
        """The URL of the encrypted port, as the administrator; it demands a client certificate."""
        return self.encrypted(self.url)

    def encrypted(self, url: str) -> str:
        """Return a URL of this host with the encrypted port in place of the plain one."""
        return url.replace("amqp://", "amqps://", 1).replace(f":{self.broker.port}/", f":{self.broker.tls_port}/", 1)

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

    def login(self, user: str, rights: Permissions) -> str:
        """Make a broker user with the rights and limits that an operator gives it, and return its AMQP URL."""
        url = self.add_user(user, configure=rights.configure, write=rights.write, read=rights.read)
        self.set_topic_permission(
            user, exchange=rights.topic_exchange, write=rights.topic_write, read=rights.topic_read
        )
        for name, value in rights.limits.items():
            self.broker.api("PUT", f"user-limits/{quote(user, safe='')}/{name}", {"value": value})
        return url

    def queues(self) -> list[str]:
        """Names of the queues that exist now."""
        totals = "disable_stats=true&enable_queue_totals=true"
        listed = self.broker.api("GET", f"queues/{quote(self.name, safe='')}?{totals}")
        return sorted(queue["name"] for queue in listed)

    def is_bound(self, queue: str, exchange: str) -> bool:
        """Tell whether there is a queue that an exchange gives messages to."""
        found = self.broker.api("GET", f"bindings/{quote(self.name, safe='')}")
        return any((each["source"], each["destination"]) == (exchange, queue) for each in found)


class RabbitServer:
    """A private RabbitMQ node: own directories, own ports, own epmd, own cookie.

    Args:
        directory: Where everything goes.

    Attributes:
        certificates: Where its authority is, for the certificates of its clients.
    """

    def __init__(self, directory: Path) -> None:
        self.port, self.tls_port, self._http, self.metrics_port = (free_port() for _ in range(4))
        self._epmd_port, distribution = free_port(), free_port()
        self.certificates = directory / "tls"
        Authority(self.certificates).require(Wish(Purpose.BROKER, "broker", ("localhost", "127.0.0.1")))
        self.password = secrets.token_hex(8)
        self._directory = directory
        self._home = max(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
        (directory / "conf.d").mkdir()
        (directory / "conf.d/50-test.conf").write_text(
            CONFIGURATION.format(
                amqp=self.port,
                amqps=self.tls_port,
                folder=self.certificates / "broker",
                http=self._http,
                prometheus=self.metrics_port,
                definitions=self._definitions(),
                memory=MEMORY_ALARM / (os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
                disk=DISK_ALARM,
            )
        )
        plugins = (INSTALLED / "enabled_plugins").read_text()
        (directory / "enabled_plugins").write_text(plugins.replace("]", ",rabbitmq_auth_mechanism_ssl]"))
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
            "RABBITMQ_CONFIG_FILE": str(INSTALLED / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(directory / "conf.d"),
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

    def _definitions(self) -> Path:
        """Write what an operator installs, with an administrator, and return the file."""
        salt = secrets.token_bytes(4)
        digest = salt + hashlib.sha256(salt + self.password.encode()).digest()
        user = {
            "name": "admin",
            "password_hash": b64encode(digest).decode(),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": ["administrator"],
        }
        file = self._directory / "definitions.json"
        file.write_text(json.dumps({**json.loads((INSTALLED / "definitions.json").read_text()), "users": [user]}))
        return file
    def admin_url(self, user: str = "admin", password: str | None = None) -> str:
        """The URL of the management API, as that user."""
        return f"http://{user}:{password or self.password}@127.0.0.1:{self._http}"

    def start(self) -> None:
        """Start the node (and its epmd), and return when it accepts connections."""
        if not listens(self._epmd_port):
            self._epmd.start(lambda: listens(self._epmd_port), "epmd")
        # The management listener comes up after the AMQP one, and only with both is the node complete.
        self.server.start(self._complete, "RabbitMQ")

    def _complete(self) -> bool:
        ports = (self.port, self.tls_port, self._http)
        return all(map(listens, ports)) and bool(self.api("GET", "overview?disable_stats=true"))

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

    def paste(self, line: str) -> str:
        """Run a line of shell that uses ``rabbitmqctl``, and return what it prints."""
        program = f'rabbitmqctl() {{ {self._home}/sbin/rabbitmqctl -q "$@"; }}'
        return run(["sh", "-ec", f"{program}\n{line}"], environment=self.environment)

    @property
    def memory_bytes(self) -> int:
        """Resident memory of the node."""
        status = Path(f"/proc/{self.server.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))

    def metric(self, name: str) -> float:
        """Read one number off the node's Prometheus endpoint: the sum of all lines of that name, with whatever labels.

        Raises:
            OSError: The node doesn't answer.
        """
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        found = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
        assert found, f"{name} is no metric of RabbitMQ"
        return sum(map(float, found))

    def alarm(self, kind: str, *, on: bool) -> None:
        """Let the memory alarm (``memory``) or the disk alarm (``disk``) come or go, by moving its limit."""
        if kind == "memory":
            self.ctl("set_vm_memory_high_watermark", "absolute", str(MiB if on else MEMORY_ALARM))
        else:
            self.ctl("set_disk_free_limit", str(1 << 50 if on else DISK_ALARM))

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
