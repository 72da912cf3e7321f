"""A worker that dies between any two steps on a Hyper-V host: the verb, called again by another one, does the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.driver_hyperv import hyperv
from tests.contract.drivers import Driver
from tests.contract.mortal import PARTS, try_each_step


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A host for all of them."""
    path: Path = tmp_path_factory.mktemp("hyperv")
    with hyperv(path) as made:
        yield made


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_step_of_every_verb_may_be_the_last(driver: Driver, part: int) -> None:
    try_each_step(driver, part)
