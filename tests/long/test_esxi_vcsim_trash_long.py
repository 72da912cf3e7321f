"""What every driver promises of deleted replicas, tried on VMware's simulator of a host and of a vCenter."""

from __future__ import annotations

from tests.contract.test_trash import *  # noqa: F403 - its tests run here
from tests.long import test_esxi_vcsim_long

#: In place of the suite's own hosts.
driver = test_esxi_vcsim_long.simulated
