"""`bootpoint selftest` on a Hyper-V host: a throw-away standby through all that a replica goes through."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from bootpoint_worker.selftest import selftest
from tests.contract.driver_hyperv import HyperVHooks, hyperv


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("guise", "tls"), [("2012r2", False), ("hyperv2019", True)])
def test_a_host_passes_and_keeps_nothing_of_it(tmp_path: Path, guise: str, tls: bool) -> None:
    with hyperv(tmp_path, guise, tls=tls) as driver, closing(driver.connect()) as target:
        assert isinstance(driver.hooks, HyperVHooks)
        transcript = selftest(target, "hv1", "hyperv")
        assert transcript.passed, transcript.as_json()
        host = driver.hooks.host
        assert host.vmms.machines == []
        assert [path for path in host.locate("D:\\").rglob("*") if path.is_file()] == []
