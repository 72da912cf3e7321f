"""The stand-in of a Hyper-V host, as Microsoft's reference describes the real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bootpoint_common.units import MiB
from tests.hyperv.client import MAKE, PATHS, run
from tests.hyperv.host import Host
from tests.hyperv.readers import by_dissect
from tests.service.component import need
from tests.service.process import wait_for


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    need("root", "samba")
    with Host(tmp_path / "hv1") as made:
        yield made


def test_checkpoints_and_merges(host: Host) -> None:
    """Each checkpoint gives the VM a new file above the old; a removed one's is merged away in the background."""
    run(host, MAKE)
    machine = host.machine("web")
    for number in range(3):
        host.guest_write(machine, 0, number * MiB, bytes([number + 1]) * 4096)
        run(host, f"Checkpoint-VM -Name web -SnapshotName V{number}")
    first, *_ = run(host, PATHS)["points"]
    assert first == "D:\\standby\\web\\disk.vhdx"
    host.guest_write(machine, 0, 3 * MiB, b"\4" * 4096)
    before = host.guest_read(machine, 0, 0, 5 * MiB)
    host.trouble.merges_held = True
    run(host, "Remove-VMSnapshot -VMName web -Name V1 -Confirm:$false")
    told = run(host, PATHS)
    assert len(told["points"]) == 2
    assert told["status"] == "InService MergingDisks"
    host.trouble.merges_held = False
    wait_for(lambda: run(host, PATHS)["status"] == "Ok", "the merge to end")
    told = run(host, PATHS)
    assert told["points"][0] == first
    files = {each.name for each in host.locate("D:\\standby\\web").glob("*vhdx")}
    assert files == {path.rpartition("\\")[2] for path in [told["leaf"], *told["points"]]}
    assert by_dissect(host.locate(told["leaf"]), 0, 5 * MiB) == before
    host.check_chain(host.locate(told["leaf"]))
