"""Following writes in the older kernel of a Linux guest."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from bootpoint_common.units import MiB
from tests.service.component import need
from tests.service.linux_guest import linux_guest

_log = logging.getLogger(__name__)

pytestmark = pytest.mark.timeout(1800)


def test_writes_are_followed_in_an_older_kernel_through_partitions_and_stripes(tmp_path: Path) -> None:
    need("root", "qemu", "mmdebstrap", "bpf")
    with linux_guest(tmp_path, disks=dict.fromkeys(("vdb", "vdc", "vdd"), 64 * MiB)) as guest:
        for part in ("plain", "members"):
            said = guest.run(f"from tests.guest import block\nprint(block.{part}())", timeout=600).check()
            _log.info("%s: %s", part, said)
