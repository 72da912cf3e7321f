"""Making a replica's place on a host, after everything was checked; and removing it."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from uuid import uuid4

import msgspec

from bootpoint_common.errors import Code, error
from bootpoint_worker.targets.host import taken
from bootpoint_worker.targets.kvm import domain, journal, script, standby
from bootpoint_worker.targets.kvm.conversion.layer import end_all
from bootpoint_worker.targets.kvm.host import Host
from bootpoint_worker.targets.kvm.inspect import has_uefi, problems
from bootpoint_worker.targets.kvm.place import Place
from bootpoint_worker.targets.kvm.qcow2 import checked_name, disk_name
from bootpoint_worker.targets.kvm.session import check
from bootpoint_worker.targets.replica import Replica


def create(host: Host, replica: Replica, *, dry_run: bool) -> None:
    """Check, then make the replica's directory and journal; see `Target.create`."""
    _check_spec(host, replica)
    found = problems(host)
    if found:
        raise error(Code.HOST_UNSUPPORTED, f"host {host.name}: {'; '.join(found)}", job=replica.job, host=host.name)
    place = host.place(replica)
    _check_place(host, place, replica)
    _check_name(host, replica)
    _check_devices(host, replica)
    if not dry_run:
        place.retried(lambda: _write(host, place, replica))


def _write(host: Host, place: Place, replica: Replica) -> None:
    before = host.read(place, replica)
    if before is None:
        manifest, digest = journal.Manifest(replica=replica, vm_uuid=uuid4()), journal.ABSENT
    elif before.manifest.replica == replica:
        return
    else:
        manifest, digest = msgspec.structs.replace(before.manifest, replica=replica), before.digest
    data = manifest.encoded()
    result = host.session.run(
        script.script("place"),
        host.storage_path(replica.storage),
        place.directory,
        digest,
        journal.digest(data),
        stdin=data,
    )
    if result.exit_code != script.CHANGED:
        check(host.session, result, f"make {place.directory}")
        return
    place.retried(lambda: _write(host, place, replica))


def _check_spec(host: Host, replica: Replica) -> None:
    for disk in replica.disks:
        checked_name(disk.disk_name, "storage.disk_name")
        if disk.bus not in domain.BUSES:
            raise _unsupported(host, replica, f"disk bus {disk.bus!r}", domain.BUSES, key="storage.bus", value=disk.bus)
    if len({disk.disk_name for disk in replica.disks}) != len(replica.disks):
        raise error(Code.SPEC_INVALID, "two disks have the same disk_name", key="storage.disk_name", job=replica.job)
    for nic in replica.nics:
        if nic.model not in domain.NIC_MODELS:
            raise _unsupported(
                host, replica, f"network card {nic.model!r}", domain.NIC_MODELS, key="nic.model", value=nic.model
            )


def _unsupported(host: Host, replica: Replica, what: str, served: Iterable[str], *, key: str, value: str) -> Exception:
    names = ", ".join(served)
    return error(
        Code.HOST_UNSUPPORTED,
        f"host {host.name} has no {what}; there are: {names}",
        key=key,
        value=value,
        hint=f"choose one of {names}",
        job=replica.job,
        host=host.name,
    )


def free_bytes(host: Host, replica: Replica) -> int:
    """Return the free bytes of a replica's storage; see `Target.free_bytes`."""
    for word, rest in _look(host, host.place(replica), replica):
        if word == "free":
            block, blocks = rest.split()
            return int(block) * int(blocks)
    raise _no_storage(host, replica)


def _look(host: Host, place: Place, replica: Replica) -> list[tuple[str, str]]:
    """Return what the host says of a replica's place: a word and the rest of its line."""
    arguments = (host.storage_path(replica.storage), place.directory)
    said = check(host.session, host.session.run(script.script("preflight"), *arguments), "check the storage")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in said.text.splitlines())]


def _no_storage(host: Host, replica: Replica) -> Exception:
    return error(
        Code.STORAGE_UNKNOWN,
        f"host {host.name} has no directory {host.storage_path(replica.storage)}",
        key="storage.name",
        value=replica.storage,
        job=replica.job,
        host=host.name,
    )


def _check_place(host: Host, place: Place, replica: Replica) -> None:
    for word, rest in _look(host, place, replica):
        if word == "storage":
            raise _no_storage(host, replica)
        if word == "rights":
            raise error(Code.HOST_PERMISSION, f"the account may not write to {rest}", job=replica.job, host=host.name)
        if word == "foreign":
            raise taken(host.name, replica, f"{rest} holds files that bootpoint did not make")


def _check_name(host: Host, replica: Replica) -> None:
    host.read(host.place(replica), replica)
    found = host.hypervisor.state(replica.vm_name)
    if found is None:
        return
    mark = domain.mark_of(found[1])
    if mark is None or mark.replica_id != replica.replica_id:
        raise taken(host.name, replica, "there is one that bootpoint did not make")


def _check_devices(host: Host, replica: Replica) -> None:
    wanted = {nic.network for nic in replica.nics if nic.network}
    known = set(host.hypervisor.networks()) if wanted else set()
    if wanted - known:
        said = check(host.session, host.session.run(script.script("probe")), "list its bridges").text
        known |= {line.split(" ", 1)[1] for line in said.splitlines() if line.startswith("bridge ")}
    for network in sorted(wanted - known):
        raise error(
            Code.NETWORK_UNKNOWN,
            f"host {host.name} has no network {network!r}; there are: {', '.join(sorted(known)) or 'none'}",
            key="nic.network",
            value=network,
            job=replica.job,
            host=host.name,
        )
    if replica.firmware == "uefi" and not has_uefi(host):
        raise error(
            Code.HOST_UNSUPPORTED,
            f"host {host.name} has no UEFI firmware for VMs: install ovmf",
            key="vm.firmware",
            value="uefi",
            job=replica.job,
            host=host.name,
        )


def remove(host: Host, replica: Replica) -> None:
    """Remove the VMs, then the files, the journal last; see `Target.remove`.

    Raises:
        RefusedError: ``standby_running``: a live copy is never deleted.
    """
    place = host.place(replica)

    def again() -> None:
        if host.read(place, replica) is None:
            return
        with place.guarded():
            before = host.must_read(place, replica)
            manifest = before.manifest
            standby.refuse_running(host, manifest)
            for test in manifest.tests:
                name = replica.machine_name(test.test_id)
                standby.remove_machine(host, name, replica.replica_id)
            standby.remove_machine(host, replica.vm_name, replica.replica_id)
            host.step("remove:conversions")
            end_all(place)
            host.step("remove:files")
            place.change(
                "remove", before, None, *stems(manifest), what=f"remove {posixpath.basename(place.directory)}"
            )

    place.retried(again)


def stems(manifest: journal.Manifest) -> list[str]:
    """Return what the names of all files of a replica begin with: the disks' names, then and now."""
    return sorted({file.split(".scratch-")[0].split(".branch-")[0] for file in _disk_names(manifest)})


def _disk_names(manifest: journal.Manifest) -> set[str]:
    names = {disk.disk_name for disk in manifest.replica.disks}
    layers = [disk.file for point in manifest.points for disk in point.disks]
    layers += [layer.file for layer in manifest.open.layers] if manifest.open else []
    layers += [disk.file for disk in manifest.consolidating.point.disks] if manifest.consolidating else []
    return names | {disk_name(file) for file in layers}
