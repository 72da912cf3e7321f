"""Scripts of a run whose agent is killed: what paused a database doesn't do so after it was to go on."""

from __future__ import annotations

import getpass
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bootpoint_common import message
from bootpoint_common.identity import new_id
from bootpoint_producer.script import Begun, end_orphan
from bootpoint_producer.stage import Owed, OwedScripts, pay
from tests.service.process import wait_for

#: An agent, as far as it runs the script before the snapshot.
_AGENT = """
import pathlib, sys, threading
from bootpoint_common import message
from bootpoint_producer.stage import OwedScripts, Stages
order = message.decode_to_agent(pathlib.Path(sys.argv[1]).read_bytes())
owed = OwedScripts(pathlib.Path(sys.argv[2]))
Stages(order, owed, over=threading.Event(), stopping=threading.Event()).before_snapshot()
"""


def script(text: str) -> dict[str, Any]:
    return {"run": ["/bin/sh", "-c", text], "user": getpass.getuser()}


def test_a_script_that_outlives_its_agent_is_ended_before_what_it_pauses_goes_on(tmp_path: Path) -> None:
    began, paused = tmp_path / "began", tmp_path / "paused"
    pauses = f"trap '' TERM; touch {began}; while [ -e {began} ]; do sleep 0.1; done; touch {paused}"
    order = message.StartRun(
        run=new_id(), number=1, job="erp", pool="fake", expires_at=datetime.now(UTC) + timedelta(hours=1), disks=[],
        consistency="crash",
        scripts={"before_snapshot": script(pauses), "after_snapshot": script(f"rm -f {paused}")},
    )  # fmt: skip
    (tmp_path / "order").write_bytes(message.encode(order))
    debts = OwedScripts(tmp_path)
    agent = subprocess.Popen([sys.executable, "-c", _AGENT, tmp_path / "order", tmp_path])
    try:
        wait_for(lambda: began.exists() and _running(debts), "the script to run")
    finally:
        agent.kill()
        agent.wait()
    (owed,) = debts.all()
    result = pay(owed, debts)
    assert (debts.all(), result is not None and result.exit_code) == ([], 0)
    assert owed.before is not None
    assert _state(owed.before.group) in (None, "Z"), "it would pause what goes on"
    assert not paused.exists()


def test_another_process_by_its_number_is_left_alone() -> None:
    other = subprocess.Popen(["sleep", "300"], start_new_session=True)
    try:
        end_orphan(Begun(other.pid, 1))
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
    end_orphan(Begun(other.pid, 1))


def _running(debts: OwedScripts) -> list[Owed]:
    return [owed for owed in debts.all() if owed.before is not None]


def _state(process: int) -> str | None:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None
