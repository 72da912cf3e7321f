"""The servers that the tests stand on are what they claim to be."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import libvirt
import paramiko
import pika
import pika.exceptions
import psycopg
import pytest

from tests.service import component
from tests.service.libvirt import LibvirtHost
from tests.service.postgres import PostgresServer
from tests.service.process import listens, run, wait_for
from tests.service.rabbitmq import RabbitServer, VirtualHost
from tests.service.sshd import SshServer


def text(url: str, query: str) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    return str(row[0]) if row else ""


class TestComponent:
    @pytest.fixture(autouse=True)
    def nothing_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(component.COMPONENTS, "libnbd", component.Component(lambda: False, "buy one"))

    def test_missing_component_skips_with_its_reason_at_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CI", raising=False)
        with pytest.raises(pytest.skip.Exception, match="needs libnbd, which this machine lacks: buy one"):
            component.need("libnbd")

    def test_missing_component_fails_under_ci(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "true")
        with pytest.raises(pytest.fail.Exception, match="needs libnbd"):
            component.need("libnbd")


class TestPostgres:
    def test_databases_are_apart_and_clones_of_the_migrated_one(
        self, database: str, postgres_server: PostgresServer
    ) -> None:
        other = postgres_server.url(postgres_server.create_database("bootpoint_template"))
        tables = "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        assert int(text(database, tables)) > 5
        assert text(database, tables) == text(other, tables)
        with psycopg.connect(database) as connection:
            connection.execute("CREATE TABLE mine (n int)")
        assert text(other, "SELECT to_regclass('mine') IS NULL") == "True"

    def test_empty_database_is_dropped_even_while_somebody_is_connected(self, postgres_server: PostgresServer) -> None:
        name = postgres_server.create_database()
        with psycopg.connect(postgres_server.url(name)):
            postgres_server.drop_database(name)
        assert text(postgres_server.url(), f"SELECT count(*) FROM pg_database WHERE datname = '{name}'") == "0"

    def test_restart_cuts_connections_and_keeps_what_was_committed(
        self, empty_database: str, postgres_server: PostgresServer
    ) -> None:
        with psycopg.connect(empty_database, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
            postgres_server.restart()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        assert text(empty_database, "SELECT n FROM kept") == "7"

    def test_debian_server_is_debians_and_runs_unprivileged(self, debian_postgres: PostgresServer) -> None:
        assert "Debian" in text(debian_postgres.url(), "SELECT version()")
        assert Path(f"/proc/{debian_postgres.server.pid}").stat().st_uid != 0


def publish_and_get(url: str, queue: str) -> bytes | None:
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(queue, durable=True)
        channel.basic_publish("", queue, b"bytes", mandatory=True)
        body: bytes | None = channel.basic_get(queue, auto_ack=True)[2]
        return body


class TestRabbitMQ:
    def test_virtual_host_takes_and_gives_messages(self, vhost: VirtualHost) -> None:
        assert publish_and_get(vhost.url, "q") == b"bytes"
        assert vhost.queues() == ["q"]

    def test_virtual_hosts_are_apart(self, vhost: VirtualHost, rabbitmq_server: RabbitServer) -> None:
        other = rabbitmq_server.create_vhost()
        publish_and_get(vhost.url, "q")
        assert other.queues() == []
        rabbitmq_server.remove_vhost(other)
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            publish_and_get(other.url, "q")

    def test_user_can_do_only_what_was_granted(self, vhost: VirtualHost) -> None:
        url = vhost.add_user(f"agent-{vhost.name}", configure="^mine$", write="^(mine|amq\\.default)$", read="^mine$")
        assert publish_and_get(url, "mine") == b"bytes"
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
            publish_and_get(url, "theirs")

    def test_topic_permission_narrows_the_routing_key(self, vhost: VirtualHost) -> None:
        with contextlib.closing(pika.BlockingConnection(pika.URLParameters(vhost.url))) as connection:
            connection.channel().exchange_declare("t", "topic", durable=True)
        url = vhost.add_user(f"agent-{vhost.name}", configure="^$", write="^t$", read="^$")
        vhost.set_topic_permission(f"agent-{vhost.name}", exchange="t", write="^a\\.")
        with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_publish("t", "a.b", b"")
            with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
                channel.basic_publish("t", "b.a", b"")

    @pytest.mark.parametrize("fault", [RabbitServer.stop, RabbitServer.kill], ids=["stop", "kill"])
    def test_node_comes_back_with_its_durable_messages(
        self, vhost: VirtualHost, rabbitmq_server: RabbitServer, fault: Callable[[RabbitServer], None]
    ) -> None:
        with contextlib.closing(pika.BlockingConnection(pika.URLParameters(vhost.url))) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.queue_declare("q", durable=True)
            channel.basic_publish("", "q", b"kept", pika.BasicProperties(delivery_mode=2))
        # What it confirmed is on disk; that the queue exists is written a moment later, which a kill may come before.
        rabbitmq_server.ctl("eval", "disk_log:sync(latest_log).")
        before = rabbitmq_server.server.pid
        fault(rabbitmq_server)
        assert not listens(rabbitmq_server.port)
        rabbitmq_server.start()
        assert rabbitmq_server.server.pid != before
        with contextlib.closing(pika.BlockingConnection(pika.URLParameters(vhost.url))) as connection:
            assert connection.channel().basic_get("q")[2] == b"kept"

    def test_rabbitmqctl_reaches_this_node(self, vhost: VirtualHost, rabbitmq_server: RabbitServer) -> None:
        assert vhost.name in rabbitmq_server.ctl("list_vhosts").split()
        assert 10 << 20 < rabbitmq_server.memory_bytes < 1 << 30


class TestLibvirt:
    def test_is_apart_from_the_machines_own(self, libvirt_host: LibvirtHost) -> None:
        assert libvirt_host.virsh("list", "--all", "--name").strip() == ""
        assert "/bpv-" in str(libvirt_host.socket)

    def test_guest_of_type_qemu_runs_on_a_disk_of_the_storage_directory(
        self, libvirt_host: LibvirtHost, storage_directory: Path
    ) -> None:
        disk = storage_directory / "disk.qcow2"
        run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "64M"])
        xml = f"""<domain type='qemu'><name>guest</name><memory unit='MiB'>64</memory>
            <os><type arch='x86_64' machine='q35'>hvm</type></os>
            <devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/>
            <target dev='vda' bus='virtio'/></disk></devices></domain>"""
        with contextlib.closing(libvirt.open(libvirt_host.uri)) as connection:
            domain = connection.createXML(xml)
            assert domain.isActive()
            assert libvirt_host.virsh("domstate", "guest").strip() == "running"
            domain.destroy()

    def test_definitions_survive_a_restart(self, libvirt_host: LibvirtHost, tmp_path: Path) -> None:
        xml = tmp_path / "xml"
        parts = "<name>kept</name><memory unit='MiB'>64</memory><os><type>hvm</type></os>"
        xml.write_text(f"<domain type='qemu'>{parts}</domain>")
        libvirt_host.virsh("define", str(xml))
        libvirt_host.restart()
        assert libvirt_host.virsh("list", "--all", "--name").split() == ["kept"]
        libvirt_host.virsh("undefine", "kept")


class TestSshd:
    @pytest.fixture
    def client(self) -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        return client

    @pytest.mark.parametrize("way", ["key", "password"])
    def test_lets_root_in(self, sshd_server: SshServer, client: paramiko.SSHClient, way: str) -> None:
        login = {"password": sshd_server.password} if way == "password" else {"key_filename": str(sshd_server.key_file)}
        with contextlib.closing(client):
            client.connect("127.0.0.1", sshd_server.port, "root", allow_agent=False, look_for_keys=False, **login)
            transport = client.get_transport()
            assert transport is not None
            assert transport.get_remote_server_key().fingerprint == sshd_server.fingerprint
            assert client.exec_command("id -u")[1].read() == b"0\n"

    def test_refuses_another_password(self, sshd_server: SshServer, client: paramiko.SSHClient) -> None:
        with contextlib.closing(client), pytest.raises(paramiko.AuthenticationException):
            client.connect(
                "127.0.0.1", sshd_server.port, "root", password="wrong", allow_agent=False, look_for_keys=False
            )

    def test_machines_own_password_file_is_untouched(self, sshd_server: SshServer) -> None:
        root = Path("/etc/shadow").read_text().splitlines()[0]
        assert not root.startswith("root:$6$") or ":20000:0:99999:7:::" not in root

    def test_shows_another_host_key_after_the_change(self, sshd_server: SshServer) -> None:
        before = sshd_server.fingerprint
        sshd_server.change_host_key()
        scanned = run(["ssh-keyscan", "-t", "ed25519", "-p", str(sshd_server.port), "127.0.0.1"])
        assert before != sshd_server.fingerprint
        assert run(["ssh-keygen", "-lf", "-"], text=scanned).split()[1] == sshd_server.fingerprint


def test_servers_end_with_the_tests_that_started_them(tmp_path: Path) -> None:
    """Also when the tests are killed: nothing is left on the machine."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib, sys; from tests.service.process import Server\n"
        "server = Server(['sleep', '600'], log=pathlib.Path(sys.argv[1]))\n"
        "server.start(lambda: 'sleep' in pathlib.Path(f'/proc/{server.pid}/comm').read_text(), 'sleep')\n"
        "print(server.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [root / ".venv/bin/python", script, tmp_path / "log"], cwd=root, stdout=subprocess.PIPE, check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == -9
    left = Path(f"/proc/{int(done.stdout)}/status")
    wait_for(lambda: not left.exists() or "zombie" in left.read_text(), "the server to end")
