"""The units of ops/systemd say what systemd understands, and take from each process what it doesn't need."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bootpoint_worker.service import STOP_MILLISECONDS
from tests.service.component import need

UNITS = Path(__file__).parents[2] / "ops/systemd"

#: Services that talk through the network only.
PLAIN = ("bootpoint-worker@", "bootpoint-scheduler", "bootpoint-exporter")

#: Highest exposure of each, 0 to 10, by systemd 252's reckoning; the agent is root, and needs raw disks and scripts.
EXPOSURE = dict.fromkeys(PLAIN, 1.3) | {"bootpoint-agent": 7.3}

#: What every service that isn't the agent's must keep to.
LOCKED = {
    "User": "bootpoint", "CapabilityBoundingSet": "", "NoNewPrivileges": "yes", "ProtectSystem": "strict",
    "MemoryDenyWriteExecute": "yes", "PrivateDevices": "yes",
}  # fmt: skip


def settings(name: str) -> dict[str, str]:
    """Return the settings of a unit; of one that stands there several times, the last."""
    lines = (UNITS / f"{name}.service").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and line[0] not in "#[")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Copies whose programs exist, with an instance of the template."""
    need("systemd")
    for program in ("bootpoint", "bootpoint-agent"):
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    for unit in UNITS.iterdir():
        text = re.sub(r"^(Exec\w+=)bootpoint", rf"\1{tmp_path}/bootpoint", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    shutil.copy(tmp_path / "bootpoint-worker@.service", tmp_path / "bootpoint-worker@kvm.service")
    return tmp_path


def test_systemd_understands_every_line(units: Path) -> None:
    names = sorted(path.name for path in units.glob("bootpoint-*.*") if "@." not in path.name)
    assert len(names) == len(list(UNITS.iterdir()))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names], cwd=units, capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if "bootpoint" in line]
    assert said == []
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(EXPOSURE))
def test_exposure_does_not_grow(name: str, units: Path) -> None:
    words = ["security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE[name] * 10:.0f}"]
    done = subprocess.run(
        ["systemd-analyze", *words, f"{units}/{name}.service"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


@pytest.mark.parametrize("name", PLAIN)
def test_what_needs_no_rights_has_none(name: str) -> None:
    found = settings(name)
    assert {key: found.get(key) for key in LOCKED} == LOCKED
    lines = (UNITS / f"{name}.service").read_text()
    assert "LoadCredential=database.url:/etc/bootpoint/database.url" in lines
    assert not re.search(r"^Environment=\w*(URL|PASSWORD)=", lines, re.MULTILINE), "secrets are no variables"


def test_a_worker_is_given_the_time_that_its_end_takes() -> None:
    for name in ("bootpoint-worker@", "bootpoint-scheduler"):
        assert float(settings(name)["TimeoutStopSec"]) > 2 * STOP_MILLISECONDS / 1000


@pytest.mark.parametrize(("instance", "pool"), [("kvm", "kvm"), ("kvm:2", "kvm"), ("site-b-kvm:10", "site-b-kvm")])
def test_an_instance_serves_the_pool_before_its_colon(instance: str, pool: str, tmp_path: Path) -> None:
    """The unit's shell line, with systemd's own escapes undone (systemd.service(5), "Command lines")."""
    command = settings("bootpoint-worker@")["ExecStart"].replace("%%", "%").replace("$$", "$").replace("%i", instance)
    (tmp_path / "bootpoint").write_text('#!/bin/sh\nprintf "%s " "$@"\n')
    (tmp_path / "bootpoint").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "WORKER_OPTIONS": "--slices 2"}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"worker --pool {pool} --slices 2 "
