"""Pins and plans on the command line, over a real database with a fleet on a fake host."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry

from bootpoint_ops.cli import main
from bootpoint_ops.gauge import StateCollector
from tests.integration.test_retention import SIZE, Machine
from tests.service.fleet import Fleet, fleet

Call = Callable[..., Result]


@pytest.fixture
def installation(database: str, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(database, tmp_path) as made:
        yield made


@pytest.fixture
def call(database: str, tmp_path: Path) -> Call:
    env = {
        "BOOTPOINT_STATE": str(tmp_path / "state"),
        "BOOTPOINT_DATABASE_URL": database,
        "BOOTPOINT_INSTALLATION_KEY": str(tmp_path / "key"),
        "COLUMNS": "80",
    }

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(main, words, env=env)

    return invoke


def _answer(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_pins_are_kept_shown_and_heeded_by_the_plan(
    installation: Fleet, call: Call, tmp_path: Path, rng: random.Random
) -> None:
    machine = Machine(installation, tmp_path, rng, points=3)
    host = machine.host.name
    for _ in range(3):
        machine.change(2)
        machine.protect()
    machine.verify_one(installation.points(machine.job)[1])
    first, second, third = (point.name for point in installation.points(machine.job))

    (item,) = _answer(call("job", "plan", "erp", "-o", "json"))["items"]
    assert (item["host"], item["kind"], item["checked"], item["error"]) == (host, "increment", True, None)
    assert item["changed_bytes"] > 0
    assert item["duration_seconds"] > 0
    assert [(disk["slot"], disk["tracker"]) for disk in item["trackers"]] == [("system", "hash")]
    kept = item["retention"]
    assert [one["name"] for one in kept["go"]] == [first]
    assert {one["name"]: one["reasons"] for one in kept["kept"]} == {second: ["last_verified"]}
    assert (kept["points"], kept["points_limit"], kept["points_after"], kept["blocked"]) == (3, 3, 3, False)
    assert 0 < kept["freed_bytes_at_most"] <= kept["copied_bytes"]

    assert call("point", "pin", "erp", first, "--reason", "audit", "--until", "2020-01-01").exit_code == 2
    pinned = _answer(call("point", "pin", "erp", first, "--reason", "audit", "--until", "30d", "-o", "json"))
    assert pinned["pinned"]["reason"] == "audit"
    assert pinned["pinned"]["until"] > pinned["pinned"]["at"]
    text = call("point", "list", "erp").stdout
    assert "pinned" in text
    assert "audit" in call("point", "show", "erp", first).stdout
    # Without any answer of host or source, the plan is what the rows say.
    (item,) = _answer(call("job", "plan", "erp", "--timeout", "0", "-o", "json"))["items"]
    assert (item["checked"], [one["name"] for one in item["retention"]["go"]]) == (False, [third])

    assert call("point", "pin", "erp", "latest", "--reason", "before the update").exit_code == 0
    plan = call("job", "plan", "erp").stdout
    assert "the run will be refused (retention_full): no point may go" in plan
    assert "pinned: audit" in plan
    shown = machine.protect(state="failed")
    assert shown["reason"] == "retention_full"
    assert _gauge(installation) == {("erp", host): 1.0}
    assert len(machine.events("retention_blocked")) == 1

    assert call("point", "unpin", "erp", first).exit_code == 0
    assert _gauge(installation) == {("erp", host): 0.0}
    machine.protect()
    left = machine.settled(3)
    assert left[:2] == [second, third]
    assert call("point", "show", "erp", first).exit_code == 3
    assert call("run", "show", "1").exit_code == 0
    kinds = [event["kind"] for event in installation.rows("SELECT kind FROM event WHERE point IS NOT NULL ORDER BY id")]
    assert [kind for kind in kinds if "pinned" in kind] == ["point_pinned", "point_pinned", "point_unpinned"]


def _gauge(installation: Fleet) -> dict[tuple[str, str], float]:
    registry = CollectorRegistry()
    registry.register(StateCollector(installation.database))
    samples = (sample for family in registry.collect() for sample in family.samples)
    return {
        (sample.labels["job"], sample.labels["host"]): sample.value
        for sample in samples
        if sample.name == "bootpoint_retention_blocked"
    }


def test_a_job_without_a_point_is_planned_as_a_full_copy(
    installation: Fleet, call: Call, tmp_path: Path, rng: random.Random
) -> None:
    machine = Machine(installation, tmp_path, rng, points=5)
    (item,) = _answer(call("job", "plan", "erp", "-o", "json"))["items"]
    assert (item["kind"], item["reason"], item["checked"]) == ("full", "first", True)
    assert item["retention"]["points_after"] == 1
    assert "full (first)" in call("job", "plan", "erp", "--timeout", "0").stdout
    machine.protect()
    (first,) = _answer(call("run", "list", "-o", "json"))["items"]
    planned, actual = first["plan"], first["plan"]["actual"]
    assert (planned["kind"], planned["duration_seconds"]) == ("full", None)
    assert 0 < planned["changed_bytes"] <= SIZE
    point = installation.rows("SELECT changed_bytes FROM v_boot_point")[0]
    assert (actual["kind"], actual["changed_bytes"]) == ("full", point["changed_bytes"])
    assert 0 < actual["duration_seconds"] < 60
    off = f"{point['changed_bytes'] / planned['changed_bytes']:.2g} times what was planned"
    assert off in call("run", "show", str(first["id"])).stdout
    assert off in call("run", "log", str(first["id"])).stdout
    (ended,) = machine.events("run_succeeded")
    assert ended["details"]["plan"] == planned
    # What an increment will change nobody knows before there was one.
    (item,) = _answer(call("job", "plan", "erp", "-o", "json"))["items"]
    assert (item["kind"], item["changed_bytes"]) == ("increment", None)
    assert item["duration_seconds"] is not None
    assert "increment of unknown size" in call("job", "plan", "erp").stdout
    shown = call("job", "show", "erp").stdout
    assert "by hand only" in shown
    assert "increment of unknown size" in shown
    assert "█" * 20 in shown
    assert machine.events("retention_blocked") == []
