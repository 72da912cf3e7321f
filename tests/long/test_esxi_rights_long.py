"""The role of docs/esxi.md is enough for a standby's life, on a stand-in that asks for the rights of each call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.identity import new_id
from bootpoint_common.units import GiB, MiB
from bootpoint_worker.selftest import selftest
from bootpoint_worker.targets import connect
from bootpoint_worker.targets.base import StartRequest, Target
from bootpoint_worker.targets.certificate import fetch_fingerprint
from bootpoint_worker.targets.esxi.means import LIBDIR_SETTING, PLUGIN_SETTING
from bootpoint_worker.targets.esxi.permit import RIGHTS
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.journal import JournalPoint
from bootpoint_worker.targets.layer import CommitPoint, OpenDisk, OpenPoint
from bootpoint_worker.targets.replica import Nic, Replica, ReplicaDisk
from tests.esxi.server import ADDRESS, Esxi
from tests.esxi.session import User
from tests.esxi.world import ROOT
from tests.service.component import need
from tests.service.vddk import vddk

PASSWORD = "as long as a password should be"

#: What the page tells an administrator to allow.
ROLE = frozenset(right.privilege for right in RIGHTS)

#: Rights without which the selftest can't pass; the others are needed for what it doesn't do.
TRIED = [
    "VirtualMachine.Inventory.Create",
    "VirtualMachine.Inventory.Delete",
    "VirtualMachine.Config.AddNewDisk",
    "VirtualMachine.State.CreateSnapshot",
    "VirtualMachine.State.RemoveSnapshot",
    "VirtualMachine.State.RevertToSnapshot",
    "VirtualMachine.Provisioning.DiskRandomAccess",
    "VirtualMachine.Provisioning.DiskRandomRead",
    "Datastore.AllocateSpace",
    "Resource.AssignVMToPool",
]


@contextmanager
def account(directory: Path, guise: str, privileges: frozenset[str]) -> Iterator[Target]:
    """Give a session of an account that may do these things and no others."""
    need("pyvmomi", "libnbd", "nbdkit", "qemu-img", "qemu-nbd")
    user = User("bootpoint", PASSWORD, privileges)
    with Esxi(directory / "esxi", guise, users=(ROOT, user), datastores={"datastore1": 8 * GiB}) as host:
        library = vddk()
        access = HostAccess(
            name="esx1",
            kind="esxi",
            address=ADDRESS,
            port=host.port,
            user=user.name,
            password=PASSWORD,
            fingerprint=fetch_fingerprint(ADDRESS, host.port),
            settings={PLUGIN_SETTING: str(library.plugin), LIBDIR_SETTING: str(library.libdir)},
        )
        with closing(connect(access)) as target:
            yield target


@pytest.mark.parametrize("guise", ["6.7", "7.0", "8.0", "vcenter"])
def test_the_role_is_enough_for_the_selftest(tmp_path: Path, guise: str) -> None:
    with account(tmp_path, guise, ROLE) as target:
        found = selftest(target, "esx1", "esxi")
    assert found.passed, found.as_json()


@pytest.mark.parametrize("missing", TRIED)
def test_a_right_that_is_missing_is_said_by_the_step_that_needs_it(tmp_path: Path, missing: str) -> None:
    with account(tmp_path, "8.0", ROLE - {missing}) as target:
        found = selftest(target, "esx1", "esxi")
    wrong = next(step["error"] for step in found.steps if step["error"] is not None)
    assert wrong["code"] == Code.HOST_PERMISSION
    assert missing in wrong["message"]


def point(target: Target, replica: Replica) -> JournalPoint:
    """Make the replica's only boot point."""
    disks = tuple(OpenDisk(disk.slot, new_id(), disk.size_bytes) for disk in replica.disks)
    layers = target.open(replica, OpenPoint(new_id(), None, 1, disks))
    with closing(target.open_writer(replica, layers[0], 1)) as writer:
        writer.write(0, b"a" * MiB)
        writer.flush()
    now = datetime.now(UTC).replace(microsecond=0)
    roots = dict.fromkeys((layer.slot for layer in layers), f"{1:064x}")
    return target.commit(
        replica, CommitPoint(layers[0].point_id, "V20261203_093000", 1, now, "full", "fs", 1, layers, roots)
    )


def test_the_role_is_enough_to_test_start_and_delete(tmp_path: Path) -> None:
    replica = Replica(
        replica_id=new_id(),
        job="erp",
        vm_name="erp-standby",
        storage="datastore1",
        folder="",
        cpus=1,
        memory_bytes=256 * MiB,
        firmware="bios",
        disks=(ReplicaDisk("system", 16 * MiB, "erp-standby-system"),),
        nics=(Nic("VM Network", "vmxnet3", "00:50:56:00:00:21"),),
    )
    with account(tmp_path, "8.0", ROLE) as target:
        target.create(replica)
        made = point(target, replica)
        target.start(replica, StartRequest(made.point_id, test_id="monday"))
        assert target.look(replica, "monday").state == "running"
        target.stop(replica, "monday")
        target.start(replica, StartRequest(made.point_id))
        with pytest.raises(BootpointError) as problem:
            target.revert(replica, None)
        assert problem.value.code is Code.STANDBY_RUNNING
        target.stop(replica, None)
        target.revert(replica, None)
        target.discard(replica, datetime.now(UTC))
        target.restore(replica)
        target.discard(replica, datetime.now(UTC))
        target.purge(replica)
        assert target.inspect_host().vms == ()
