"""Every command block of docs/deleting.md and of docs/job.md, pasted into a shell beside `bootpoint up`."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.integration.test_cli_up import BOOTPOINT, JOB, Up, up

__all__ = ["up"]

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"```sh\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def paste(up: Up, text: str) -> str:
    """Run blocks in one shell, which ends at the first command that fails; returns what they printed."""
    path = f"{Path(BOOTPOINT).parent}:{up.env['PATH']}"
    done = subprocess.run(
        ["sh", "-eux", "-c", text], cwd=up.folder, env={**up.env, "PATH": path}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_the_pages_say_can_be_pasted(up: Up) -> None:
    up.json("host", "add", "kvm1", "--kind", "fake", "--address", "fk")
    # The page's machine is this one's agent, and its job is called as that. It has disks that no test may read: no run.
    written, applied = (text.replace("erp-db", "src") for text in blocks("job.md"))
    assert "job src created" in paste(up, written)
    assert "job src unchanged" in paste(up, applied)
    assert up.call("job", "delete", "src", "--yes").returncode == 0

    file = JOB.format(disk=up.disk).replace('"one"', '"erp"').replace('"fk"', '"kvm1"')
    (up.folder / "erp.toml").write_text(file)
    up.json("job", "apply", str(up.folder / "erp.toml"))
    up.json("job", "run", "erp", "--wait")
    names, deleted, back, good, alone = blocks("deleting.md")
    assert "rests in the trash" in paste(up, names + deleted)
    said = paste(up, names + back)
    assert "comes back" not in said
    assert re.search(r"V\d{8}_\d{6}", said)
    assert "forgotten" in paste(up, names + good)
    assert "no replicas" in paste(up, names + alone)
