"""A machine goes down while its job has another run under way: it hears what becomes of the run that it waits for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.store.source_event import Kind
from tests.integration.test_events import Scene, waiting
from tests.service.fleet import Fleet, fleet
from tests.service.process import wait_for

#: Of this deadline a quarter may pass until the run begins.
RULES = {"on_shutdown": {"enabled": True, "deadline": "40s"}}


@pytest.fixture
def installation(database: str, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(database, tmp_path) as made:
        yield made


@pytest.fixture
def scene(installation: Fleet, tmp_path: Path, rng: random.Random) -> Scene:
    made = Scene(installation, tmp_path, rng, RULES).start()
    installation.add_worker("w1")
    return made


def expire(scene: Scene, table: str, column: str) -> None:
    """Let the quarter of the deadline be over."""
    with scene.fleet.database.transaction() as connection:
        query = f"UPDATE {table} SET {column} = now() - interval '1 second' WHERE {column} IS NOT NULL"
        connection.execute(query.encode())


def item(results: list[Any]) -> tuple[int, dict[str, Any]]:
    ((code, told),) = results
    (found,) = told["items"]
    return code, found


def test_a_run_in_its_way_lets_a_machine_go_once_its_own_can_not_begin(scene: Scene, installation: Fleet) -> None:
    pause = scene.host.pause_at("commit", "called")
    first = installation.run(scene.job)
    pause.wait()
    with waiting(scene.event, "shutdown") as results:
        wait_for(lambda: scene.history("event_waits"), "the event to be taken")
        expire(scene, "due", "until")
    code, told = item(results)
    assert (code, told["state"], told["problem"]["code"]) == (1, "failed", "deadline")
    assert told["problem"]["message"] == "job erp had another run under way until the deadline of the shutdown"
    # Said again a moment later, as by a second program on the machine, it is known already.
    code, again = item([scene.event("shutdown")])
    assert (code, again["run"], again["problem"]) == (1, scene.runs()[-1]["id"], told["problem"])
    pause.release()
    installation.wait(first)


def test_a_run_that_finds_no_place_after_the_one_in_its_way_lets_the_machine_go(
    scene: Scene, installation: Fleet
) -> None:
    pause = scene.host.pause_at("commit", "called")
    first = installation.run(scene.job)
    pause.wait()
    with waiting(scene.event, "shutdown") as results:
        wait_for(lambda: scene.history("event_waits"), "the event to be taken")
        with installation.database.transaction() as connection:
            connection.execute(b"UPDATE host SET max_open_points = 0")
        pause.release()
        installation.wait(first)
        wait_for(lambda: len(scene.runs()) == 2, "the run of the shutdown")
        expire(scene, "run", "begin_by")
    code, told = item(results)
    assert (code, told["state"], told["problem"]["code"]) == (1, "failed", "deadline")
    assert "not everything was sent" not in told["problem"]["message"]


def test_a_machine_hears_of_the_run_that_its_ups_had_begun(scene: Scene, installation: Fleet) -> None:
    """Its first word comes when that run, which waited for another one, is under way."""
    pause = scene.host.pause_at("commit", "called")
    first = installation.run(scene.job)
    pause.wait()
    scene.say(Kind.SHUTDOWN, at=datetime.now(UTC))
    pause.release()
    installation.wait(first)
    board = installation.agents["erp-db"]._board
    wait_for(lambda: len(scene.runs()) == 2 and board.run(scene.runs()[1]["uid"]), "the run of the shutdown")
    code, told = scene.event("shutdown")
    assert (code, told["items"][0]["run"], told["items"][0]["state"]) == (0, scene.runs()[1]["id"], "sent")
