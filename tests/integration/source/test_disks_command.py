"""`bootpoint-agent disks` as people and programs call it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.diskview import contract
from bootpoint_common.units import GiB, MiB
from tests.integration.source.built import blank
from tests.integration.source.program import Programs, node, part
from tests.service.terminal import Terminal

AGENT = str(Path(sys.executable).with_name("bootpoint-agent"))


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A server with LVM on LUKS over two disks, one of which has a name that no terminal should obey."""
    programs = Programs(tmp_path / "bin", monkeypatch)
    data = node("dm-2", type="lvm", path="/dev/mapper/vg0-data", fstype="xfs", size=90 * GiB, mountpoints=["/srv/data"])
    root = node("dm-1", type="lvm", path="/dev/mapper/vg0-root", fstype="ext4", mountpoints=["/"], fsused=20 * GiB)
    secret = node("dm-0", type="crypt", path="/dev/mapper/secret", fstype="LVM2_member", children=[root, data])
    efi = part("sdx1", "vfat", size=512 * MiB, start=2048, mountpoints=["/boot/efi"], fsused=6 * MiB)
    luks = part("sdx2", "crypto_LUKS", size=60 * GiB, start=1050624, children=[secret])
    pv = part("sdy1", "LVM2_member", size=99 * GiB, start=2048, children=[data])
    odd = part("sdz1", "ext4", label="\x1b[31mred\nline", mountpoints=["/mnt/" + "long/" * 40])
    programs.list(
        node("sdx", path=str(blank(tmp_path / "sdx")), serial="S3Z8NB0K", pttype="gpt", children=[efi, luks]),
        node("sdy", path=str(blank(tmp_path / "sdy")), serial="OTHER", pttype="gpt", size=100 * GiB, children=[pv]),
        node("sdz", path=str(blank(tmp_path / "sdz")), serial="ODD", pttype="dos", children=[odd]),
        node("sdw", path=str(blank(tmp_path / "sdw")), serial="EMPTY"),
    )
    (tmp_path / "agent.toml").write_text(f'state_directory = "{tmp_path}/state"\n')
    # A width of its own in the environment counts more than the terminal's.
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    return {**inherited, "BOOTPOINT_AGENT_CONFIG": str(tmp_path / "agent.toml"), "LC_ALL": "C.UTF-8"}


def piped(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [AGENT, "disks", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_json_has_the_keys_of_the_contract_and_no_others(environment: dict[str, str]) -> None:
    found: dict[str, Any] = json.loads(piped(environment, "-o", "json").stdout)
    assert tuple(found) == contract.ANSWER
    for item in found["items"]:
        assert tuple(item) == contract.ITEM
        for partition in item["partitions"]:
            assert tuple(partition) == contract.PARTITION
            assert all(tuple(held) == contract.HELD for held in partition["holds"])


def test_a_pipe_gets_a_table_with_a_line_for_each_disk(environment: dict[str, str]) -> None:
    done = piped(environment)
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["ID", "PATH", "SIZE", "USED", "TABLE", "ELIGIBLE", "SNAPSHOT", "TRACKER"]
    assert [line.split()[0] for line in lines] == ["serial:S3Z8NB0K", "serial:OTHER", "serial:ODD", "serial:EMPTY"]
    assert "no: uninitialised" in lines[-1]
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("columns", [60, 80, 121, 200])
def test_a_terminal_gets_a_drawing_in_which_no_line_breaks(environment: dict[str, str], columns: int) -> None:
    with Terminal([AGENT, "disks"], environment=environment, columns=columns) as terminal:
        assert terminal.ends() == 0
        raw, lines = terminal.raw(), terminal.lines()
    assert max(map(len, lines)) <= columns
    text = "\n".join(lines)
    assert "\x1b[31mred" not in raw
    assert r"\x1b[31mred\nline" in text
    assert sum(line.startswith("  ┌") for line in lines) == 4
    assert {len(line) for line in lines if line.startswith("  ┌")} == {columns}
    assert "lv  /dev/vg0/data" in text
    assert "also on" in text
    assert "can't be protected: uninitialised" in text


def test_without_utf_8_the_drawing_is_ascii(environment: dict[str, str]) -> None:
    plain = {**environment, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "100"}
    done = piped(plain, "--draw")
    assert (done.returncode, done.stdout.isascii()) == (0, True), done.stderr
    assert max(map(len, done.stdout.splitlines())) == 100
    assert "+--" in done.stdout


def test_what_could_not_be_asked_is_said_on_stderr(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bin" / "lsblk").write_text("#!/bin/sh\necho nonsense\n")
    done = piped(environment, "-o", "json")
    assert json.loads(done.stdout)["items"], "/sys has this machine's disks"
    assert done.stderr.startswith("warning: lsblk makes no sense: the disks are listed as /sys has them")
