"""What a host says of itself, as JSON for ``host show`` and the database."""

from __future__ import annotations

from typing import Any

import msgspec

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.base import HostInfo, Target, VirtualMachine
from bootpoint_worker.targets.guest import Profile


def info_as_json(info: HostInfo, driver: Target) -> dict[str, Any]:
    """Return a host's answer, with what its driver can, as it is kept in ``host.info``."""
    written: dict[str, Any] = msgspec.to_builtins(info)
    return {**written, "point_limit": driver.point_limit}


def vm_as_json(machine: VirtualMachine) -> dict[str, Any]:
    """Return one line of ``vm list``."""
    written: dict[str, Any] = msgspec.to_builtins(machine)
    return written


def started_as_json(machine: VirtualMachine, profile: Profile | None) -> dict[str, Any]:
    """Return what ``vm start`` says: the VM, and what is known of the machine in it."""
    return {**vm_as_json(machine), "profile": None if profile is None else msgspec.to_builtins(profile)}


def unsupported(host: str, info: HostInfo) -> BootpointError | None:
    """Return the error of a host that lacks something; None when all is well."""
    if not info.problems:
        return None
    text = "; ".join(problem.rstrip(".") for problem in info.problems)
    return error(Code.HOST_UNSUPPORTED, f"host {host} lacks something: {text}", host=host)
