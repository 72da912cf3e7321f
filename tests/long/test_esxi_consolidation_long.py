"""What every driver promises of merging points, tried on ESXi hosts of three releases and behind a vCenter."""

from __future__ import annotations

from tests.contract import driver_esxi
from tests.contract.test_consolidation import *  # noqa: F403 - its tests run here

#: In place of the suite's own hosts.
driver = driver_esxi.driver
