"""Every named step of revert, start and commit, with all qemu processes and libvirtd killed at it eight times."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.conftest import SEED
from tests.integration.kvm.conftest import Bench, bench
from tests.service.killing import Killing, kill_commits, kill_reverts, kill_starts

__all__ = ["bench"]

#: Kills at each step.
TIMES = 8


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("verb", ["revert", "start", "start a test", "commit"])
def test_no_point_is_lost_however_often_everything_is_killed(
    bench: Bench, tmp_path: Path, rng: Random, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    killing = Killing(bench, tmp_path, rng)
    match verb:
        case "revert":
            kill_reverts(killing, TIMES)
        case "commit":
            kill_commits(killing, TIMES)
        case _:
            kill_starts(killing, TIMES, test_id="t1" if "test" in verb else None)
    assert all(sum(results.values()) >= TIMES for results in killing.results.values())
    with capsys.disabled():
        print("\n" + killing.table(verb, SEED))  # noqa: T201 - the result is the table
