"""Looking into a point: what machine is on its disks, and on what hardware it boots here.

No files of the guest are read or changed: a machine starts as its source left it, on a controller and a card that it
knows from there. What would have to be converted is said.
"""

from __future__ import annotations

from contextlib import closing
from uuid import UUID

import msgspec

from bootpoint_worker.conversion.disk import DiskLayout, read_layout
from bootpoint_worker.conversion.plan import Machine, Means, decide
from bootpoint_worker.targets.esxi import data, place, runbook
from bootpoint_worker.targets.esxi.host import Host
from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.replica import Replica

#: Why nothing is converted here, to be read after "because".
NO_MEANS = "conversions are not made on ESXi: prepare the source, or choose a bus and a card that it knows"


def examine(host: Host, replica: Replica, point_id: UUID) -> Profile:
    """Look into a point and keep what was found in the journal; see `Target.examine`."""
    before = place.must_read(host, replica)
    point = place.point_of(host, before.manifest, point_id)
    by_slot = {disk.slot: disk for disk in point.disks}
    order = [disk.slot for disk in before.manifest.replica.disks if disk.slot in by_slot]
    layouts = tuple(_layout(host, replica, point_id, slot) for slot in order)
    means = Means(light=NO_MEANS, v2v=NO_MEANS, mtools=False)
    bus = replica.disks[0].bus if replica.disks else "virtio"
    machine = Machine(layouts, declined=NO_MEANS)
    profile = decide(point_id, machine, means, bus=bus, nics=before.manifest.replica.nics)
    host.step("examine:journal")
    place.retried(host, lambda: _keep(host, replica, profile))
    return profile


def _layout(host: Host, replica: Replica, point_id: UUID, slot: str) -> DiskLayout:
    with closing(data.open_reader(host, replica, point_id, slot)) as reader:
        return read_layout(slot, data.reads(reader), reader.size_bytes)


def _keep(host: Host, replica: Replica, profile: Profile) -> None:
    before = place.must_read(host, replica)
    runbook.write(host, place.change(before, msgspec.structs.replace(before.manifest, profile=profile)))
