"""docs/tls.md, pasted: certificates made, copied, used and renewed with real servers, whose settings are the page's.

The page's paths are directories of the test's own, in a mount namespace. What differs from a reader's machine: ports
and folders in the settings of RabbitMQ, which are those of the tests' node.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from bootpoint_common.cipher import AgentKey
from bootpoint_common.config import AgentConfig
from bootpoint_common.machine import identity
from bootpoint_producer.state import AgentState, Identity
from tests.service.component import need
from tests.service.postgres import debian_server
from tests.service.rabbitmq import CONFIGURATION, INSTALLED, VirtualHost

PAGE = Path(__file__).parents[2] / "docs/tls.md"

#: Directories of the page that are the test's own.
OWN = ("/etc/bootpoint", "/root", "/var/lib/bootpoint-agent")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


class Reader:
    """Somebody who pastes, and a machine of his own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        for name in OWN:
            (folder / name[1:]).mkdir(parents=True)

    def paste(self, text: str) -> str:
        made = "\n".join(f"mkdir -p {name}" for name in OWN)
        mounts = "\n".join(f"mount --bind {shlex.quote(str(self.folder / name[1:]))} {name}" for name in OWN)
        done = subprocess.run(
            ["unshare", "--mount", "bash", "-euc", f"{made}\n{mounts}\n{text}"], env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout


def test_rabbitmq_of_all_tests_has_the_settings_of_the_page() -> None:
    settings = "\n".join(blocks("ini")[:2]).splitlines()
    own = CONFIGURATION.replace("{folder}", "/etc/rabbitmq/tls")
    known = [*(INSTALLED / "rabbitmq.conf").read_text().splitlines(), *own.splitlines()]
    for line in filter(None, settings):
        name, _, value = line.partition(" = ")
        if name.startswith("listeners"):
            continue
        if name.startswith("auth_mechanisms"):
            assert any(known_line.endswith(f" = {value}") for known_line in known), line
        else:
            assert line in known


def test_every_block_does_what_the_page_says(vhost: VirtualHost, tmp_path: Path) -> None:
    need("promtool")
    make, copy, process, status, renew = blocks("sh")
    programs = Path(sys.executable).parent
    reader = Reader(tmp_path / "machine", {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": "/root"})
    # The tests' broker has its authority already: the page's certificates are of the same.
    authority = vhost.broker.certificates / "authority"
    subprocess.run(["cp", "-r", str(authority), str(tmp_path / "authority")], check=True)
    kept = tmp_path / "machine/root/bootpoint-tls"
    kept.mkdir(mode=0o700)
    (tmp_path / "authority").rename(kept / "authority")
    assert reader.paste(make).count(" made ") == 6
    reader.paste(copy)
    assert not (kept / "authority").exists()

    (tmp_path / "prometheus.yml").write_text(
        blocks("yaml")[0].replace("/etc/prometheus/tls", str(kept / "client-prometheus"))
    )
    done = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

    with debian_server() as server:
        folder = server.directory / "tls"
        subprocess.run(["cp", "-r", str(kept / "database"), str(folder)], check=True)
        settings = blocks("ini")[2].replace("/etc/postgresql/tls", str(folder))
        postgres = "local all all trust\nhostssl all postgres all trust\nhost all postgres 127.0.0.1/32 trust\n"
        server.configure(settings, postgres + blocks("text")[0], keys=folder)
        server.start()
        server.execute("CREATE ROLE worker LOGIN")
        server.execute("CREATE DATABASE bootpoint OWNER worker")
        reader.environment["BOOTPOINT_DATABASE_URL"] = f"postgresql://worker@127.0.0.1:{server.port}/bootpoint"
        reader.environment["BOOTPOINT_BROKER_URL"] = vhost.tls_url
        reader.environment["BOOTPOINT_STATE"] = "/root/state"
        assert "ran 0001" in reader.paste(process)
        export = process.partition("bootpoint db")[0]
        assert "agent erp-db" not in reader.paste(f"{export}\nbootpoint status")

    config = tmp_path / "machine/etc/bootpoint/agent.toml"
    config.write_text(blocks("toml")[0])
    assert AgentConfig.read(config).tls == Path("/etc/bootpoint/agent-tls")
    subprocess.run(["cp", "-r", str(kept / "agent-erp-db"), str(config.with_name("agent-tls"))], check=True)
    agent = AgentState(tmp_path / "machine/var/lib/bootpoint-agent")
    agent.keep_identity(Identity("erp-db", "kvm", vhost.tls_url, AgentKey(1, b"k" * 32), identity()))
    assert "answers" in reader.paste(status)

    before = (tmp_path / "machine/etc/bootpoint/tls/cert.pem").read_bytes()
    assert "kept" in reader.paste(renew)
    assert (tmp_path / "machine/etc/bootpoint/tls/cert.pem").read_bytes() == before
    assert reader.paste(renew.replace("--renew", "--renew --within 366")).count("renewed") == 6
    assert (tmp_path / "machine/etc/bootpoint/tls/cert.pem").read_bytes() != before
    assert "answers" in reader.paste(status)
