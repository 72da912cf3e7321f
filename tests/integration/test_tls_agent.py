"""An agent and its broker's certificate: joined by a fingerprint or with a folder, and what `status` says."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bootpoint_common.cipher import AgentKey
from bootpoint_common.config import AgentConfig
from bootpoint_common.enrolment import Token
from bootpoint_common.errors import BootpointError
from bootpoint_common.machine import identity
from bootpoint_common.stream.rabbit import agent_permissions, connect_agent, connect_worker
from bootpoint_common.tls import NOTHING_OF_OURS, Trust, fingerprint, read_certificates
from bootpoint_ops.certificate import Purpose
from bootpoint_ops.cli import main
from bootpoint_producer.authority import first_trust, keep, known_trust
from bootpoint_producer.command import main as agent_main
from bootpoint_producer.state import AgentState, Identity
from tests.service.rabbitmq import VirtualHost
from tests.service.tls import EXPIRED, certificate, server_of, terminating


def token(url: str, authority: Path | None) -> Token:
    shown = "" if authority is None else fingerprint(read_certificates(authority)[0])
    return Token("erp", "kvm", url, shown, b"s" * 32)


def joined(state: AgentState, url: str) -> None:
    """Let the agent be one that has joined."""
    state.keep_identity(Identity("erp", "kvm", url, AgentKey(1, b"k" * 32), identity()))


def status(state: AgentState, folder: Path | None) -> tuple[Result, dict[str, Any]]:
    file = state.directory / "agent.toml"
    file.write_text("" if folder is None else f'tls = "{folder}"\n')
    words = ["status", "--config", str(file), "--state", str(state.directory), "-o", "json"]
    done = CliRunner().invoke(agent_main, words)
    return done, json.loads(done.stdout)


def login(vhost: VirtualHost) -> str:
    rights = agent_permissions("erp")
    return vhost.add_user(f"{vhost.name}-erp", configure=rights.configure, write=rights.write, read=rights.read)


def test_a_machine_without_any_certificate_joins_the_broker_of_the_token_and_no_other(
    vhost: VirtualHost, tmp_path: Path
) -> None:
    state = AgentState(tmp_path / "state")
    server, other = server_of(tmp_path / "tls"), server_of(tmp_path / "other")
    right, wrong = tmp_path / "tls/authority/servers.pem", tmp_path / "other/authority/servers.pem"
    plain = login(vhost)
    with terminating(server, vhost.broker.port) as port:
        url = plain.replace("amqp://", "amqps://", 1).replace(f":{vhost.broker.port}/", f":{port}/", 1)
        with pytest.raises(BootpointError, match="no certificate of the authority"):
            first_trust(AgentConfig(), state, token(url, wrong))
        assert known_trust(AgentConfig(), state) == NOTHING_OF_OURS
        keep(state, first_trust(AgentConfig(), state, token(url, right)))
        kept = known_trust(AgentConfig(), state)
        assert kept.ca is not None
        assert read_certificates(kept.ca) == read_certificates(right)
        joined(state, url)
        done, shown = status(state, None)
        assert (done.exit_code, shown["broker"]) == (0, "answers")
    with terminating(other, vhost.broker.port) as port:
        joined(state, url.replace(url.rpartition(":")[2], f"{port}/{url.rpartition('/')[2]}"))
        done, shown = status(state, None)
        assert done.exit_code == 1
        assert "certificate of another authority" in shown["broker_problem"]


def test_a_folder_must_be_of_the_authority_in_the_token(tmp_path: Path) -> None:
    state = AgentState(tmp_path / "state")
    folder = certificate(tmp_path / "tls", Purpose.AGENT, "erp")
    certificate(tmp_path / "other", Purpose.AGENT, "erp")
    config = AgentConfig(tls=folder)
    right = token("amqps://erp:pw@localhost/", tmp_path / "tls/authority/servers.pem")
    assert first_trust(config, state, right) == Trust(folder=folder)
    with pytest.raises(BootpointError, match=r"ca\.pem is of another authority"):
        first_trust(config, state, token("amqps://erp:pw@localhost/", tmp_path / "other/authority/servers.pem"))
    with pytest.raises(BootpointError, match="broker URL is plain"):
        first_trust(AgentConfig(), state, token("amqp://erp:pw@localhost/", tmp_path / "tls/authority/servers.pem"))


def test_status_says_why_the_broker_is_not_reached(vhost: VirtualHost, tmp_path: Path) -> None:
    state = AgentState(tmp_path / "state")
    url = vhost.encrypted(login(vhost))
    joined(state, url)
    authority = vhost.broker.certificates
    good = certificate(authority, Purpose.AGENT, "erp")
    assert status(state, good)[1]["broker"] == "answers"
    (state.directory / "authority.pem").write_bytes((good / "ca.pem").read_bytes())
    said = {
        "demands a client certificate, and got none": None,
        "agent-old/cert.pem expired at": certificate(authority, Purpose.AGENT, "old", at=EXPIRED),
        "shows a certificate of another authority": certificate(tmp_path / "other", Purpose.AGENT, "erp"),
        "there is no file": tmp_path / "nowhere",
    }
    for words, folder in said.items():
        done, shown = status(state, folder)
        assert done.exit_code == 1
        assert shown["broker"] == "unreachable"
        assert words in shown["broker_problem"]
    joined(state, vhost.url)
    assert "is a plain amqp://" in status(state, good)[1]["broker_problem"]


def test_an_agent_whose_certificate_is_mended_connects_by_itself(vhost: VirtualHost, tmp_path: Path) -> None:
    authority = vhost.broker.certificates
    folder = certificate(authority, Purpose.AGENT, "mended", at=EXPIRED)
    url = vhost.encrypted(login(vhost))
    ours = Trust(folder=certificate(authority, Purpose.CLIENT, "worker"))
    with closing(connect_worker(vhost.tls_url, ours)) as worker, closing(
        connect_agent(url, "erp", Trust(folder=folder))
    ) as agent:
        worker.setup()
        worker.declare_agent("erp")
        with pytest.raises(ConnectionError, match="expired at"):
            agent.inbox()
        (folder / "key.pem").unlink()
        assert certificate(authority, Purpose.AGENT, "mended") == folder
        assert agent.inbox().get(0.1) is None


def test_a_token_carries_the_authority_of_the_broker(database: str, tmp_path: Path) -> None:
    folder = certificate(tmp_path / "tls", Purpose.CLIENT, "worker")
    env = {
        "BOOTPOINT_STATE": str(tmp_path), "BOOTPOINT_DATABASE_URL": database,
        "BOOTPOINT_INSTALLATION_KEY": str(tmp_path / "key"), "BOOTPOINT_BROKER_TLS": str(folder),
        "BOOTPOINT_BROKER_URL": "amqps://bp:pw@rabbit.example.org/",
    }  # fmt: skip
    CliRunner().invoke(main, ["db", "migrate"], env=env)
    done = CliRunner().invoke(main, ["agent", "enroll", "erp", "-o", "json"], env=env)
    assert done.exit_code == 0, done.stderr
    made = Token.decode(json.loads(done.stdout)["items"][0]["token"])
    assert made.fingerprint == fingerprint(read_certificates(tmp_path / "tls/authority/servers.pem")[0])
    assert made.broker_url.startswith("amqps://erp:")


def test_a_worker_says_why_it_does_not_start(database: str, vhost: VirtualHost, tmp_path: Path) -> None:
    env = {
        "BOOTPOINT_STATE": str(tmp_path), "BOOTPOINT_DATABASE_URL": database,
        "BOOTPOINT_INSTALLATION_KEY": str(tmp_path / "key"), "BOOTPOINT_BROKER_URL": vhost.tls_url,
    }  # fmt: skip
    CliRunner().invoke(main, ["db", "migrate"], env=env)
    other = certificate(tmp_path / "other", Purpose.CLIENT, "worker")
    done = CliRunner().invoke(main, ["worker", "--pool", "kvm"], env={**env, "BOOTPOINT_BROKER_TLS": str(other)})
    assert done.exit_code == 1
    assert "the broker 127.0.0.1" in done.stderr
    assert "another authority" in done.stderr
    assert "Traceback" not in done.output
    plain = {**env, "BOOTPOINT_BROKER_TLS": str(other), "BOOTPOINT_BROKER_URL": vhost.url}
    done = CliRunner().invoke(main, ["worker", "--pool", "kvm"], env=plain)
    assert "(tls_refused)" in done.stderr
    assert "use amqps://" in done.stderr
