"""The driver's orders to an implementation of the vSphere API by VMware's own people."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bootpoint_worker.targets.base import StartRequest
from tests.contract.driver_vcsim import Vcsim, vcsim_driver
from tests.contract.test_target import Bench, _replica

AT = datetime(2026, 12, 4, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize("kind", [Vcsim.HOST, Vcsim.CENTER])
def test_a_replicas_life_is_understood_by_another_implementation(tmp_path: Path, kind: Vcsim) -> None:
    with vcsim_driver(tmp_path, kind) as driver, closing(driver.connect()) as target:
        bench = Bench(driver, target, _replica(driver, disks=2))
        replica = bench.replica
        target.create(replica, dry_run=True)
        target.create(replica)
        first = bench.commit(bench.open())
        layers = bench.open(first)
        target.abort(replica, next(iter(layers.values())).point_id, list(layers.values()))
        second = bench.commit(bench.open(first))
        target.revert(replica, first.point_id)
        third = bench.commit(bench.open(second))
        standing = bench.journal().standing
        assert standing is not None
        assert (standing.point_id, standing.held) == (first.point_id, True)
        target.revert(replica, None)
        target.start(replica, StartRequest(conversion="none"))
        assert bench.journal().standby == "running"
        target.stop(replica, None)
        target.start(replica, StartRequest(point_id=second.point_id, test_id="t1", conversion="none"))
        assert target.look(replica, "t1").state == "running"
        target.stop(replica, "t1")
        target.consolidate(replica, first.point_id)
        target.discard(replica, AT)
        assert target.inspect(replica) is None
        target.restore(replica)
        journal = bench.journal()
        assert [point.point_id for point in journal.points] == [second.point_id, third.point_id]
        assert (journal.standby, journal.drift) == ("off", None)
        target.remove(replica)
        assert target.inspect(replica) is None
        assert not [vm for vm in target.inspect_host().vms if vm.name.startswith(replica.vm_name)]
