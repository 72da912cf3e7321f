"""The command line on a terminal: progress bars, tables, Ctrl-C; and what goes into pipes beside one.

`bootpoint up` with a host of the fake kind serves all tests. A run over the disk ``gated`` stands in its midst until
the gate is opened: the middle of that disk can't be read before.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.service.component import need
from tests.service.process import Server, wait_for
from tests.service.terminal import Terminal

BOOTPOINT = str(Path(sys.executable).with_name("bootpoint"))
DAEMON = Path(__file__).parents[1] / "service/gated_fuse.py"

#: Names as long as they are in the field.
AGENT, HOST, PLAIN, GATED = "erp-db-01", "kvm-milano-1", "erp-db-milano", "archive"

MIB = 1 << 20
SIZE = 32 * MIB

JOB = """
name = "{name}"
[source]
agent = "{agent}"
disks = [{{ slot = "system", id = "file:{disk}" }}]
[check]
boot = "never"
[[target]]
host = "{host}"
"""

#: Escape sequences that set a colour.
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3|4|9|10)[0-9](?:;[\d;]*)?m")

LISTS = {
    "job list": PLAIN,
    "run list": PLAIN,
    f"point list {PLAIN}": r"V\d{8}_\d{6}",
    "host list": HOST,
    "agent list": AGENT,
    f"disk list {AGENT}": "file:",
    f"vm list {HOST}": f"{PLAIN}-standby",
    "status": "never-run",
    "history": r"\d+ ",
}


@dataclass
class Installation:
    """A running `bootpoint up`, its plain disk, and the gate of the other one."""

    environment: dict[str, str]
    plain: Path
    fuse: subprocess.Popen[str]

    def on(self, words: str, columns: int = 80, pipes: tuple[str, ...] = (), **more: str) -> Terminal:
        """Call it on a terminal."""
        environment = {**self.environment, **more}
        return Terminal([BOOTPOINT, *words.split()], environment=environment, columns=columns, pipes=pipes)

    def piped(self, words: str) -> subprocess.CompletedProcess[str]:
        """Call it where no terminal is, though the environment names one."""
        return subprocess.run(
            [BOOTPOINT, *words.split()], env={**self.environment, "TERM": "xterm-256color"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def json(self, words: str) -> Any:
        done = self.piped(f"{words} -o json")
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def gate(self, word: str) -> None:
        assert self.fuse.stdin is not None
        self.fuse.stdin.write(f"{word}\n")
        self.fuse.stdin.flush()


@contextmanager
def gated_disk(directory: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    mount, backing = directory / "gated", directory / "backing"
    mount.mkdir()
    backing.write_bytes(os.urandom(SIZE))
    fuse = subprocess.Popen([sys.executable, str(DAEMON), str(mount), str(backing)], stdin=subprocess.PIPE, text=True)
    try:
        wait_for((mount / "disk").exists, "the FUSE file")
        yield mount / "disk", fuse
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=False)
        fuse.kill()
        fuse.communicate()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    need("root", "pgserver", "fuse")
    directory = tmp_path_factory.mktemp("terminal")
    plain = directory / "plain.raw"
    plain.write_bytes(os.urandom(2 * MIB))
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "PYTHONPATH")}
    environment = {
        **kept, "LC_ALL": "C.UTF-8", "BOOTPOINT_STATE": str(directory / "state"), "BOOTPOINT_METRICS": "off",
    }  # fmt: skip
    with gated_disk(directory) as (gated, fuse):
        log = directory / "up.log"
        words = ["--file", str(plain), "--file", str(gated), "--agent-config", str(directory / "none")]
        up = Server([BOOTPOINT, "up", "--agent", AGENT, *words], log=log, environment=environment)
        made = Installation(environment, plain, fuse)
        try:
            up.start(lambda: b"bootpoint is up" in log.read_bytes(), "bootpoint up")
            made.json(f"host add {HOST} --kind fake --address fk")
            for name, disk in ((PLAIN, plain), (GATED, gated), ("never-run", plain)):
                file = directory / f"{name}.toml"
                file.write_text(JOB.format(name=name, agent=AGENT, disk=disk, host=HOST))
                made.json(f"job apply {file}")
            for _ in range(2):
                made.json(f"job run {PLAIN} --wait")
            yield made
        finally:
            made.gate("open")
            up.stop()


@pytest.fixture
def shut(here: Installation) -> Iterator[Installation]:
    """The gate is shut; afterwards it is open, and no run under way."""
    here.gate("shut")
    try:
        yield here
    finally:
        here.gate("open")
        wait_for(lambda: all(item["ended_at"] for item in here.json("run list")["items"]), "the end of all runs")


# --- following a run


def read_mib(terminal: Terminal) -> list[float]:
    """Return the numbers that the bar of the disk went through."""
    found = [re.search(r"system.* ([\d.]+)/32\.0 MiB", line) for line in terminal.lines()]
    return [float(match[1]) for match in found if match is not None]


def test_bars_move_fit_and_end_with_the_outcome(shut: Installation) -> None:
    with shut.on(f"job run {GATED} --wait") as narrow:
        narrow.wait_for(r"system → kvm-milano-1 .* 1[0-9]\.\d/32\.0 MiB")
        number = shut.json("run list")["items"][0]["id"]
        with shut.on(f"run watch {number}", columns=120) as wide, shut.on(f"run watch {number}", NO_COLOR="1") as plain:
            for terminal in (wide, plain):
                terminal.wait_for(r"1[0-9]\.\d/32\.0 MiB")
            shut.gate("open")
            for terminal in (narrow, wide, plain):
                assert terminal.ends() == 0, terminal.raw()
                numbers = read_mib(terminal)
                assert numbers == sorted(numbers)
                assert len(set(numbers)) >= 2
                assert numbers[-1] == 32.0
                assert max(map(len, terminal.lines())) <= terminal.columns
                shown = " ".join(line.strip() for line in terminal.screen())
                assert re.search(rf"run {number} of archive succeeded after .*: V\d{{8}}_\d{{6}} on {HOST}", shown)
                assert "?" not in shown.replace("MiB ?", ""), "a bar without an end stays on the screen"
                assert terminal.raw().rstrip().endswith("MiB")
                assert terminal.raw().rfind("\x1b[?25h") > terminal.raw().rfind("\x1b[?25l"), "the cursor stays hidden"
            assert COLOUR.search(wide.raw())
            assert not COLOUR.search(plain.raw())


def test_a_short_run_leaves_no_bar_without_an_end(here: Installation) -> None:
    with here.on(f"job run {PLAIN} --wait") as short:
        assert short.ends() == 0, short.raw()
        shown = "\n".join(short.screen())
        assert "2.0/2.0 MiB" in shown
        assert "0/? bytes" not in shown


def test_ctrl_c_ends_the_watching_and_not_the_run(shut: Installation) -> None:
    number = shut.json(f"job run {GATED}")["id"]
    with shut.on(f"run watch {number}") as watched:
        watched.wait_for(r"/32\.0 MiB")
        watched.interrupt()
        watched.wait_for(f"run {number} goes on: cancel it")
        watched.type("\n")
        assert watched.ends() == 130
        shown = " ".join(watched.screen())
        assert f"run {number} goes on" in shown
        assert f"bootpoint run watch {number}" in shown
        assert "Traceback" not in shown
    with shut.on(f"run watch {number} -o json", pipes=("stdout", "stderr")) as quiet:
        wait_for(lambda: quiet.threads > 1, "the watching to begin")
        quiet.interrupt()
        assert quiet.ends() == 130
        assert quiet.raw("stdout") == ""
        assert json.loads(quiet.raw("stderr"))["code"] == "cancelled"
    assert shut.json(f"run show {number}")["state"] == "running"
    shut.gate("open")
    assert shut.json(f"run watch {number}")["state"] == "succeeded"


def test_a_cancelled_run_ends_the_watching_with_130(shut: Installation) -> None:
    number = shut.json(f"job run {GATED}")["id"]
    with shut.on(f"run watch {number}") as watched:
        watched.wait_for(r"/32\.0 MiB")
        shut.json(f"run cancel {number}")
        shut.gate("open")
        assert watched.ends() == 130
        assert f"run {number} of archive cancelled" in "\n".join(watched.screen())
        assert "goes on" not in watched.raw()


def test_a_run_can_be_cancelled_from_its_progress_bar(shut: Installation) -> None:
    with shut.on(f"job run {GATED} --wait") as watched:
        watched.wait_for(r"1[0-9]\.\d/32\.0 MiB")
        number = shut.json("run list")["items"][0]["id"]
        watched.interrupt()
        watched.wait_for("cancel it \\(c\\), or leave it \\(Enter\\)")
        watched.type("c\n")
        wait_for(lambda: shut.json(f"run show {number}")["reason"] == "cancelled", "the cancel")
        shut.gate("open")
        assert watched.ends() == 130
        assert f"run {number} of archive cancelled" in "\n".join(watched.screen())
    (event,) = [item for item in shut.json(f"run log {number}")["items"] if item["kind"] == "cancel_requested"]
    assert "@" in event["actor"]
    assert event["origin"] == "job run"
    late = shut.piped(f"run cancel {number} -o json")
    assert late.returncode == 4
    assert json.loads(late.stderr)["code"] == "too_late"
    (refused,) = [item for item in shut.json(f"run log {number}")["items"] if item["kind"] == "cancel_refused"]
    assert (refused["origin"], refused["code"]) == ("run cancel", "too_late")


def test_a_pipe_gets_lines_and_no_escape_codes(shut: Installation) -> None:
    with shut.on(f"job run {GATED} --wait", pipes=("stdout",)) as mixed:
        wait_for(lambda: re.search(r"^V\d{8}_\d{6} on kvm-milano-1: open$", mixed.raw("stdout"), re.MULTILINE), "open")
        shut.gate("open")
        assert mixed.ends() == 0
        assert "\x1b" not in mixed.raw("stdout")
        assert re.search(r"^run \d+ of archive succeeded after .*$", mixed.raw("stdout").splitlines()[-1])


def test_a_failure_says_why_on_stderr(here: Installation) -> None:
    with here.plain.open("r+b"):  # somebody writes to the disk: the snapshot reaches only crash
        with here.on(f"job run {PLAIN} --wait", pipes=("stderr",)) as failing:
            assert failing.ends() == 1
            assert re.search(rf"run \d+ of {PLAIN} failed", "\n".join(failing.screen()))
            assert "consistency_too_low" in failing.raw("stderr")
            assert "consistency_too_low" not in failing.raw()
        with here.on(f"job run {PLAIN} --wait -o json", pipes=("stderr",)) as failing:
            assert failing.ends() == 1
            assert json.loads(failing.raw())["state"] == "failed"
            assert json.loads(failing.raw("stderr"))["code"] == "consistency_too_low"


# --- tables, JSON, errors


@pytest.mark.parametrize("words", LISTS)
def test_tables_fit_80_columns_and_json_is_one_object(here: Installation, words: str) -> None:
    """The same list on a terminal, as JSON on a terminal, and in a pipe."""
    with here.on(words) as narrow, here.on(f"{words} -o json") as told:
        piped = here.piped(words)
        codes = {narrow.ends(), told.ends(), piped.returncode}
        assert codes == ({1} if words == "status" else {0}), narrow.raw() + told.raw() + piped.stderr
        shown = narrow.screen()
        assert max(map(len, narrow.lines())) <= 80
        assert any(re.search(rf"(^|\s){LISTS[words]}", line) for line in shown), "\n".join(shown)
        assert "…" not in "".join(shown)
        assert told.raw().count("\n") == 1
        answer = json.loads(told.raw())
        # The disks of the test's machine are in no job, and a run may be under way: lines of their own.
        own = sum(len(answer.get(key, ())) for key in ("unprotected_disks", "running"))
        lines = len(answer["items"]) + own + (0 if words == "status" else 1)
        assert "\x1b" not in piped.stdout + piped.stderr
        assert len(piped.stdout.splitlines()) == lines


def test_a_wide_table_keeps_names_and_width(here: Installation) -> None:
    with here.on(f"point list {PLAIN}", columns=120) as wide:
        assert wide.ends() == 0
        assert max(map(len, wide.lines())) <= 120
        assert re.search(r"^V\d{8}_\d{6}  kvm-milano-1  committed  increment +\d", wide.screen()[1])


def test_no_color_is_respected(here: Installation) -> None:
    with here.on("host list") as coloured, here.on("host list", NO_COLOR="1") as plain:
        assert (coloured.ends(), plain.ends()) == (0, 0)
        assert COLOUR.search(coloured.raw())
        assert not COLOUR.search(plain.raw())
        assert coloured.screen() == plain.screen()


@pytest.mark.parametrize(
    ("words", "exit_code", "code"),
    [
        ("job show nobody", 3, "no_such_job"),
        ("run watch 4711", 3, "no_such_run"),
        ("disk list nobody", 3, "no_such_agent"),
        ("job list --colour", 2, "spec_invalid"),
    ],
)
def test_errors_go_to_stderr(here: Installation, words: str, exit_code: int, code: str) -> None:
    with here.on(words, pipes=("stdout", "stderr")) as said, here.on(f"{words} -o json", pipes=("stdout",)) as told:
        assert (said.ends(), told.ends()) == (exit_code, exit_code)
        assert said.raw("stdout") == told.raw("stdout") == ""
        assert f"({code})" in said.raw("stderr")
        assert json.loads(told.raw())["code"] == code


def test_a_deletion_wants_the_name_typed(here: Installation) -> None:
    with here.on("job delete never-run", pipes=("stdout",)) as wrong:
        wrong.wait_for("Type never-run to go on")
        wrong.type("never\n")
        assert wrong.ends() == 2
        assert wrong.raw("stdout") == ""
    with here.on("job delete never-run") as left:
        left.wait_for("Type never-run to go on")
        left.interrupt()
        assert left.ends() == 130
    assert here.json("job show never-run")["name"] == "never-run"
