"""TLS with the real servers: RabbitMQ that demands certificates, PostgreSQL by `cert`, metrics; and how they refuse."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import dramatiq
import psycopg
import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, Gauge

from bootpoint_common.config import Config, Listen
from bootpoint_common.errors import BootpointError
from bootpoint_common.store.database import Database, one_row
from bootpoint_common.store.secure import secured
from bootpoint_common.stream.carrier import CarrierLost
from bootpoint_common.stream.rabbit import agent_permissions, connect_agent, connect_worker, setup
from bootpoint_common.tls import Trust
from bootpoint_ops.certificate import Purpose
from bootpoint_ops.cli import main
from bootpoint_ops.environment import database_url
from bootpoint_ops.exposition import application, serve
from bootpoint_worker.actors import make_broker
from tests.service.postgres import PostgresServer, debian_server
from tests.service.rabbitmq import VirtualHost
from tests.service.tls import EXPIRED, HERE, certificate, encrypt


@pytest.fixture
def worker(vhost: VirtualHost) -> Trust:
    """What one of our own processes shows the tests' broker."""
    return Trust(folder=certificate(vhost.broker.certificates, Purpose.CLIENT, "worker"))


class TestBroker:
    def test_bytes_and_orders_go_both_ways_with_certificates_of_both_authorities(
        self, vhost: VirtualHost, worker: Trust
    ) -> None:
        setup(vhost.tls_url, worker)
        rights = agent_permissions("erp")
        user = vhost.add_user("erp", configure=rights.configure, write=rights.write, read=rights.read)
        shown = Trust(folder=certificate(vhost.broker.certificates, Purpose.AGENT, "erp"))
        with (
            closing(connect_worker(vhost.tls_url, worker)) as ours,
            closing(connect_agent(vhost.encrypted(user), "erp", shown)) as agent,
        ):
            ours.declare_pool("kvm")
            ours.declare_agent("erp")
            agent.send("kvm", b"hello")
            delivery = ours.ingress("kvm", 1).get(30.0)
            assert delivery is not None
            assert delivery.body == b"hello"
            ours.send("erp", b"welcome")
            answer = agent.inbox().get(30.0)
            assert answer is not None
            assert answer.body == b"welcome"

    def test_dramatiq_works_over_it(self, vhost: VirtualHost, worker: Trust) -> None:
        broker = make_broker(vhost.tls_url, worker)
        done = threading.Event()

        @dramatiq.actor(broker=broker, queue_name="tasks")
        def task() -> None:
            done.set()

        served = dramatiq.Worker(broker, worker_threads=1, worker_timeout=100)
        served.start()
        try:
            task.send()
            assert done.wait(60.0)
        finally:
            served.stop()
            broker.close()

    def test_a_certificate_is_a_login_where_the_url_has_none(self, vhost: VirtualHost, worker: Trust) -> None:
        vhost.add_user("worker", configure=".*", write=".*", read=".*")
        url = vhost.tls_url
        bare = url.partition("//")[0] + "//" + url.rpartition("@")[2]
        setup(bare, worker)
        stranger = Trust(folder=certificate(vhost.broker.certificates, Purpose.CLIENT, "stranger"))
        with pytest.raises(CarrierLost, match=r"ACCESS_REFUSED|Authentication"):
            setup(bare, stranger)

    def test_nobody_comes_in_without_a_certificate_or_with_one_that_has_expired(self, vhost: VirtualHost) -> None:
        root = vhost.broker.certificates / "authority/servers.pem"
        with pytest.raises(CarrierLost, match=r"the broker 127.0.0.1:\d+ demands a client certificate, and got none"):
            setup(vhost.tls_url, Trust(authority=root))
        old = certificate(vhost.broker.certificates, Purpose.CLIENT, "old", at=EXPIRED)
        with pytest.raises(CarrierLost, match=r"client-old/cert.pem expired at"):
            setup(vhost.tls_url, Trust(folder=old))
        with pytest.raises(CarrierLost, match="shows a certificate of another authority"):
            setup(vhost.tls_url)

    def test_the_broker_of_another_authority_is_refused(self, vhost: VirtualHost, tmp_path: Path) -> None:
        other = certificate(tmp_path / "other", Purpose.CLIENT, "worker")
        with pytest.raises(CarrierLost, match=r"shows a certificate of another authority; believed are .*ca.pem"):
            setup(vhost.tls_url, Trust(folder=other))
        server = (vhost.broker.certificates / "authority/servers.pem").read_bytes()
        (other / "ca.pem").write_bytes(server)
        with pytest.raises(CarrierLost, match="doesn't know the authority of our certificate"):
            setup(vhost.tls_url, Trust(folder=other))

    def test_a_plain_url_to_the_encrypted_port_and_the_reverse(self, vhost: VirtualHost, worker: Trust) -> None:
        with pytest.raises(CarrierLost, match="speaks TLS, and the URL is amqp://"):
            setup(vhost.tls_url.replace("amqps://", "amqp://", 1))
        with pytest.raises(CarrierLost, match="speaks no TLS on this port"):
            setup(vhost.url.replace("amqp://", "amqps://", 1), worker)

    def test_a_renewed_certificate_is_shown_at_the_next_connection(self, vhost: VirtualHost, worker: Trust) -> None:
        assert worker.folder is not None
        with closing(connect_worker(vhost.tls_url, worker)) as carrier:
            carrier.setup()
            (worker.folder / "key.pem").unlink()
            renewed = certificate(vhost.broker.certificates, Purpose.CLIENT, "worker")
            assert renewed == worker.folder
            carrier.declare_pool("kvm")
            assert carrier.depth(uuid4()) is None


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("authority")


@pytest.fixture(scope="module")
def encrypted_postgres(authority: Path) -> Iterator[PostgresServer]:
    """A server that lets `worker` in by certificate only, and `postgres` as the tests always do."""
    with debian_server() as server:
        folder = certificate(server.directory / "tls", Purpose.DATABASE, "", "127.0.0.1")
        (server.directory / "tls").chmod(0o711)
        rules = "hostssl all worker 127.0.0.1/32 cert\nhostnossl all worker all reject\n"
        encrypt(server, folder, rules)
        server.start()
        server.execute("CREATE ROLE worker LOGIN SUPERUSER")
        yield server


class TestDatabase:
    @pytest.fixture
    def url(self, encrypted_postgres: PostgresServer) -> str:
        return f"postgresql://worker@127.0.0.1:{encrypted_postgres.port}/postgres"

    @pytest.fixture
    def folder(self, encrypted_postgres: PostgresServer) -> Path:
        return certificate(encrypted_postgres.directory / "tls", Purpose.CLIENT, "worker")

    def refusal(self, url: str, folder: Path) -> str:
        with pytest.raises(BootpointError) as caught:
            database_url(Config(database_url=url, database_tls=folder))
        assert caught.value.hint
        return caught.value.message

    def test_our_certificate_is_our_login_and_all_is_encrypted(self, url: str, folder: Path) -> None:
        with closing(Database(database_url(Config(database_url=url, database_tls=folder)))) as pool:
            with pool.transaction() as connection:
                row = one_row(
                    connection, "SELECT ssl, client_dn, current_user FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
                )
            with pool.listen("news") as listening:
                assert listening.pgconn.ssl_in_use
        assert row == {"ssl": True, "client_dn": "/CN=worker", "current_user": "worker"}

    def test_the_command_line_uses_it_and_says_why_it_does_not_work(
        self, url: str, folder: Path, tmp_path: Path
    ) -> None:
        env = {"BOOTPOINT_STATE": str(tmp_path), "BOOTPOINT_DATABASE_URL": url, "BOOTPOINT_DATABASE_TLS": str(folder)}
        done = CliRunner().invoke(main, ["db", "migrate"], env=env)
        assert done.exit_code == 0, done.stderr
        other = certificate(tmp_path / "other", Purpose.CLIENT, "worker")
        done = CliRunner().invoke(main, ["job", "list"], env={**env, "BOOTPOINT_DATABASE_TLS": str(other)})
        assert done.exit_code == 1
        assert "another authority" in done.stderr
        assert "(tls_refused)" in done.stderr

    def test_wrong_authority_wrong_name_and_a_plain_server(
        self, url: str, folder: Path, tmp_path: Path, database: str, encrypted_postgres: PostgresServer
    ) -> None:
        other = certificate(tmp_path / "other", Purpose.CLIENT, "worker")
        assert "the database 127.0.0.1" in self.refusal(url, other)
        assert "certificate of another host" in self.refusal(url.replace("127.0.0.1", "localhost"), folder)
        assert "speaks no TLS on this port" in self.refusal(database, folder)
        agent = certificate(encrypted_postgres.directory / "tls", Purpose.AGENT, "worker")
        assert "doesn't know the authority of our certificate" in self.refusal(url, agent)

    def test_a_url_cannot_ask_for_less(self, url: str, folder: Path) -> None:
        for less in ("?sslmode=disable", "?sslmode=require"):
            assert "asks for verify-full" in self.refusal(url + less, folder)
        assert "unix socket" in self.refusal("postgresql:///bootpoint?host=/run/postgresql", folder)
        assert "unix socket" in self.refusal("postgresql://worker@%2Frun%2Fpostgresql/bootpoint", folder)
        assert psycopg.conninfo.conninfo_to_dict(secured(f"{url}?gssencmode=prefer", folder))["gssencmode"] == "disable"


class TestMetrics:
    @pytest.fixture
    def port(self, authority: Path) -> Iterator[int]:
        registry = CollectorRegistry()
        Gauge("answer", "The answer.", registry=registry).set(42)
        folder = certificate(authority, Purpose.METRICS, "", *HERE)
        port, close = serve(application(registry, None), Listen("127.0.0.1", 0), folder)
        yield port
        close()

    def scrape(self, port: int, context: ssl.SSLContext, scheme: str = "https") -> str:
        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        with urllib.request.build_opener(*handlers).open(f"{scheme}://127.0.0.1:{port}/metrics", timeout=20) as answer:
            text: str = answer.read().decode()
        return text

    def test_only_who_shows_a_certificate_of_ours_reads_them(self, authority: Path, port: int, tmp_path: Path) -> None:
        prometheus = Trust(folder=certificate(authority, Purpose.CLIENT, "prometheus"))
        assert "answer 42.0" in self.scrape(port, prometheus.context())
        agent = certificate(authority, Purpose.AGENT, "erp")
        other = certificate(tmp_path / "other", Purpose.CLIENT, "prometheus")
        (other / "ca.pem").write_bytes((authority / "authority/servers.pem").read_bytes())
        strangers = (Trust(authority=authority / "authority/servers.pem"), Trust(folder=agent), Trust(folder=other))
        for stranger in strangers:
            with pytest.raises(OSError, match=r"alert|reset|EOF|closed"):
                self.scrape(port, stranger.context())
        with pytest.raises((OSError, http.client.HTTPException)):
            self.scrape(port, prometheus.context(), scheme="http")

    def test_a_silent_client_keeps_nobody_out(self, authority: Path, port: int) -> None:
        prometheus = Trust(folder=certificate(authority, Purpose.CLIENT, "prometheus"))
        with socket.create_connection(("127.0.0.1", port)):
            assert "answer 42.0" in self.scrape(port, prometheus.context())
