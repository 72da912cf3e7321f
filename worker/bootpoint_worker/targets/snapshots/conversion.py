"""Looking into a point, and making a machine boot on the host's hardware: on the worker's machine, above the point.

::

    the point's disks ◄──NBD, read-only── <slot>.….qcow2 ··· steps of the light conversion, in their sandbox
                                               │
    the VM's leaf ◄──NBD───── qemu-img commit ─┘          only when all of them have succeeded

The layers are files of this machine whose backing file is NBD, and the steps are those of a KVM host, for which this
machine is one without libvirt. A conversion that fails has touched nothing on the host.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import msgspec

from bootpoint_common.errors import Code
from bootpoint_worker.conversion.plan import Means
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.kvm import host as local_host
from bootpoint_worker.targets.kvm import journal as local_journal
from bootpoint_worker.targets.kvm.conversion import layer, route
from bootpoint_worker.targets.kvm.conversion.examination import profile_of
from bootpoint_worker.targets.kvm.conversion.layer import Work
from bootpoint_worker.targets.kvm.conversion.step import failed
from bootpoint_worker.targets.kvm.hypervisor import Hypervisor
from bootpoint_worker.targets.kvm.means import means_of
from bootpoint_worker.targets.kvm.place import Place
from bootpoint_worker.targets.kvm.qcow2 import layer_file
from bootpoint_worker.targets.kvm.session import LocalSession
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.snapshots import journal, layout, place, runbook
from bootpoint_worker.targets.snapshots.host import Host
from bootpoint_worker.targets.snapshots.vm import Disk, Vm

#: Why virt-v2v isn't used, to be read after "because".
_NO_V2V = "virt-v2v-in-place makes machines boot on KVM only"

#: Seconds that writing what a conversion has changed into a leaf may take: some hundred MiB at most.
COMMIT_TIMEOUT = 1800.0


def examine(host: Host, replica: Replica, point_id: UUID) -> Profile:
    """Look into a point and keep what was found in the journal; see `Target.examine`."""
    before = place.must_read(host, replica)
    point = before.manifest.must_have(point_id, host=host.name)
    host.step("examine:look")
    with _overlays(host, before, point) as work:
        profile = profile_of(_local(host), work, _mapped(host, before.manifest.replica), _means(host))[1]
    host.step("examine:journal")
    place.retried(host, lambda: _keep(host, replica, profile))
    return profile


def _keep(host: Host, replica: Replica, profile: Profile) -> None:
    before = place.must_read(host, replica)
    runbook.write(host, place.change(before, msgspec.structs.replace(before.manifest, profile=profile)))


@contextlib.contextmanager
def converted(host: Host, replica: Replica, point_id: UUID | None, request: StartRequest) -> Iterator[Work | None]:
    """Convert a point as a start asks for it, and give the layers with what has changed while a block lasts.

    Args:
        host: The host.
        replica: The standby, or what a test is to be: its guest is told of these cards.
        point_id: The point; None for the head.
        request: The start.

    Yields:
        The layers; None where the machine starts as it is.

    Raises:
        FatalError: ``conversion_failed``.
        UsageError: ``spec_invalid``: no such conversion.
    """
    before = place.must_read(host, replica)
    point = before.manifest.must_have(point_id, host=host.name)
    _check(host, replica, request)
    known = before.manifest.profile
    if request.conversion == "auto" and known is None:
        known = examine(host, replica, point.point_id)
    if request.conversion == "none" or (request.conversion == "auto" and known and known.route != "light"):
        yield None
        return
    host.step("convert:layers")
    with _overlays(host, before, point) as work:
        wanted = _mapped(host, replica)
        machine, profile, mounts = profile_of(_local(host), work, wanted, _means(host))
        if request.conversion == "light" or profile.route == "light":
            host.step("convert:write")
            route.convert_light(_local(host), work, wanted, machine, mounts)
            route.complete_loader(_local(host), work, machine, profile)
            yield work
        else:
            yield None


def _check(host: Host, replica: Replica, request: StartRequest) -> None:
    if request.conversion not in route.CONVERSIONS:
        text = f"{request.conversion!r} is no conversion; there are: {', '.join(route.CONVERSIONS)}"
        raise host.problem(Code.SPEC_INVALID, text, replica, key="conversion", value=request.conversion)
    if request.conversion == "v2v":
        text = f"host {host.name}: {_NO_V2V}"
        raise host.problem(Code.CONVERSION_FAILED, text, replica, key="conversion", value="v2v")


def apply(host: Host, work: Work, vm: Vm, leaves: dict[str, str]) -> None:
    """Write what a conversion has changed into the leaves of a VM that is off.

    Args:
        host: The host.
        work: The converted layers.
        vm: The VM.
        leaves: Slot -> file of the leaf.

    Raises:
        FatalError: ``conversion_failed``.
    """
    for slot, file in work.files.items():
        path = f"{work.place.directory}/{file}"
        size = next(disk.size_bytes for disk in work.point.disks if disk.slot == slot)
        with host.served(Disk(vm, leaves[slot], None, size), writable=True) as socket:
            _qemu_img(host, "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", _uri(socket), path)
            # The layer stays as it is: where somebody else changes the journal all of it is done again.
            _qemu_img(host, "commit", "-d", "-f", "qcow2", path)


def _uri(socket: str) -> str:
    """Return a server's address as the NBD URI specification and qemu have it."""
    return f"nbd+unix:///?socket={socket}"


@contextlib.contextmanager
def _overlays(host: Host, before: place.Snapshot, point: journal.PointEntry) -> Iterator[Work]:
    """Make layers on this machine above a point's disks; they and their servers go with the block."""
    order = {disk.slot: number for number, disk in enumerate(before.manifest.replica.disks)}
    there = layout.disks_of(host, before.vm, before.manifest.replica, point)
    disks = sorted(there, key=lambda disk: order.get(disk.slot, len(order)))
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bp-", ignore_cleanup_errors=True))
        entries = []
        for disk in disks:
            socket = stack.enter_context(host.served(Disk(before.vm, disk.file, point.snapshot, disk.size_bytes)))
            file = layer_file(disk.slot, uuid4())
            _qemu_img(host, "create", "-f", "qcow2", "-F", "raw", "-b", _uri(socket), f"{directory}/{file}")
            entries.append(local_journal.LayerEntry(disk.slot, file, None, disk.size_bytes))
        work = _work(host, directory, point, entries)
        stack.callback(layer.end, work.place, work.key)
        yield work


def _work(host: Host, directory: str, point: journal.PointEntry, entries: list[local_journal.LayerEntry]) -> Work:
    local = local_journal.PointEntry(
        point_id=point.point_id,
        name=point.name,
        sequence=point.sequence,
        instant=point.instant,
        kind=point.kind,
        consistency=point.consistency,
        epoch=point.epoch,
        disks=tuple(entries),
    )
    return Work(
        place=Place(session=LocalSession(host=host.name), directory=directory),
        key="start",
        token=secrets.token_hex(6),
        point=local,
        files={entry.slot: entry.file for entry in entries},
        lengths={entry.slot: Path(directory, entry.file).stat().st_size for entry in entries},
    )


def _local(host: Host) -> local_host.Host:
    """Return this machine as a host on which conversions are made; its libvirt, if there is one, is never asked."""
    session = LocalSession(host=host.name)
    return local_host.Host(name=host.name, session=session, hypervisor=Hypervisor(session=session), step=host.step)


def _means(host: Host) -> Means:
    """Return what this machine has for conversions."""
    found = means_of(_local(host))
    light = found.light.replace("the host", "the worker's machine")
    if os.geteuid() != 0:
        light = "the worker doesn't run as root, who alone may mount a guest's file systems"
    return Means(light=light, v2v=_NO_V2V, mtools=found.mtools and not light)


def _mapped(host: Host, replica: Replica) -> Replica:
    """Return a standby as conversions know it: with the host's controllers, and firmware for UEFI, which all have."""
    disks = tuple(replace(disk, bus=host.buses.get(disk.bus, disk.bus)) for disk in replica.disks)
    return replace(replica, disks=disks, firmware="uefi")


def _qemu_img(host: Host, *words: str) -> None:
    command, *rest = words
    try:
        done = subprocess.run(
            ["qemu-img", command, "-q", *rest], capture_output=True, text=True, timeout=COMMIT_TIMEOUT, check=False
        )
    except FileNotFoundError:
        said = "this machine has no qemu-img: install qemu-utils"
    except subprocess.TimeoutExpired:
        said = f"it did not end within {COMMIT_TIMEOUT:.0f} s"
    else:
        if done.returncode == 0:
            return
        said = done.stderr.strip()[-500:]
    raise failed(_local(host), f"qemu-img {command}: {said}")
