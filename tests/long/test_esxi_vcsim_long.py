"""What every driver promises of its verbs, tried on VMware's simulator of a host and of a vCenter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.driver_vcsim import Vcsim, vcsim_driver
from tests.contract.drivers import Driver
from tests.contract.test_consolidation import *  # noqa: F403 - its tests run here
from tests.contract.test_target import *  # noqa: F403 - likewise


@pytest.fixture(name="driver", params=list(Vcsim), ids=lambda kind: kind.value)
def simulated(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    """The driver on a vcsim, in place of the suite's own hosts."""
    with vcsim_driver(tmp_path, request.param) as made:
        yield made
