"""Converting the layers of a start, by the route that is asked for or that the machine needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bootpoint_common.errors import Code, error
from bootpoint_worker.conversion.guest import write_archive
from bootpoint_worker.conversion.loader import plan_fallback
from bootpoint_worker.conversion.plan import Machine, plan_edits
from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.guest import Profile
from bootpoint_worker.targets.kvm.conversion import layer, step, v2v
from bootpoint_worker.targets.kvm.conversion.examination import bus_of, profile_of
from bootpoint_worker.targets.kvm.conversion.layer import Work
from bootpoint_worker.targets.kvm.conversion.step import Mount
from bootpoint_worker.targets.kvm.host import Host
from bootpoint_worker.targets.kvm.place import Place, Snapshot
from bootpoint_worker.targets.replica import Nic, Replica

#: What may be asked for.
CONVERSIONS = ("auto", "light", "v2v", "none")


@dataclass(frozen=True, slots=True)
class Converted:
    """What a start goes on with.

    Attributes:
        request: The start.
        work: The converted layers; None where the scratch layers are to be empty ones.
        macs: MAC addresses that the guest was told, of a test.
    """

    request: StartRequest
    work: Work | None = None
    macs: tuple[str, ...] = ()


def convert(
    host: Host, place: Place, before: Snapshot, request: StartRequest, macs: tuple[str, ...] = ()
) -> Converted:
    """Convert fresh layers above a point as a start asks for it; the point itself is only read.

    Args:
        host: The host.
        place: The replica's directory.
        before: Its journal.
        request: The start.
        macs: MAC addresses of a test's cards; empty for the standby.

    Raises:
        FatalError: ``conversion_failed``; ``host_full``.
        UsageError: ``spec_invalid``: no such conversion.
    """
    if request.conversion not in CONVERSIONS:
        raise error(
            Code.SPEC_INVALID,
            f"{request.conversion!r} is no conversion; there are: {', '.join(CONVERSIONS)}",
            key="conversion",
            value=request.conversion,
        )
    manifest = before.manifest
    point, known = manifest.must_have(request.point_id, host=host.name), manifest.profile
    if request.conversion == "none" or (
        request.conversion == "auto" and known is not None and known.route in ("none", "hardware")
    ):
        return Converted(request)
    replica = _with_macs(manifest.replica, macs)
    host.step("convert:layers")
    work = layer.begin(place, before, point, layer.key_of(request.test_id))
    try:
        profile = _convert(host, work, replica, request.conversion)
    except Exception as problem:
        _discard(work, problem)
        raise
    if profile.route in ("none", "hardware"):
        layer.end(place, work.key)
        return Converted(request)
    return Converted(request, work, macs)


def _discard(work: Work, problem: Exception) -> None:
    """Remove what a failed conversion made; what that fails with never hides the reason."""
    try:
        layer.end(work.place, work.key)
    except Exception as exc:  # noqa: BLE001 - the next start of this VM, or its removal, tidies up
        problem.add_note(f"and its layers could not be removed: {exc}")


def _convert(host: Host, work: Work, replica: Replica, wanted: str) -> Profile:
    """Convert by the wanted route, and return the profile with the route that was gone."""
    host.step("convert:look")
    machine, profile, mounts = profile_of(host, work, replica)
    route = profile.route if wanted == "auto" else wanted
    if route == "light":
        convert_light(host, work, replica, machine, mounts)
    elif route == "v2v":
        v2v.convert(host, work, replica, profile)
    else:
        return profile
    complete_loader(host, work, machine, profile)
    host.step("convert:done")
    return replace(profile, route=route)


def convert_light(host: Host, work: Work, replica: Replica, machine: Machine, mounts: tuple[Mount, ...]) -> None:
    """Edit a few files of a guest.

    Raises:
        FatalError: ``conversion_failed``.
    """
    if machine.guest is None:
        # Nothing is known of its files; what can be done is its boot loader's.
        if machine.loaders is not None and plan_fallback(machine.loaders):
            return
        raise step.failed(host, f"the light conversion can't be done because {machine.declined or 'there is no Linux'}")
    try:
        edits = plan_edits(machine, bus=bus_of(replica, machine), nics=replica.nics)
    except ValueError as why:
        raise step.failed(host, f"the light conversion can't be done because {why}") from why
    if edits.writes or edits.aside or edits.versions:
        host.step("convert:write")
        step.write(host, work, mounts, edits, write_archive(machine.guest, edits))


def complete_loader(host: Host, work: Work, machine: Machine, profile: Profile) -> None:
    """Put a boot loader where a firmware without memory finds it, if it isn't there."""
    boot = next((layout for layout in machine.layouts if layout.boots), None)
    copies = plan_fallback(machine.loaders or ())
    if boot is not None and boot.esp is not None and profile.loader is not None and copies:
        host.step("convert:loader")
        step.copy_loaders(host, work, boot.slot, boot.esp, copies)


def _with_macs(replica: Replica, macs: tuple[str, ...]) -> Replica:
    if not macs:
        return replica
    nics: tuple[Nic, ...] = tuple(replace(nic, mac=mac) for nic, mac in zip(replica.nics, macs, strict=True))
    return replace(replica, nics=nics)
