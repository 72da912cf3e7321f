"""Logins of the broker that the command line makes and removes by RabbitMQ's management API."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pika
import pytest
from click.testing import CliRunner, Result
from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker, ProbableAuthenticationError

from bootpoint_common.crypto import Token
from bootpoint_common.store.database import Database, rows
from bootpoint_common.stream import rabbit
from bootpoint_common.stream.carrier import CarrierLost
from bootpoint_common.stream.rabbit import agent_permissions
from bootpoint_ops.cli import main
from tests.service.api_gate import gate
from tests.service.certificate import make_authority
from tests.service.commandline import answer_of, env, error_of
from tests.service.process import free_port
from tests.service.rabbitmq import VirtualHost

__all__ = ["env"]

#: Seconds within which a revocation has to take effect.
EFFECT_SECONDS = 10.0

#: How the broker refuses what a login may not do (AMQP 0-9-1, "access-refused").
FORBIDDEN = 403


@dataclass
class Desk:
    """Somebody who gives commands of a fleet that may make users of its broker.

    Attributes:
        env: The environment.
        admin_file: The file that names the management API.
        database: What the commands work with.
    """

    env: dict[str, str]
    admin_file: Path
    database: Database

    def __call__(self, *words: str) -> Result:
        return CliRunner().invoke(main, [*words, "-o", "json"], env=self.env)

    def rows(self, query: str) -> list[dict[str, Any]]:
        with self.database.transaction() as connection:
            return rows(connection, query)


@pytest.fixture
def act(env: dict[str, str], vhost: VirtualHost, database: str, tmp_path: Path) -> Iterator[Desk]:
    rabbit.setup(vhost.url)
    file = tmp_path / "broker-admin"
    file.write_text(vhost.broker.admin_url() + "\n")
    env |= {"BOOTPOINT_BROKER_URL": vhost.url, "BOOTPOINT_BROKER_ADMIN_URL_FILE": str(file)}
    with closing(Database(database, size=1)) as opened:
        made = Desk(env, file, opened)
        owner = env | {"BOOTPOINT_DATABASE_URL": database}
        assert CliRunner().invoke(main, ["db", "migrate"], env=owner).exit_code == 0
        yield made


@pytest.fixture
def name(vhost: VirtualHost) -> str:
    """A name that no other test's user has: users are the whole broker's."""
    return f"{vhost.name}-erp"


def enroll(act: Desk, *words: str) -> list[Token]:
    items = answer_of(act("agent", "enroll", *words))["items"]
    assert all(item["broker_commands"] == [] for item in items)
    return [Token.decode(item["token"]) for item in items]


def open_as(url: str) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.URLParameters(url))


def user(vhost: VirtualHost, name: str) -> dict[str, Any] | None:
    """Return a user of the broker with its permissions; None when there is none."""
    place = quote(name, safe="")
    try:
        found: dict[str, Any] = vhost.broker.api("GET", f"users/{place}")
    except OSError:
        return None
    kinds = ("permissions", "topic-permissions")
    return found | {kind: vhost.broker.api("GET", f"users/{place}/{kind}") for kind in kinds}


def may_publish(url: str, key: str) -> bool:
    """Tell whether a login may publish to the agents' exchange under a key."""
    with open_as(url) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        try:
            channel.basic_publish("bp.agent", key, b"")
        except ChannelClosedByBroker as closed:
            return bool(closed.reply_code != FORBIDDEN)
        return True


def test_enrolment_makes_a_login_that_reaches_its_own_and_nothing_else(
    act: Desk, vhost: VirtualHost, name: str
) -> None:
    (token,) = enroll(act, name)
    made = user(vhost, name)
    assert made is not None
    assert made["tags"] == ["bootpoint-agent"]
    assert [row["vhost"] for row in made["permissions"]] == [vhost.name]
    assert may_publish(token.broker_url, f"{name}.control.kvm")
    assert may_publish(token.broker_url, f"{name}.stream.0")
    for key in (f"{name}2.control.kvm", "web1.control.kvm", f"web1.{name}.control.kvm", f"{name}.control.kvm.x", "#"):
        assert not may_publish(token.broker_url, key), key
    listed = answer_of(act("agent", "show", name))
    assert listed["state"] == "pending"


def test_a_revocation_ends_connections_that_are_open_and_lets_nobody_in_again(
    act: Desk, vhost: VirtualHost, name: str
) -> None:
    (token,) = enroll(act, name)
    connections = [open_as(token.broker_url) for _ in range(3)]
    begun = time.monotonic()
    revoked = answer_of(act("agent", "revoke", name))
    assert (revoked["state"], revoked["broker_commands"]) == ("revoked", [])
    for connection in connections:
        with pytest.raises(ConnectionClosedByBroker):
            connection.process_data_events(EFFECT_SECONDS)
    with pytest.raises(ProbableAuthenticationError):
        open_as(token.broker_url)
    assert time.monotonic() - begun < EFFECT_SECONDS
    assert user(vhost, name) is None
    kinds = [row["kind"] for row in act.rows("SELECT kind FROM event ORDER BY id")]
    assert kinds == ["agent_enrolled", "agent_revoked", "agent_login_removed"]
    # Nobody is harmed by a second one.
    assert act("agent", "revoke", name).exit_code == 0


def test_a_new_enrolment_changes_the_password(act: Desk, name: str) -> None:
    (first,) = enroll(act, name)
    (second,) = enroll(act, name)
    with pytest.raises(ProbableAuthenticationError):
        open_as(first.broker_url)
    assert may_publish(second.broker_url, f"{name}.control.kvm")
    assert act("agent", "revoke", name).exit_code == 0
    (third,) = enroll(act, name)
    with pytest.raises(ProbableAuthenticationError):
        open_as(second.broker_url)
    assert may_publish(third.broker_url, f"{name}.control.kvm")


@pytest.mark.parametrize("passing", range(7))
def test_whatever_step_of_an_enrolment_fails_nothing_is_half_done_and_a_repeat_mends_it(
    act: Desk, vhost: VirtualHost, name: str, passing: int
) -> None:
    with gate(vhost.broker.admin_url()) as before:
        # A first one, so that all seven calls of a second one are made.
        enroll(act, name)
        agents = act.rows("SELECT * FROM agent")
        act.admin_file.write_text(before.url)
        before.passing = passing
        failed = act("agent", "enroll", name)
    assert len(before.calls) == passing + 1, before.calls
    assert (failed.exit_code, error_of(failed)["code"], failed.stdout) == (1, "broker_unreachable", "")
    assert "repeat" in error_of(failed)["hint"]
    assert act.rows("SELECT * FROM agent") == agents
    (told,) = act.rows("SELECT * FROM event WHERE kind = 'agent_not_enrolled'")
    assert (told["agent"], told["code"]) == (name, "broker_unreachable")
    act.admin_file.write_text(vhost.broker.admin_url())
    (token,) = enroll(act, name)
    assert may_publish(token.broker_url, f"{name}.control.kvm")
    assert not may_publish(token.broker_url, "web1.control.kvm")
    (limits,) = vhost.broker.api("GET", f"user-limits/{name}")
    assert limits["value"] == agent_permissions(name).limits


@pytest.mark.parametrize("passing", range(5))
def test_a_revocation_counts_at_once_and_a_repeat_does_what_the_broker_missed(
    act: Desk, vhost: VirtualHost, name: str, passing: int
) -> None:
    (token,) = enroll(act, name)
    with gate(vhost.broker.admin_url()) as before:
        act.admin_file.write_text(before.url)
        before.passing = passing
        failed = act("agent", "revoke", name)
    problem = error_of(failed)
    assert (failed.exit_code, problem["code"]) == (1, "broker_unreachable")
    assert f"`bootpoint agent revoke {name}`" in problem["hint"]
    (row,) = act.rows("SELECT revoked_at, join_secret FROM agent")
    assert row["revoked_at"] is not None
    assert row["join_secret"] is None
    (told,) = act.rows("SELECT * FROM event WHERE kind = 'agent_login_left'")
    assert told["code"] == "broker_unreachable"
    act.admin_file.write_text(vhost.broker.admin_url())
    assert act("agent", "revoke", name).exit_code == 0
    with pytest.raises(ProbableAuthenticationError):
        open_as(token.broker_url)


def test_users_that_bootpoint_did_not_make_are_left_alone(act: Desk, vhost: VirtualHost, name: str) -> None:
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    vhost.add_user(name, **everything)
    before = user(vhost, name)
    for words in (("agent", "enroll", name), ("event", "user", name), ("event", "user", name, "--remove")):
        refused = act(*words)
        assert (refused.exit_code, error_of(refused)["code"]) == (1, "broker_refused")
        assert name in error_of(refused)["message"]
        assert user(vhost, name) == before
    refused = act("agent", "enroll", "admin")
    assert error_of(refused)["code"] == "broker_refused"
    # A login made for one purpose isn't given to another.
    answer_of(act("event", "user", f"{name}-ups"))
    assert error_of(act("agent", "enroll", f"{name}-ups"))["code"] == "broker_refused"


def test_a_login_that_was_made_by_hand_is_taken_over(act: Desk, vhost: VirtualHost, name: str) -> None:
    rights = rabbit.agent_permissions(name)
    by_hand = vhost.add_user(name, configure=rights.configure, write=rights.write, read=rights.read)
    enroll(act, name)
    with pytest.raises(ProbableAuthenticationError):
        open_as(by_hand)
    found = user(vhost, name)
    assert found is not None
    assert found["tags"] == ["bootpoint-agent"]


def test_a_senders_login_is_made_and_removed(act: Desk, vhost: VirtualHost, name: str) -> None:
    made = answer_of(act("event", "user", name))
    assert made["broker_commands"] == []
    connection = open_as(made["url"])
    removed = answer_of(act("event", "user", name, "--remove"))
    assert removed == {"user": name, "broker_commands": []}
    with pytest.raises(ConnectionClosedByBroker):
        connection.process_data_events(EFFECT_SECONDS)
    assert user(vhost, name) is None
    told = [row["kind"] for row in act.rows("SELECT kind FROM event ORDER BY id")]
    assert told == ["event_user_made", "event_user_removed"]


def test_an_api_that_can_not_be_used_is_explained(act: Desk, vhost: VirtualHost, name: str, tmp_path: Path) -> None:
    def problem(url: str) -> tuple[str, str, str]:
        act.admin_file.write_text(url)
        failed = act("agent", "enroll", name)
        found = error_of(failed)
        assert failed.exit_code == 1
        assert "secret" not in json.dumps(found)
        assert user(vhost, name) is None
        return found["code"], found["message"], found["hint"]

    assert problem(f"http://admin:secret@127.0.0.1:{free_port()}")[0] == "broker_unreachable"
    code, message, hint = problem(vhost.broker.admin_url(password="secret"))
    assert (code, "name or password" in message) == ("broker_refused", True)
    assert "BOOTPOINT_BROKER_ADMIN_URL_FILE" in hint
    watcher = f"{name}-watcher"
    vhost.broker.api("PUT", f"users/{watcher}", {"password": "secret", "tags": "monitoring"})
    vhost.broker.api("PUT", f"permissions/{vhost.name}/{watcher}", {"configure": "", "write": "", "read": ""})
    code, message, hint = problem(vhost.broker.admin_url(watcher, "secret"))
    assert (code, "set_user_tags" in hint) == ("broker_refused", True), message
    authority = make_authority(tmp_path)
    with gate(vhost.broker.admin_url(), authority.server_context()) as secure:
        code, message, hint = problem(secure.url)
        assert (code, "certificate" in message) == ("broker_refused", True)
        assert "BOOTPOINT_BROKER_ADMIN_CA" in hint
        assert secure.calls == [], "the password went to nobody knows whom"
        act.env["BOOTPOINT_BROKER_ADMIN_CA"] = str(authority.file)
        enroll(act, name)
        assert len(secure.calls) == 6


def test_something_else_that_answers_is_no_api(act: Desk, vhost: VirtualHost, name: str) -> None:
    act.admin_file.write_text(f"http://admin:{vhost.broker.password}@127.0.0.1:{vhost.broker.port}")
    found = error_of(act("agent", "enroll", name))
    assert (found["code"], found["key"]) == ("broker_unreachable", "BOOTPOINT_BROKER_ADMIN_URL_FILE")


def test_a_missing_virtual_host_is_named(act: Desk, vhost: VirtualHost, name: str) -> None:
    act.env["BOOTPOINT_BROKER_URL"] = vhost.url.rpartition("/")[0] + "/nowhere"
    found = error_of(act("agent", "enroll", name))
    assert (found["code"], "nowhere" in found["message"]) == ("broker_refused", True)
    assert "add_vhost nowhere" in found["hint"]
    act.env["BOOTPOINT_BROKER_URL"] = vhost.url
    enroll(act, name)


def test_a_file_of_names_is_enrolled_whole(act: Desk, name: str, tmp_path: Path) -> None:
    file = tmp_path / "names"
    file.write_text(f"# the first rack\n{name}-1\n\n  {name}-2  \n # and no more\n{name}-3")
    tokens = enroll(act, "--file", str(file))
    assert [token.agent for token in tokens] == [f"{name}-{number}" for number in (1, 2, 3)]
    assert len({token.secret for token in tokens} | {token.broker_url for token in tokens}) == 6


def test_every_bad_line_of_a_file_is_named_before_anything_is_enrolled(
    act: Desk, vhost: VirtualHost, name: str, tmp_path: Path
) -> None:
    file = tmp_path / "names"
    file.write_text(f"{name}-1\nerp db\n{name}-2\n{name}-1\n.*\n")
    refused = act("agent", "enroll", "--file", str(file))
    assert refused.exit_code == 2
    message = error_of(refused)["message"]
    assert all(f"line {number}" in message for number in (2, 4, 5)), message
    assert act.rows("SELECT name FROM agent") == []
    assert user(vhost, f"{name}-1") is None
    # A name that is somebody else's at the broker is found before the first one is made, too.
    file.write_text(f"{name}-1\nadmin\n")
    assert error_of(act("agent", "enroll", "--file", str(file)))["code"] == "broker_refused"
    assert act.rows("SELECT name FROM agent") == []
    assert user(vhost, f"{name}-1") is None


def test_tokens_that_were_made_before_something_failed_are_not_lost(
    act: Desk, vhost: VirtualHost, name: str, tmp_path: Path
) -> None:
    file = tmp_path / "names"
    file.write_text(f"{name}-1\n{name}-2\n")
    with gate(vhost.broker.admin_url()) as before:
        act.admin_file.write_text(before.url)
        before.passing = 2 + 5 + 1  # both are looked up, the first is made, the second only begun
        failed = act("agent", "enroll", "--file", str(file))
    assert error_of(failed)["code"] == "broker_unreachable"
    (item,) = json.loads(failed.stdout)["items"]
    assert may_publish(Token.decode(item["token"]).broker_url, f"{name}-1.control.kvm")


@pytest.mark.parametrize("text", ["", "s3cret", "amqp://", "http://a:s3cret@broker/"])
def test_a_file_without_an_amqp_url_enrolls_nobody(act: Desk, tmp_path: Path, text: str) -> None:
    file = tmp_path / "broker.url"
    file.write_text(text)
    refused = act("agent", "enroll", "erp", "--broker-url-file", str(file))
    problem = error_of(refused)
    assert (problem["code"], problem["key"], problem["value"]) == ("spec_invalid", "broker-url-file", str(file))
    assert "s3cret" not in refused.stdout + refused.stderr
    assert error_of(act("agent", "show", "erp"))["code"] == "no_such_agent"


def test_without_the_api_a_person_is_told_what_to_do(act: Desk, vhost: VirtualHost) -> None:
    del act.env["BOOTPOINT_BROKER_ADMIN_URL_FILE"]
    (item,) = answer_of(act("agent", "enroll", "erp"))["items"]
    password = Token.decode(item["token"]).broker_url.partition("@")[0].rpartition(":")[2]
    assert item["broker_commands"][0] == f"echo {password} | rabbitmqctl add_user erp"
    assert len(item["broker_commands"]) == 4
    assert answer_of(act("agent", "show", "erp"))["state"] == "pending"
    # One that is there already can't be added once more.
    (again,) = answer_of(act("agent", "enroll", "erp"))["items"]
    assert again["broker_commands"][0].endswith(" | rabbitmqctl change_password erp")
    assert answer_of(act("agent", "revoke", "erp"))["broker_commands"] == ["rabbitmqctl delete_user erp"]
    (anew,) = answer_of(act("agent", "enroll", "erp"))["items"]
    assert anew["broker_commands"][0].endswith(" | rabbitmqctl add_user erp")
    removal = answer_of(act("event", "user", "ups", "--remove"))
    assert removal["broker_commands"] == ["rabbitmqctl delete_user ups"]
    assert user(vhost, "erp") is None


def test_a_revoked_agents_carrier_is_lost(act: Desk, name: str) -> None:
    (token,) = enroll(act, name)
    with closing(rabbit.connect_agent(token.broker_url, name)) as carrier:
        publisher = carrier.publisher()
        assert publisher.alive
        answer_of(act("agent", "revoke", name))
        with pytest.raises(CarrierLost):
            carrier.publisher()
