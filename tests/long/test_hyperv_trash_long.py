"""What every driver promises of deleted replicas, tried on Hyper-V hosts of four releases."""

from __future__ import annotations

from tests.contract import driver_hyperv
from tests.contract.test_trash import *  # noqa: F403 - its tests run here

#: In place of the suite's own hosts.
driver = driver_hyperv.driver
