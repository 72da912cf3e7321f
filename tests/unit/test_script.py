"""Scripts of a job: what they are told, what is kept of them, and how they end."""

from __future__ import annotations

import getpass
import os
import re
import threading
import time
from pathlib import Path

import pytest

from bootpoint_common.errors import Code, FatalError
from bootpoint_common.job import Script
from bootpoint_producer.script import OUTPUT_LIMIT, Outcome, Stage, run_script
from tests.service.component import need

TOLD = {"job": "erp", "run": 4711, "point": None, "consistency": "fs"}


def shell(text: str, *, timeout: float = 30.0, user: str | None = None) -> Script:
    return Script(run=("/bin/sh", "-c", text), user=user or getpass.getuser(), timeout_seconds=timeout)


def run(text: str, *, timeout: float = 30.0, stop: threading.Event | None = None) -> Outcome:
    return run_script(shell(text, timeout=timeout), Stage.BEFORE_SNAPSHOT, TOLD, stop=stop)


def gone(pid: int) -> bool:
    """Wait until a process is gone; a dead one that nobody took is gone too."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_output_and_exit_code_are_kept() -> None:
    outcome = run("echo paused; echo careful >&2; exit 3")
    assert (outcome.exit_code, outcome.output) == (3, "paused\ncareful\n")
    assert not outcome.succeeded
    problem = outcome.failure(shell(""))
    assert isinstance(problem, FatalError)
    assert (problem.code, problem.key) == (Code.SCRIPT_FAILED, "scripts.before_snapshot")
    assert "exit code 3: careful" in problem.message


def test_success_is_no_failure() -> None:
    outcome = run("true")
    assert outcome.succeeded
    assert outcome.failure(shell("")) is None


def test_script_is_told_about_the_run_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOOTPOINT_DATABASE_URL", "postgresql://bp:hunter2@db")
    outcome = run("env")
    told = dict(line.split("=", 1) for line in outcome.output.splitlines())
    assert told["BOOTPOINT_JOB"] == "erp"
    assert told["BOOTPOINT_RUN"] == "4711"
    assert told["BOOTPOINT_POINT"] == ""
    assert told["BOOTPOINT_CONSISTENCY"] == "fs"
    assert told["BOOTPOINT_STAGE"] == "before_snapshot"
    assert "hunter2" not in outcome.output


def test_large_output_is_bounded_and_keeps_both_ends() -> None:
    outcome = run("echo first; head -c 10000000 /dev/zero | tr '\\0' x; echo; echo last")
    assert outcome.exit_code == 0
    assert len(outcome.output) < OUTPUT_LIMIT + 200
    assert outcome.output.startswith("first\n")
    assert outcome.output.endswith("last\n")
    assert "bytes left out" in outcome.output


def test_output_that_is_no_text_is_kept_readable() -> None:
    assert run("printf 'a\\377b'").output == "a\ufffdb"


def test_timeout_ends_the_whole_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    outcome = run(f"trap '' TERM; sleep 300 & echo $! $$ > {pids}; echo started; wait", timeout=1.0)
    assert outcome.timed_out
    assert outcome.exit_code is None
    assert outcome.output.startswith("started\n")
    assert "[bootpoint: timeout" in outcome.output
    assert all(gone(int(pid)) for pid in pids.read_text().split())
    problem = outcome.failure(shell("", timeout=1.0))
    assert problem is not None
    assert "did not end within 1 s" in problem.message


def test_cancel_ends_the_script() -> None:
    stop = threading.Event()
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    outcome = run("sleep 300", stop=stop)
    timer.join()
    assert outcome.stopped
    assert outcome.duration_seconds < 60
    problem = outcome.failure(shell(""))
    assert problem is not None
    assert problem.code is Code.CANCELLED


def test_process_left_in_the_background_holds_nobody_up(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    outcome = run(f"sleep 30 & echo $! > {pid}; echo done")
    os.kill(int(pid.read_text()), 9)
    assert outcome.succeeded
    assert outcome.output == "done\n"
    assert outcome.duration_seconds < 20


def test_death_by_signal_has_no_exit_code() -> None:
    outcome = run("kill -9 $$")
    assert outcome.exit_code is None
    problem = outcome.failure(shell(""))
    assert problem is not None
    assert "ended by a signal" in problem.message


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        (Script(run=("/nowhere/at-all",), user=getpass.getuser()), 127, "No such file"),
        (Script(run=("/etc/passwd",), user=getpass.getuser()), 126, "Permission denied"),
        (Script(run=("/bin/true",), user="no-such-user-here"), 126, "no user"),
    ],
)
def test_program_that_cannot_start_says_why(script: Script, code: int, reason: str) -> None:
    outcome = run_script(script, Stage.AFTER_POINT, TOLD)
    assert (outcome.exit_code, outcome.succeeded) == (code, False)
    assert reason in outcome.output


def test_script_runs_as_its_user() -> None:
    need("root")
    outcome = run_script(shell("id -un; id -Gn; pwd; echo $HOME", user="nobody"), Stage.AFTER_SNAPSHOT, TOLD)
    assert outcome.output.splitlines() == ["nobody", "nogroup", "/", "/nonexistent"]


def test_the_scripts_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/scripts.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    pause, resume, tell = (text.replace("/run/shop", str(tmp_path)) for text in blocks)

    def page_script(text: str, *words: str) -> Outcome:
        script = Script(run=("/bin/sh", "-c", text, "script", *words), user=getpass.getuser())
        return run_script(script, Stage.AFTER_POINT, {**TOLD, "point": "V20261203_093000"})

    (tmp_path / "idle").touch()
    assert page_script(pause).output == "the shop is closed for erp, run 4711\n"
    assert (tmp_path / "closed").exists()
    for _ in range(2):
        assert page_script(resume).succeeded
        assert not (tmp_path / "closed").exists()
    assert page_script(tell, "erp-db").output == "erp-db can go back to V20261203_093000 (fs)\n"


def test_a_stop_that_only_tells_lets_the_script_go_on() -> None:
    stop, told = threading.Event(), list[float]()
    stop.set()
    outcome = run_script(
        shell("sleep 0.5; echo done"), Stage.AFTER_SNAPSHOT, TOLD, stop=stop, on_stop=lambda: told.append(1.0)
    )
    assert (outcome.output, outcome.succeeded) == ("done\n", True)
    assert told == [1.0]
