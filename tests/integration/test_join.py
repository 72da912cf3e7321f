"""A token joins one machine: when two hold it at once, when it was altered, and when it is spent or too old."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.enrolment import Token
from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.store import agent as agents
from bootpoint_producer.join import join
from bootpoint_producer.state import AgentState, Identity
from tests.service.fleet import Fleet, fleet

NAME = "erp-db"

#: Seconds that a machine waits for an answer; a worker takes well under one.
PATIENCE = 5.0


@pytest.fixture
def installation(database: str, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(database, tmp_path) as made:
        made.add_worker("w1")
        yield made


def token(installation: Fleet) -> Token:
    """Make a token, as `agent enroll` does."""
    secret = os.urandom(32)
    with installation.database.transaction() as connection:
        agents.enroll(connection, NAME, "fake", installation.vault.encrypt(agents.join_purpose(NAME), secret))
    return Token(NAME, "fake", "amqp://nobody@localhost", "", secret)


def attempt(installation: Fleet, given: Token, place: str, seconds: float = PATIENCE) -> Identity | BootpointError:
    """Let a machine join; returns what came of it."""
    machine: dict[str, Any] = {"smbios_uuid": place, "disk_serials": []}
    carrier = installation.broker.agent_carrier(NAME)
    try:
        state = AgentState(installation.directory / place)
        return join(state, given, carrier, machine, version="0", timeout=seconds)
    except BootpointError as problem:
        return problem
    finally:
        carrier.close()


def key_of(installation: Fleet) -> bytes | None:
    with installation.database.transaction() as connection:
        key = agents.get(connection, NAME).current_key(installation.vault)
    return None if key is None else key.secret


def test_of_two_machines_with_one_token_one_joins(installation: Fleet) -> None:
    given = token(installation)
    came: dict[str, Identity | BootpointError] = {}

    def enter(place: str) -> None:
        came[place] = attempt(installation, given, place)

    machines = [threading.Thread(target=enter, args=(place,)) for place in ("a", "b")]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join()
    row = installation.row("SELECT machine->>'smbios_uuid' AS place FROM agent")
    assert row is not None
    loser = came[{"a": "b", "b": "a"}[row["place"]]]
    assert isinstance(loser, BootpointError)
    assert loser.code is Code.NO_WORKER
    assert len(installation.rows("SELECT 1 FROM event WHERE kind = 'agent_joined'")) == 1
    # The loser may have taken the winner's answer out of their queue: then a new token helps, as the error says.
    winner = came[row["place"]]
    if isinstance(winner, BootpointError):
        assert "make a new one" in str(winner.hint)
        winner = attempt(installation, token(installation), row["place"])
    assert isinstance(winner, Identity)
    assert winner.key.secret == key_of(installation)


def test_altered_spent_and_old_tokens_join_nobody(installation: Fleet) -> None:
    given = token(installation)
    for altered in (
        Token(NAME, "fake", given.broker_url, "", os.urandom(32)),
        Token("another", "fake", given.broker_url, "", given.secret),
    ):
        assert isinstance(attempt(installation, altered, "wrong", 1.0), BootpointError)
    with installation.database.transaction() as connection:
        connection.execute("UPDATE agent SET join_expires_at = now() - interval '1 second'")
    assert isinstance(attempt(installation, given, "late", 1.0), BootpointError)
    assert key_of(installation) is None
    given = token(installation)
    first = attempt(installation, given, "first")
    assert isinstance(first, Identity)
    assert isinstance(attempt(installation, given, "second", 1.0), BootpointError)
    assert key_of(installation) == first.key.secret
