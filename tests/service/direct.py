"""``bootpoint vm … --direct`` as it is tried on each kind of host: neither database nor broker nor worker."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bootpoint_worker.targets.journal import JournalPoint

#: Where no installation is.
NOWHERE = ("env", "-u", "BOOTPOINT_DATABASE_URL", "-u", "BOOTPOINT_BROKER_URL", "BOOTPOINT_STATE=/nonexistent")

#: Runs ``bootpoint vm`` with some words, and ``-o json``.
Call = Callable[..., subprocess.CompletedProcess[str]]


def run(*words: str, enter: Sequence[str] = (), text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``bootpoint vm`` where no installation is.

    Args:
        words: Of the command.
        enter: What leads to the machine that it runs on.
        text: What it reads from standard input.
    """
    bootpoint = str(Path(sys.executable).with_name("bootpoint"))
    command = [*enter, *NOWHERE, bootpoint, "vm", *words, "-o", "json"]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=240, check=False)


def reaching(*reach: str, enter: Sequence[str] = ()) -> Call:
    """Return what runs ``bootpoint vm`` for one host: that of these options."""
    return lambda *words: run(*words, *reach, enter=enter)


def done(said: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the answer of a command that went well."""
    assert said.returncode == 0, said.stdout + said.stderr
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def error_in(said: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the error of a command that didn't."""
    found: dict[str, Any] = json.loads(said.stderr.splitlines()[-1])
    return found


def refused(said: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    """Return its exit code, and the error's code."""
    return said.returncode, error_in(said)["code"]


def moves_a_standby(call: Call, vm: str, first: JournalPoint, second: JournalPoint) -> None:
    """List, revert, start and stop a standby that is off and has two points; it follows the newest afterwards."""
    assert done(call("revert", vm, first.name))["held"]
    (listed,) = [item for item in done(call("list"))["items"] if item["name"] == vm]
    shown = {key: listed[key] for key in ("state", "standby", "job", "points", "newest", "stands_on", "held")}
    assert shown == {
        "state": "off", "standby": True, "job": "erp-db", "points": 2, "newest": second.name,
        "stands_on": first.name, "held": True,
    }  # fmt: skip
    points = done(call("points", listed["uuid"]))
    assert [item["in_use_by"] for item in points["items"]] == [
        [{"kind": "standby", "holder": vm, "until": None}], []
    ]  # fmt: skip
    assert done(call("start", listed["uuid"], "--yes"))["point"] == first.name
    assert refused(call("revert", vm, "latest")) == (4, "standby_running")
    assert done(call("stop", vm, "--yes"))["state"] == "off"
    assert done(call("revert", vm, "latest"))["point"] == second.name
    assert refused(call("start", vm, "V20000101_000000", "--yes")) == (3, "no_such_point")


def starts_a_test(call: Call, vm: str, point: JournalPoint) -> None:
    """Start a test VM from a point beside a standby that is off, and end it."""
    started = done(call("start", vm, point.name, "--test", "t1", "--yes"))
    assert (started["name"], started["state"], started["addresses"]) == (f"{vm}-test-t1", "running", [])
    (listed,) = [item for item in done(call("list"))["items"] if item["test_id"] == "t1"]
    assert (listed["name"], listed["standby"], listed["stands_on"]) == (f"{vm}-test-t1", False, point.name)
    done(call("stop", vm, "--test", "t1"))
    assert refused(call("stop", vm, "--test", "t1")) == (3, "no_such_vm")
    assert refused(call("points", f"{vm}-test-t1")) == (3, "no_such_vm")
    assert [item["name"] for item in done(call("list"))["items"] if item["replica_id"]] == [vm]
