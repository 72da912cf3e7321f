"""The trash of the fake host: a replica's manifest and layers in a place of their own, by the replica's id."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from bootpoint_common.errors import Code, error
from bootpoint_worker.targets import fake_point
from bootpoint_worker.targets import fake_standby as standby
from bootpoint_worker.targets.fake_call import Call
from bootpoint_worker.targets.fake_journal import Manifest
from bootpoint_worker.targets.fake_machine import Place, trash_of


def discard(call: Call, at: datetime, *, dry_run: bool) -> None:
    """Put a replica into the trash, or go on where an earlier call broke off; see `Target.discard`."""
    manifest = call.host.manifests.get(call.place)
    if manifest is None or manifest.removing or manifest.replica.replica_id != call.replica.replica_id:
        return  # it is there already, and what has its place now is somebody else's
    with call.step("check"):
        _check(call, manifest)
    if dry_run:
        return
    with call.step("standby"):
        standby.undefine_all(call, manifest)
    with call.step("mark"):
        fake_point.close_fences(call, manifest.open_layers, "deleted")
        manifest = replace(manifest, discarded_at=manifest.discarded_at or at, open_point_id=None, open_layers=())
        fake_point.sweep(call, manifest)
        call.store(manifest)
    with call.step("move"):
        _move(call, call.place, trash_of(call.replica), manifest)


def _check(call: Call, manifest: Manifest) -> None:
    name = manifest.replica.vm_name
    vm = call.host.vms.get(name)
    if vm is not None and vm.state == "running":
        message = f"VM {name} on host {call.host.name} is running"
        raise error(Code.STANDBY_RUNNING, message, value=name, job=call.replica.job, host=call.host.name)
    if manifest.tests:
        message = f"test {', '.join(manifest.tests)} of {name} stands on a boot point on host {call.host.name}"
        raise error(Code.POINT_IN_USE, message, value=name, job=call.replica.job, host=call.host.name)
    if manifest.merging is not None:
        message = f"{manifest.merging.point.name} is being merged"
        raise error(Code.BUSY, message, job=call.replica.job, host=call.host.name)


def restore(call: Call) -> None:
    """Take a replica out of the trash; see `Target.restore`."""
    host, here = call.host, trash_of(call.replica)
    with call.step("check"):
        if call.find() is None and here not in host.manifests and call.place not in host.manifests:
            message = f"host {host.name} has no replica {call.replica.vm_name} in its trash"
            raise error(Code.NO_SUCH_VM, message, value=call.replica.vm_name, job=call.replica.job, host=host.name)
    with call.step("move"):
        if here in host.manifests:
            _move(call, here, call.place, host.manifests[here])
    with call.step("mark"):
        manifest = replace(host.manifests[call.place], discarded_at=None)
        call.store(manifest)
    with call.step("standby"):
        if manifest.head is not None:
            call.store(standby.remake(call, manifest, manifest.head))


def purge(call: Call) -> None:
    """Remove a replica from the trash; see `Target.purge`."""
    host, here = call.host, trash_of(call.replica)
    manifest = host.manifests.get(here)
    if manifest is None:
        return
    with call.step("layers"):
        for name in manifest.layer_names():
            host.layers.pop(name, None)
    with call.step("journal"):
        del host.manifests[here]


def _move(call: Call, old: Place, new: Place, manifest: Manifest) -> None:
    """Move a manifest and its layers from one place to another; inside a step."""
    for name in manifest.layer_names():
        call.host.layers[name].place = new
    del call.host.manifests[old]
    call.host.manifests[new] = manifest
