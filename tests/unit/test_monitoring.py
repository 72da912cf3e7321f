"""Alert rules, boards and their page: made by code, right by promtool and by Grafana's own types."""

from __future__ import annotations

import enum
import json
import re
import subprocess
import types
import typing
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from bootpoint_ops.cli import main
from bootpoint_ops.monitoring.__main__ import files
from bootpoint_ops.monitoring.boards import BOARDS, board_text
from bootpoint_ops.monitoring.rule import DOCS, Alert, Pace, duration, heading
from bootpoint_ops.monitoring.rulebook import alerts
from tests.service.component import need

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "ops/prometheus"
RULE_TESTS = sorted(path.name for path in PROMETHEUS.glob("*.test.yml"))
PAGE = (ROOT / "docs/alerts.md").read_text()


def promtool(*words: str) -> str:
    need("promtool")
    done = subprocess.run(["promtool", *words], cwd=PROMETHEUS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", files())
def test_files_are_as_the_code_makes_them(name: str) -> None:
    assert (ROOT / "ops" / name).read_text() == files()[name], "run: make boards"


@pytest.mark.parametrize("name", ["prometheus.yml", "compose.yml"])
def test_configurations_are_right(name: str) -> None:
    assert "SUCCESS: 1 rule files found" in promtool("check", "config", name)
    jobs = {job["job_name"]: job for job in yaml.safe_load((PROMETHEUS / name).read_text())["scrape_configs"]}
    assert set(jobs) == {"bootpoint", "bootpoint-worker", "rabbitmq"}
    assert jobs["bootpoint"]["honor_labels"], "the name of a job would become exported_job"


@pytest.mark.parametrize("name", RULE_TESTS)
def test_rules_fire_and_clear_as_their_unit_tests_say(name: str) -> None:
    assert "SUCCESS" in promtool("test", "rules", name)


@cache
def rule_tests() -> list[dict[str, Any]]:
    return [test for name in RULE_TESTS for test in yaml.safe_load((PROMETHEUS / name).read_text())["tests"]]


def seen(alert: Alert) -> list[bool]:
    """Return whether the unit tests see an alert firing, at each time they look, in order."""
    found: list[bool] = []
    name = alert.name
    for test in rule_tests():
        found += [
            bool(look["exp_alerts"]) for look in test.get("alert_rule_test", []) if look["alertname"] == alert.name
        ]
        for look in test.get("promql_expr_test", []):
            asked = re.match(r'ALERTS\{alertname=~?"([^"]+)"', look["expr"])
            if asked and re.fullmatch(asked[1], name):
                found.append(any(f'"{name}"' in sample["labels"] for sample in look["exp_samples"]))
    return found


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_each_alert_is_unit_tested_silent_firing_and_cleared(alert: Alert) -> None:
    assert re.search("sf+s", "".join("f" if fires else "s" for fires in seen(alert))), seen(alert)


# --- the page


def section(alert: Alert) -> str:
    found = re.search(rf"^## {heading(alert.name)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/alerts.md has no heading {heading(alert.name)!r}"
    return found[1]


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_each_alert_leads_to_its_heading(alert: Alert) -> None:
    link = alert.as_yaml()["annotations"]["runbook_url"]
    anchor = heading(alert.name).lower().replace(" ", "-")
    assert link == f"{DOCS}/alerts.md#{anchor}"
    assert "```sh" in section(alert)
    assert alert.description.endswith(".")
    assert "\n" not in alert.summary


def test_the_page_has_no_heading_of_an_alert_that_is_gone() -> None:
    headings = re.findall(r"^## (.*)", PAGE, re.MULTILINE)
    assert headings[:2] == ["Setting it up", "When you are woken"]
    assert sorted(headings[2:]) == sorted(heading(alert.name) for alert in alerts())


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert subprocess.run(["bash", "-n"], input="".join(blocks), text=True).returncode == 0
    lines = (line.removesuffix(" || true") for line in "".join(blocks).splitlines())
    said = [line for line in lines if line.startswith("bootpoint ")]
    rest = [line for line in re.findall(r"`(bootpoint [^`]+)`", PAGE) if len(line.split()) > 1]
    return sorted({*said, *rest} - {line for line in rest if line.startswith("bootpoint_")})


def test_the_page_calls_no_program_that_nobody_has() -> None:
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
    called = {line.split()[0] for line in blocks.splitlines() if not re.match(r"[A-Z]+=", line)}
    assert called == {"bootpoint", "cp", "df", "promtool", "rabbitmq-diagnostics", "rabbitmqctl"}


@pytest.mark.parametrize("line", commands())
def test_the_commands_of_the_page_are_commands(line: str) -> None:
    words = line.replace("ID", "7").replace(" N", " 4").replace('"', "").split()[1:]
    command: Any = main
    context = command.make_context("bootpoint", words[:0], resilient_parsing=True)
    while hasattr(command, "list_commands") and not (words and words[0].startswith("-")):
        name = words.pop(0)
        command = command.get_command(context, name)
        assert command is not None, f"bootpoint has no command {name!r}"
    text = re.search(r'--reason "([^"]*)"', line)
    if text:
        start = words.index("--reason")
        words[start + 1 :] = [text[1]]
    command.make_context(command.name, words, resilient_parsing=False)


# --- the boards


@pytest.mark.parametrize("name", BOARDS)
def test_boards_keep_everything_when_grafanas_types_read_them(name: str) -> None:
    register_default_plugins()
    content = json.loads((ROOT / f"ops/grafana/boards/{name}.json").read_text())
    board = Dashboard.from_json(content)
    assert_kept(content, json.loads(json.dumps(board, cls=JSONEncoder)), name)
    check(board, Dashboard, name)


def assert_kept(written: Any, read: Any, path: str) -> None:
    """Require that everything written was read; what Grafana's types don't know they drop. They may add defaults."""
    if isinstance(written, dict):
        for key, value in written.items():
            assert key in read, f"{path}.{key}: Grafana's schema doesn't know it"
            assert_kept(value, read[key], f"{path}.{key}")
    elif isinstance(written, list):
        assert len(written) == len(read), path
        for position, value in enumerate(written):
            assert_kept(value, read[position], f"{path}[{position}]")
    else:
        assert written == read, path


def check(value: object, wanted: Any, path: str) -> None:  # noqa: C901 - one branch for each form of a type
    """Compare a value with the types that Grafana's schema gives its attributes.

    Raises:
        AssertionError: It has another type; the message names the path.
    """
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted in (Any, object):
        return
    if origin in (typing.Union, types.UnionType):
        assert any(fits(value, each, path) for each in arguments), f"{path}: {value!r} is none of {arguments}"
    elif origin is list:
        assert isinstance(value, list), path
        for position, each in enumerate(value):
            check(each, arguments[0], f"{path}[{position}]")
    elif origin is dict:
        assert isinstance(value, dict), path
        for key, each in value.items():
            check(each, arguments[1], f"{path}.{key}")
    elif origin is typing.Literal:
        assert value in arguments, f"{path}: {value!r}"
    elif isinstance(value, dict) and hasattr(wanted, "from_json"):
        check(wanted.from_json(value), wanted, path)  # the SDK leaves transformations as they are
    elif isinstance(wanted, type):
        enumeration = issubclass(wanted, enum.Enum)
        one = enumeration and value in [member.value for member in typing.cast(type[enum.Enum], wanted)]
        assert one or isinstance(value, (int, float) if wanted is float else wanted), f"{path}: {value!r}"
        if wanted.__module__.startswith("grafana_foundation_sdk.models") and not enumeration:
            hints = typing.get_type_hints(type(value))
            for key, each in vars(value).items():
                check(each, hints[key], f"{path}.{key}")


def fits(value: object, wanted: Any, path: str) -> bool:
    try:
        check(value, wanted, path)
    except AssertionError:
        return False
    return True


def test_a_value_of_another_type_is_noticed() -> None:
    board = BOARDS["fleet"]().build()
    board.title = 7  # type: ignore[assignment] # what is to be noticed
    with pytest.raises(AssertionError, match=r"fleet\.title"):
        check(board, Dashboard, "fleet")


@pytest.mark.parametrize("name", BOARDS)
def test_panels_explain_themselves_and_have_a_unit(name: str) -> None:
    board = json.loads(board_text(name))
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len(panels) >= 8
    for panel in panels:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["type"] in ("table", "state-timeline") or panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert all(target["expr"] for target in panel["targets"])
    corners = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(corners)) == len(corners), "panels lie on each other"
    assert {link["url"].rpartition("/")[2] for link in board["links"] if link.get("url")} >= {"alerts.md"}


def test_provisioning_names_the_boards_and_the_source() -> None:
    place = ROOT / "ops/grafana/provisioning"
    (source,) = yaml.safe_load((place / "datasources/prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = yaml.safe_load((place / "dashboards/bootpoint.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/etc/grafana/boards"


def test_a_pace_makes_windows_shorter_but_not_too_short() -> None:
    assert Pace().window(5400) == "90m"
    assert Pace(factor=0.001, least_window=5).window(3600) == "5s"
    assert Pace(factor=0.001).window(3600) == "3600ms"
    assert Pace(factor=0.001, least_age=20).age(300) == "20"
    with pytest.raises(ValueError, match="millisecond"):
        duration(0)
