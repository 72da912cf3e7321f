"""A source shuts down or starts: what is said, by whom, how often, and which runs follow."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest
from click.testing import CliRunner

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.store.database import run as execute
from bootpoint_common.store.source_event import Kind
from bootpoint_common.stream.carrier import Delivery
from bootpoint_common.units import MiB
from bootpoint_producer.board import Step
from bootpoint_producer.command import main as agent_command
from bootpoint_worker import event_intake, occasion
from bootpoint_worker.context import Context, Sessions
from bootpoint_worker.targets.fake_host import FakeHost
from tests.integration.test_flow import replica_content, write_random
from tests.service.fleet import Fleet

#: Events that change nothing for a job that doesn't name them.
SHUTDOWN = {"on_shutdown": {"enabled": True, "deadline": "60s"}}

NOON = datetime(2026, 12, 3, 12, 0, 0, tzinfo=UTC)


class Scene:
    """One machine with one job, and what its administrator does; its agent doesn't run until `start`."""

    def __init__(
        self, installation: Fleet, folder: Path, rng: random.Random, rules: dict[str, Any], **job: Any
    ) -> None:
        self.fleet, self.folder, self.rng = installation, folder, rng
        self.host = FakeHost.at(f"fake-{folder.name}")
        self.disk = folder / "system.raw"
        write_random(self.disk, 16 * MiB, rng, 40)
        self.host_id = installation.add_host(self.host.name)
        installation.enroll_agent("erp-db")
        self.job = installation.add_job("erp", "erp-db", {"system": self.disk}, self.host_id, rules=rules, **job)

    def start(self) -> Self:
        """Start the machine's agent."""
        self.fleet.start_agent("erp-db", [self.disk])
        return self

    @property
    def context(self) -> Context:
        """What a scheduler works with."""
        vault = self.fleet.vault
        return Context(
            database=self.fleet.database,
            carrier=self.fleet.broker.worker_carrier(),
            vault=vault,
            sessions=Sessions(vault),
            worker="s1",
        )

    def event(self, kind: str, *words: str, **environment: str) -> tuple[int, dict[str, Any]]:
        """Call the agent's command; returns its exit code and what it says."""
        done = CliRunner(env=environment).invoke(agent_command, self.words(kind, *words))
        return done.exit_code, json.loads(done.output)

    def process(self, kind: str, *words: str) -> tuple[int, dict[str, Any]]:
        """Call the agent's command as systemd does, from a process of its own."""
        program = str(Path(sys.executable).with_name("bootpoint-agent"))
        done = subprocess.run([program, *self.words(kind, *words)], capture_output=True, text=True, timeout=90)
        return done.returncode, json.loads(done.stdout or done.stderr)

    def words(self, kind: str, *words: str) -> list[str]:
        (self.folder / "agent.toml").touch()
        place = ["--state", str(self.folder / "agent-erp-db"), "--config", str(self.folder / "agent.toml")]
        return ["event", kind, *words, *place, "-o", "json"]

    def say(self, kind: Kind, *, at: datetime, actor: str = "bp.events", origin: str = "ups") -> occasion.Outcome:
        said = occasion.Said(source="erp-db", kind=kind, actor=actor, origin=origin)
        with self.fleet.database.transaction() as connection:
            return occasion.take(connection, said, at=at)

    def history(self, *kinds: str) -> list[dict[str, Any]]:
        return self.fleet.rows("SELECT * FROM v_event WHERE kind = ANY(%s) ORDER BY id", list(kinds))

    def runs(self) -> list[dict[str, Any]]:
        return self.fleet.rows("SELECT * FROM run ORDER BY id")

    def newest_equals_source(self) -> bool:
        point = self.fleet.points(self.job)[-1]
        return replica_content(self.fleet, self.job, self.host.name, point.id, "system") == self.disk.read_bytes()


@pytest.fixture
def scene(installation: Fleet, tmp_path: Path, rng: random.Random) -> Scene:
    return Scene(installation, tmp_path, rng, SHUTDOWN)


@contextmanager
def waiting(call: Any, *arguments: Any) -> Iterator[list[Any]]:
    """Make a call in a thread; its result is in the list when the block has ended."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call(*arguments)))
    thread.start()
    yield results
    thread.join(90)
    assert results, "the call did not come back"


# --- the machine itself


def test_a_shutdown_ends_when_everything_is_sent_and_the_point_stands_without_the_machine(
    installation: Fleet, tmp_path: Path, rng: random.Random
) -> None:
    """The target takes nothing until the machine is gone; the window of others, 2 MiB here, would not hold it all."""
    scene = Scene(installation, tmp_path, rng, SHUTDOWN).start()
    pause = scene.host.pause_at("open_writer", "called")
    installation.add_worker("w1", window_bytes=2 * MiB)
    assert scene.process("shutdown", "--origin", "systemd") == (
        0, {"event": "shutdown", "items": [{"job": "erp", "run": 1, "state": "sent", "problem": None}]},
    )  # fmt: skip
    installation.agents.pop("erp-db").stop()
    pause.release()
    installation.wait_until(lambda: installation.row("SELECT 1 AS x FROM run WHERE state = 'succeeded'"))
    assert scene.newest_equals_source()
    (said,) = scene.history("source_shutdown")
    assert (said["actor"], said["origin"], said["agent"]) == ("agent erp-db", "systemd", "erp-db")


def test_where_the_broker_goes_with_the_machine_the_point_has_to_stand(scene: Scene, installation: Fleet) -> None:
    """As in `bootpoint up`, whose broker is its own memory."""
    installation.start_agent("erp-db", [scene.disk], broker_stays=False)
    pause = scene.host.pause_at("commit", "called")
    installation.add_worker("w1")
    with waiting(scene.event, "shutdown") as results:
        pause.wait()
        (run,) = scene.runs()
        board = installation.agents["erp-db"]._board
        sent = board.wait(lambda: (found := board.run(run["uid"])) and (found.step is Step.SENT or None), 30)
        assert sent
        assert not results, "the machine was let go while its memory held the point"
        pause.release()
    assert results == [
        (0, {"event": "shutdown", "items": [{"job": "erp", "run": 1, "state": "committed", "problem": None}]})
    ]


def test_what_takes_too_long_is_not_begun_and_is_made_up_at_the_restart(
    installation: Fleet, tmp_path: Path, rng: random.Random
) -> None:
    paused = tmp_path / "paused"
    script = {"before_snapshot": {"run": ["/usr/bin/touch", str(paused)]}}
    scene = Scene(installation, tmp_path, rng, SHUTDOWN, scripts=script).start()
    installation.add_worker("w1")
    installation.wait_until(lambda: installation.row("SELECT 1 AS x FROM agent WHERE inventory IS NOT NULL"))
    installation.wait(installation.run(scene.job))
    paused.unlink()
    with installation.database.transaction() as connection:  # as slow as a tape
        execute(connection, "UPDATE run SET started_at = started_at - interval '1 hour'")
        execute(connection, "UPDATE boot_point_disk SET scanned_bytes = 16777216")
    code, told = scene.event("shutdown")
    assert (code, told["items"][0]["state"], told["items"][0]["problem"]["code"]) == (1, "failed", "deadline")
    assert "as earlier runs went; the machine has " in told["items"][0]["problem"]["message"]
    failed = installation.wait_until(lambda: installation.row("SELECT * FROM run WHERE state = 'failed'"))
    assert (failed["reason"], failed["last_breath"]) == ("deadline", True)
    assert not paused.exists(), "the machine's applications were paused for nothing"
    assert len(scene.history("deadline")) == 1
    assert len(installation.points(scene.job)) == 1

    code, told = scene.event("restart")
    assert (code, told["items"][0]["job"], told["items"][0]["problem"]) == (0, "erp", None)
    installation.wait_until(lambda: installation.row("SELECT 1 AS x FROM run WHERE id = 3 AND state = 'succeeded'"))
    assert scene.newest_equals_source()
    assert [(run["trigger"], run["last_breath"]) for run in scene.runs()[1:]] == [("event", True), ("event", False)]


def test_a_run_whose_time_is_over_lets_the_machine_go(installation: Fleet, tmp_path: Path, rng: random.Random) -> None:
    scene = Scene(installation, tmp_path, rng, {"on_shutdown": {"enabled": True, "deadline": "3s"}}).start()
    pause = scene.host.pause_at("open", "called")
    installation.add_worker("w1")
    code, told = scene.event("shutdown")
    assert (code, told["items"][0]["problem"]["code"]) == (1, "deadline")
    installation.wait_until(lambda: installation.row("SELECT 1 AS x FROM run WHERE reason = 'deadline'"))
    pause.release()
    installation.wait_until(lambda: installation.row("SELECT 1 AS x FROM run WHERE state = 'failed'"))
    assert installation.points(scene.job) == []


def test_without_a_free_place_it_is_not_begun(installation: Fleet, tmp_path: Path, rng: random.Random) -> None:
    scene = Scene(installation, tmp_path, rng, {"on_shutdown": {"enabled": True, "deadline": "8s"}}).start()
    with installation.database.transaction() as connection:
        execute(connection, "UPDATE host SET max_open_points = 0")
    installation.add_worker("w1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0bootpoint-" + tmp_path.name)
        code, told = scene.event("shutdown", NOTIFY_SOCKET="@bootpoint-" + tmp_path.name)
        word, _, microseconds = systemd.recv(100).decode().partition("=")
    assert (word, 8e6 < int(microseconds) < 15e6) == ("EXTEND_TIMEOUT_USEC", True), "systemd would not have waited"
    (problem,) = [item["problem"] for item in told["items"]]
    assert (code, problem["code"]) == (1, "deadline")
    assert "no place was free in time" in problem["message"]
    (run,) = scene.runs()
    assert run["started_at"] is None
    assert run["ended_at"] - run["due_at"] < timedelta(seconds=6), "the machine was held up for longer than a quarter"


def test_a_machine_that_shuts_down_goes_to_the_head_of_the_line(
    installation: Fleet, tmp_path: Path, rng: random.Random
) -> None:
    """The line is full of a job that asked earlier; the place that comes free is the shutdown's."""
    scene = Scene(installation, tmp_path, rng, SHUTDOWN).start()
    other = tmp_path / "other.raw"
    write_random(other, 4 * MiB, rng, 4)
    installation.add_agent("web", [other])
    patient = installation.add_job("web", "web", {"system": other}, scene.host_id)
    with installation.database.transaction() as connection:
        execute(connection, "UPDATE host SET max_open_points = 0")
    installation.add_worker("w1")
    early = installation.run(patient)
    with waiting(scene.process, "shutdown") as results:
        installation.wait_until(lambda: installation.row("SELECT 1 AS x FROM run WHERE last_breath"))
        with installation.database.transaction() as connection:
            execute(connection, "UPDATE host SET max_open_points = 1")
    assert results[0][0] == 0
    installation.wait(early)
    first, second = installation.rows("SELECT last_breath FROM run ORDER BY started_at")
    assert (first["last_breath"], second["last_breath"]) == (True, False)


def test_nobody_who_hears_it_holds_no_machine_up_and_the_restart_makes_up_for_it(
    installation: Fleet, tmp_path: Path, rng: random.Random
) -> None:
    scene = Scene(installation, tmp_path, rng, SHUTDOWN).start()
    code, told = scene.event("shutdown", "--timeout", "1")
    assert (code, told["code"]) == (1, "no_worker")
    installation.add_worker("w1")
    code, told = scene.event("restart")
    assert (code, [item["job"] for item in told["items"]]) == (0, ["erp"])
    installation.wait_until(lambda: installation.row("SELECT 1 AS x FROM run WHERE state = 'succeeded'"))
    assert scene.event("restart")[1]["items"][0]["run"] == told["items"][0]["run"], "said twice within a minute"


def test_a_restart_is_said_once_in_each_start_of_the_machine(scene: Scene, installation: Fleet) -> None:
    scene.start()
    installation.add_worker("w1")
    with installation.database.transaction() as connection:
        execute(connection, "UPDATE job SET spec = jsonb_set(spec, '{run,on_restart}', 'true')")
    assert [item["job"] for item in scene.event("restart", "--once")[1]["items"]] == ["erp"]
    assert scene.event("restart", "--once") == (0, {"event": "restart", "items": []})
    assert len(scene.runs()) == 1


def test_where_no_agent_runs_the_command_says_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(agent_command, ["event", "shutdown", "--state", str(tmp_path)])
    assert done.exit_code == 1
    assert f"no agent runs over {tmp_path}" in done.output


# --- the same, said by others, and again


def test_what_is_said_within_a_minute_is_one_event(scene: Scene) -> None:
    first = scene.say(Kind.SHUTDOWN, at=NOON, origin="ups-1: LOWBATT")
    again = scene.say(Kind.SHUTDOWN, at=NOON + timedelta(seconds=59), actor="agent erp-db", origin="systemd")
    assert (first.repeated, again.repeated) == (False, True)
    assert [run.number for run in again.runs] == [run.number for run in first.runs] == [1]
    scene.say(Kind.SHUTDOWN, at=NOON + timedelta(seconds=59), actor="agent erp-db", origin="systemd")
    assert [row["origin"] for row in scene.history("source_event_repeated")] == ["systemd"]
    assert len(scene.runs()) == 1
    later = scene.say(Kind.SHUTDOWN, at=NOON + timedelta(seconds=60))
    assert not later.repeated
    assert [run.number for run in later.runs] == [1], "the run that stands in the line serves the new event as well"


def test_a_restart_in_between_makes_two_shutdowns_of_them(scene: Scene) -> None:
    scene.say(Kind.SHUTDOWN, at=NOON)
    scene.say(Kind.RESTART, at=NOON + timedelta(seconds=20))
    assert not scene.say(Kind.SHUTDOWN, at=NOON + timedelta(seconds=40)).repeated


def test_a_source_can_not_be_kept_busy_by_events(scene: Scene) -> None:
    for number in range(occasion.MOST):
        scene.say(Kind.SHUTDOWN, at=NOON + timedelta(seconds=61 * number))
    with pytest.raises(BootpointError) as refused:
        scene.say(Kind.SHUTDOWN, at=NOON + timedelta(seconds=61 * occasion.MOST))
    assert refused.value.code is Code.BUSY
    assert not scene.say(Kind.SHUTDOWN, at=NOON + timedelta(hours=2)).repeated


UPS = {"origin": "ups"}

#: Routing key and body of what is refused, and by which code.
REFUSED: list[tuple[str, Any, str]] = [
    ("source.erp-db.restart", UPS, "no_such_job"),
    ("source.nobody.shutdown", UPS, "no_such_agent"),
    ("source.erp-db.explode", UPS, "bundle_rejected"),
    ("source.erp-db.shutdown.now", UPS, "bundle_rejected"),
    ("source.erp-db.shutdown", {}, "bundle_rejected"),
    ("source.erp-db.shutdown", {"origin": ""}, "bundle_rejected"),
    ("source.erp-db.shutdown", {"origin": "two\nlines"}, "bundle_rejected"),
    ("source.erp-db.shutdown", {"origin": "o" * 201}, "bundle_rejected"),
    ("source.erp-db.shutdown", {"origin": 5}, "bundle_rejected"),
    ("source.erp-db.shutdown", {**UPS, "job": "erp"}, "bundle_rejected"),
    ("source.erp-db.shutdown", {**UPS, "\0": "what no row can hold"}, "bundle_rejected"),
    ("source.erp-db.shutdown", ["ups"], "bundle_rejected"),
]


def test_a_message_is_taken_or_refused_by_name(scene: Scene) -> None:
    context = scene.context
    for route, body, code in REFUSED:
        event_intake.take(context, Delivery(1, json.dumps(body).encode(), route=route))
        assert scene.history("source_event_refused")[-1]["code"] == code, (route, body)
    assert len(scene.history("source_event_refused")) == len(REFUSED)
    assert scene.runs() == []
    event_intake.take(context, Delivery(1, json.dumps(UPS).encode(), route="source.erp-db.shutdown"))
    assert len(scene.runs()) == 1


def test_refusals_do_not_fill_the_history(scene: Scene) -> None:
    context = scene.context
    for number in range(40):
        event_intake.take(context, Delivery(1, json.dumps(UPS).encode(), route=f"source.nobody-{number}.shutdown"))
    assert len(scene.history("source_event_refused")) == 10


def test_a_disabled_job_begins_nothing(scene: Scene, installation: Fleet) -> None:
    with installation.database.transaction() as connection:
        execute(connection, "UPDATE job SET enabled = false")
    with pytest.raises(BootpointError) as refused:
        scene.say(Kind.SHUTDOWN, at=NOON)
    assert refused.value.code is Code.NO_SUCH_JOB
