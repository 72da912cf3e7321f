"""``bootpoint selftest`` on every kind of host that the contract suite has."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from bootpoint_worker.selftest import selftest
from tests.contract.drivers import FACTORIES


@pytest.mark.parametrize("kind", sorted(FACTORIES))
def test_a_host_of_each_kind_passes(kind: str, tmp_path: Path) -> None:
    with FACTORIES[kind](tmp_path) as driver, closing(driver.connect()) as target:
        before = target.inspect_host().vms
        found = selftest(target, "h1", kind, driver.storage)
        assert found.passed, found.as_json()
        assert target.inspect_host().vms == before
