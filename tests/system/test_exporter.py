"""What Prometheus reads of real processes: an exporter and two workers of one machine, with one setting."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bootpoint_common.tls import Trust
from bootpoint_ops.certificate import Purpose
from tests.service.component import need
from tests.service.process import PATIENCE, Server, free_port, wait_for
from tests.service.rabbitmq import VirtualHost
from tests.service.tls import certificate

#: Program of the installation under test.
PROGRAM = str(Path(sys.executable).with_name("bootpoint"))

#: What promtool has against a name of dramatiq's, which is not ours to change.
DRAMATIQ = "dramatiq_message_duration_milliseconds use base unit"


@dataclass
class Machine:
    """A machine whose processes share an environment."""

    environment: dict[str, str]
    directory: Path
    running: dict[str, Server] = field(default_factory=dict)

    def start(self, name: str, *words: str, says: str) -> int:
        """Start a process; returns the port of its metrics."""
        log = self.directory / f"{name}.log"
        self.running[name] = Server([PROGRAM, *words], log=log, environment=self.environment)
        self.running[name].start(lambda: says in log.read_text(), name)
        found = re.search(r"^metrics on https?://127\.0\.0\.1:(\d+)/metrics$", log.read_text(), re.MULTILINE)
        assert found is not None, log.read_text()
        return int(found[1])


@pytest.fixture
def machine(database: str, vhost: VirtualHost, tmp_path: Path) -> Iterator[Machine]:
    environment = {
        **{name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH")},
        "HOME": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "BOOTPOINT_STATE": str(tmp_path / "state"),
        "BOOTPOINT_DATABASE_URL": database,
        "BOOTPOINT_BROKER_URL": vhost.url,
        "BOOTPOINT_METRICS": f"127.0.0.1:{free_port()}",
    }
    subprocess.run([PROGRAM, "db", "migrate"], env=environment, check=True, capture_output=True)
    made = Machine(environment, tmp_path)
    try:
        yield made
    finally:
        for server in made.running.values():
            server.stop()


#: The processes that serve metrics, and what each says when it runs.
SERVING = {
    "exporter": (("exporter",), "exporter runs"),
    "worker": (("worker", "--pool", "kvm"), "worker serves"),
    "scheduler": (("scheduler",), "scheduler runs"),
}


def get(port: int, path: str = "/metrics", **headers: str) -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE) as answer:
        return bytes(answer.read())


def complaints(scrape: bytes) -> list[str]:
    """Return what Prometheus's own tool has against a scrape."""
    done = subprocess.run(["promtool", "check", "metrics"], input=scrape, capture_output=True)
    return [line for line in (done.stdout + done.stderr).decode().splitlines() if line]


def test_one_setting_for_all_processes_of_a_machine_and_a_pool_that_grows(machine: Machine) -> None:
    need("promtool")
    exporter = machine.start("exporter", "exporter", says="exporter runs")
    assert exporter == int(machine.environment["BOOTPOINT_METRICS"].rpartition(":")[2])
    first = machine.start("w1", "worker", "--pool", "kvm", says="worker serves")
    second = machine.start("w2", "worker", "--pool", "kvm", "--pool", "lab", says="worker serves")
    assert (first, second) == (exporter + 1, exporter + 2)

    def targets() -> list[str]:
        (found,) = json.loads(get(exporter, "/workers"))
        return list(found["targets"])

    def up(pool: str) -> str:
        found = re.search(rf'^bootpoint_worker_up{{pool="{pool}"}} (\S+)$', get(exporter).decode(), re.MULTILINE)
        return "" if found is None else found[1]

    both = [f"127.0.0.1:{first}", f"127.0.0.1:{second}"]
    wait_for(lambda: targets() == both, "both workers to be listed")
    wait_for(lambda: (up("kvm"), up("lab")) == ("2.0", "1.0"), "both workers to be counted")
    machine.running["w1"].stop()
    wait_for(lambda: (up("kvm"), targets()) == ("1.0", both[1:]), "one to be gone")

    # Prometheus's own tool finds nothing wrong, in what is packed as little as in what isn't.
    assert complaints(get(exporter)) == []
    assert complaints(gzip.decompress(get(exporter, **{"Accept-Encoding": "gzip"}))) == []
    own = get(second)
    assert all(line.startswith(DRAMATIQ) for line in complaints(own))
    assert b"process_resident_memory_bytes" in own
    assert b"# TYPE dramatiq_messages_total counter" in own
    assert b"bootpoint_" not in own, "nothing is served twice"

    # A second exporter doesn't serve somewhere else unnoticed.
    done = subprocess.run([PROGRAM, "exporter"], env=machine.environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "spec_invalid" in done.stderr
    assert "BOOTPOINT_METRICS" in done.stderr
    assert str(exporter) in done.stderr


def test_with_certificates_every_process_answers_only_who_shows_one(machine: Machine) -> None:
    authority = machine.directory / "tls"
    machine.environment["BOOTPOINT_METRICS_TLS"] = str(certificate(authority, Purpose.METRICS, "", "127.0.0.1"))
    known = Trust(folder=certificate(authority, Purpose.CLIENT, "prometheus"))
    unknown = Trust(authority=authority / "authority/servers.pem")

    def scrape(port: int, trust: Trust) -> bytes:
        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust.context()))
        opener = urllib.request.build_opener(*handlers)
        with opener.open(f"https://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
            return bytes(answer.read())

    for name, (words, says) in SERVING.items():
        port = machine.start(name, *words, says=says)
        with socket.create_connection(("127.0.0.1", port)):  # says nothing, and keeps nobody out
            assert b"process_resident_memory_bytes" in scrape(port, known)
        with pytest.raises(OSError, match=r"alert|reset|EOF|closed"):
            scrape(port, unknown)
        with pytest.raises((OSError, http.client.HTTPException)):
            get(port)
