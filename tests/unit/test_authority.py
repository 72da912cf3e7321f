"""`bootpoint tls init`: what it makes, and what a second call does."""

from __future__ import annotations

import json
import re
import shlex
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from bootpoint_common.tls import ends, fingerprint, read_certificates
from bootpoint_ops.authority import Authority, State
from bootpoint_ops.certificate import Purpose, Wish
from bootpoint_ops.cli import main

FLEET = (
    *("--broker", "rabbit.example.org,10.0.0.1", "--database", "db.example.org", "--metrics", "127.0.0.1"),
    *("--host", "kvm1=10.9.0.5,kvm1.example.org", "--client", "worker", "--client", "scheduler", "--agent", "erp"),
)


def init(directory: Path, *words: str) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["tls", "init", str(directory), *words, "-o", "json"])
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def states(answer: dict[str, Any]) -> dict[str, str]:
    return {Path(item["folder"]).name: item["state"] for item in answer["items"]}


def test_each_that_is_named_gets_a_folder_of_three_files_that_openssl_takes(tmp_path: Path) -> None:
    made = init(tmp_path / "tls", *FLEET)
    folders = {"broker", "database", "metrics", "host-kvm1", "client-worker", "client-scheduler", "agent-erp"}
    assert set(states(made)) == folders
    root = read_certificates(tmp_path / "tls/authority/servers.pem")[0]
    assert made["fingerprint"] == fingerprint(root)
    for name in folders:
        folder = tmp_path / "tls" / name
        modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
        assert modes == {"ca.pem": 0o644, "cert.pem": 0o644, "key.pem": 0o600}
        root_file = "agents" if name.startswith("agent-") else "servers"
        purpose = "sslclient" if name.startswith(("agent-", "client-")) else "sslserver"
        check = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", f"authority/{root_file}.pem"]
        subprocess.run([*check, f"{name}/cert.pem"], cwd=tmp_path / "tls", check=True, capture_output=True)
    private = list((tmp_path / "tls").rglob("*.key"))
    assert [file.stat().st_mode & 0o777 for file in private] == [0o600, 0o600]
    assert {i["folder"].rpartition("/")[2]: i["names"] for i in made["items"]}["host-kvm1"] == [
        "10.9.0.5",
        "kvm1.example.org",
    ]


def test_a_client_cannot_pose_as_a_server_nor_an_agent_as_a_client_of_ours(tmp_path: Path) -> None:
    init(tmp_path, *FLEET)
    client = read_certificates(tmp_path / "client-worker/cert.pem")[0]
    usage = client.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    believed = [fingerprint(one) for one in read_certificates(tmp_path / "database/ca.pem")]
    agents = fingerprint(read_certificates(tmp_path / "authority/agents.pem")[0])
    assert agents not in believed
    assert agents in [fingerprint(one) for one in read_certificates(tmp_path / "broker/ca.pem")]


def test_a_second_call_keeps_what_is_there_and_adds_what_is_missing(tmp_path: Path) -> None:
    first = init(tmp_path, "--broker", "rabbit.example.org")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*")}
    second = init(tmp_path, "--agent", "erp")
    assert second["fingerprint"] == first["fingerprint"]
    assert states(second) == {"broker": "kept", "agent-erp": "made"}
    assert all(file.read_bytes() == content for file, content in before.items())
    assert states(init(tmp_path)) == {"broker": "kept", "agent-erp": "kept"}
    # Another name: the certificate has to hold it.
    assert states(init(tmp_path, "--broker", "rabbit.example.org,rabbit2.example.org"))["broker"] == "renewed"


def test_renewal_takes_only_what_ends_soon_and_only_when_told(tmp_path: Path) -> None:
    Authority(tmp_path)
    wish = Wish(Purpose.CLIENT, "worker")
    old = Authority(tmp_path, now=datetime.now(UTC) - timedelta(days=340)).require(wish)
    assert old.expires_at - datetime.now(UTC) < timedelta(days=30)
    assert states(init(tmp_path, "--agent", "erp")) == {"client-worker": "kept", "agent-erp": "made"}
    assert states(init(tmp_path, "--renew", "--within", "5"))["client-worker"] == "kept"
    assert states(init(tmp_path, "--renew")) == {"client-worker": "renewed", "agent-erp": "kept"}
    renewed = read_certificates(tmp_path / "client-worker/cert.pem")[0]
    assert ends(renewed) - datetime.now(UTC) > timedelta(days=360)


def test_a_folder_whose_writing_was_cut_off_is_made_anew(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    for name in ("one", "two"):
        authority.require(Wish(Purpose.CLIENT, name))
    (tmp_path / "client-one/key.pem").write_bytes((tmp_path / "client-two/key.pem").read_bytes())
    assert authority.require(Wish(Purpose.CLIENT, "one")).state is State.MADE
    ssl.create_default_context().load_cert_chain(tmp_path / "client-one/cert.pem", tmp_path / "client-one/key.pem")


def test_without_the_authoritys_key_no_other_authority_is_made(tmp_path: Path) -> None:
    init(tmp_path / "tls", "--client", "worker")
    (tmp_path / "tls/authority").rename(tmp_path / "safe")
    done = CliRunner().invoke(main, ["tls", "init", str(tmp_path / "tls"), "--client", "scheduler"])
    assert done.exit_code == 2
    assert "servers.key isn't here" in done.stderr
    assert "bring DIR/authority back" in done.stderr
    assert not (tmp_path / "tls/client-scheduler").exists()


@pytest.mark.parametrize(
    "words", [("--broker", "a b"), ("--agent", "../etc"), ("--client", ""), ("--host", "=1.2.3.4")]
)
def test_a_name_that_is_none_is_refused(tmp_path: Path, words: tuple[str, str]) -> None:
    done = CliRunner().invoke(main, ["tls", "init", str(tmp_path), *words])
    assert done.exit_code == 2
    assert "is no name" in done.stderr
    assert words[0] in done.stderr


def test_the_block_of_the_page_about_hosts(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/kvm.md").read_text()
    (block,) = re.findall(r"^```sh\n(bootpoint tls init .*)\n```$", page, re.MULTILINE)
    words = shlex.split(block.replace("/root/bootpoint-tls", str(tmp_path / "tls")))
    assert CliRunner().invoke(main, words[1:]).exit_code == 0
    assert {path.name for path in (tmp_path / "tls").iterdir()} == {"authority", "host-kvm1", "client-worker"}
