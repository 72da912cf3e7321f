"""Following writes in kernels older than this machine's, from the oldest that is supported on."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from bootpoint_common.units import MiB
from tests.service.component import need
from tests.service.linux_guest import linux_guest

_log = logging.getLogger(__name__)

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize("release", ["bullseye", None, "trixie"], ids=["5.10", "6.1", "6.12"])
def test_writes_are_followed_through_partitions_and_stripes(tmp_path: Path, release: str | None) -> None:
    need("root", "qemu", "mmdebstrap", "bpf")
    disks = dict.fromkeys(("vdb", "vdc", "vdd"), 64 * MiB)
    with linux_guest(tmp_path, disks=disks, release=release) as guest:
        for part in ("plain", "members"):
            said = guest.run(f"from tests.guest import block\nprint(block.{part}())", timeout=600).check()
            _log.info("%s: %s", part, said)
