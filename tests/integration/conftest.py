"""Scenes of the integration tests: the protocol's world step by step, and an installation whose threads run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bootpoint_common.units import GRAIN
from tests.model.world import World
from tests.service.commandline import call, env, site
from tests.service.fleet import Fleet, fleet

__all__ = ["call", "env", "site"]


@pytest.fixture
def world(database: str, tmp_path: Path) -> Iterator[World]:
    """A world whose disks are full of random bytes."""
    made = World(database, tmp_path, 1)
    for agent in made.agents:
        for slot, path in agent.disks.items():
            for grain in range(path.stat().st_size // GRAIN):
                agent.write(slot, grain, made.rng.randbytes(GRAIN))
    yield made
    made.close()


@pytest.fixture
def installation(database: str, tmp_path: Path) -> Iterator[Fleet]:
    """An installation in this process; workers, hosts and agents are added by the test."""
    with fleet(database, tmp_path) as made:
        yield made
