"""What every driver promises of its verbs, tried on VMware's simulator of a host and of a vCenter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bootpoint_worker.targets.esxi import data
from bootpoint_worker.targets.esxi.means import LIBDIR_SETTING, PLUGIN_SETTING
from tests.contract.driver_vcsim import Vcsim, skip, vcsim_driver
from tests.contract.drivers import Driver
from tests.contract.test_target import *  # noqa: F403 - its tests run here
from tests.service.vddk import vddk


@pytest.fixture(name="driver", params=list(Vcsim), ids=lambda kind: kind.value)
def simulated(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Driver]:
    """The driver on a vcsim, in place of the suite's own hosts."""
    for name in ("open_writer", "open_reader", "share"):
        monkeypatch.setattr(data, name, skip)
    parts = vddk()
    settings = {PLUGIN_SETTING: str(parts.plugin), LIBDIR_SETTING: str(parts.libdir)}
    with vcsim_driver(tmp_path, request.param, **settings) as made:
        yield made
