"""All qemu processes and libvirtd are killed once at each step of a revert; tests/long does more of it."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.integration.kvm.conftest import Bench
from tests.service.killing import Killing, kill_reverts


@pytest.mark.timeout(300)
def test_a_revert_survives_the_death_of_everything(bench: Bench, tmp_path: Path, rng: Random) -> None:
    killing = Killing(bench, tmp_path, rng)
    kill_reverts(killing, 1)
    assert len(killing.results) == 5
