"""``bootpoint vm … --direct``: a host's own credentials, and neither database nor broker nor worker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.units import GRAIN
from tests.integration.kvm.conftest import Bench

#: Where no installation is.
NOWHERE = ("env", "-u", "BOOTPOINT_DATABASE_URL", "-u", "BOOTPOINT_BROKER_URL", "BOOTPOINT_STATE=/nonexistent")

REACH = ("--direct", "--address", "local", "--virt-type", "qemu", "-o", "json")


def call(bench: Bench, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``bootpoint vm`` on the host, whose libvirt is found at its usual place there."""
    enter = ["nsenter", "--target", str(bench.host.first_pid), "--mount", "--pid", "--"]
    bootpoint = str(Path(sys.executable).with_name("bootpoint"))
    command = [*enter, *NOWHERE, bootpoint, "vm", *words, *REACH]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def done(bench: Bench, *words: str) -> dict[str, Any]:
    result = call(bench, *words)
    assert result.returncode == 0, result.stdout + result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.timeout(300)
def test_a_standby_is_listed_reverted_started_and_stopped_with_the_host_alone(bench: Bench) -> None:
    target, name = bench.connect(), bench.replica.vm_name
    target.create(bench.replica)
    first = bench.point(target, None, b"0" * GRAIN)
    second = bench.point(target, first, b"1" * GRAIN)
    target.close()
    assert done(bench, "revert", name, first.name)["held"]
    (listed,) = [item for item in done(bench, "list")["items"] if item["name"] == name]
    shown = {key: listed[key] for key in ("state", "standby", "job", "points", "newest", "stands_on", "held")}
    assert shown == {
        "state": "off", "standby": True, "job": "erp-db", "points": 2, "newest": second.name,
        "stands_on": first.name, "held": True,
    }  # fmt: skip
    points = done(bench, "points", listed["uuid"])
    assert [item["in_use_by"] for item in points["items"]] == [
        [{"kind": "standby", "holder": name, "until": None}], []
    ]  # fmt: skip
    assert done(bench, "start", listed["uuid"], "--yes")["point"] == first.name
    refused = call(bench, "revert", name, "latest")
    assert (refused.returncode, json.loads(refused.stderr)["code"]) == (4, "standby_running")
    assert done(bench, "stop", name, "--yes")["state"] == "off"
    assert done(bench, "revert", name, "latest")["point"] == second.name
    missing = call(bench, "start", name, "V20000101_000000", "--yes")
    assert (missing.returncode, json.loads(missing.stderr)["code"]) == (3, "no_such_point")
    assert [bench.start_of(target, point, GRAIN)[0][:1] for point in (first, second)] == [b"0", b"1"]
