"""A machine's configuration: how it begins, how a `ConfigSpec` changes it, and how its .vmx is read."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from tests.esxi import hardware
from tests.esxi.environment import GUESTS, version_number
from tests.esxi.wire import load

if TYPE_CHECKING:
    from tests.esxi.world import World


def apply(world: World, config: Any, spec: Any, directory: Path) -> None:
    """Change a machine's configuration as a `ConfigSpec` says."""
    for name in ("annotation", "guestId", "version", "firmware", "changeTrackingEnabled", "bootOptions"):
        if getattr(spec, name) is not None:
            setattr(config, name, getattr(spec, name))
    if spec.guestId:
        _know_guest(world, config)
    config.hardware.numCPU = spec.numCPUs or config.hardware.numCPU
    config.hardware.memoryMB = spec.memoryMB or config.hardware.memoryMB
    config.hardware.numCoresPerSocket = spec.numCoresPerSocket or config.hardware.numCoresPerSocket
    options = {option.key: option for option in [*config.extraConfig, *spec.extraConfig]}
    # An empty value takes a setting away (ConfigSpec.extraConfig, vSphere API).
    config.extraConfig = [option for option in options.values() if option.value != ""]
    devices = list(config.hardware.device)
    hardware.Hardware(world, config.name, directory, devices).change(spec.deviceChange)
    for disk in hardware.disks(devices):
        hardware.backing_of(world, disk)
    config.hardware.device = devices
    config.modified = datetime.now(UTC)
    config.changeVersion = config.modified.isoformat()


def _know_guest(world: World, config: Any) -> None:
    if config.guestId not in GUESTS or GUESTS[config.guestId][2] > version_number(config.version):
        raise vmodl.fault.InvalidArgument(
            invalidProperty="configSpec.guestId", msg="A specified parameter was not correct: configSpec.guestId"
        )
    config.guestFullName = GUESTS[config.guestId][1]


def new_config(world: World, spec: Any, vmx: str) -> Any:
    """Return the configuration of a machine that is being made, without what its spec says of devices."""
    version = spec.version or f"vmx-{world.guise.hardware:02d}"
    if version_number(version) > world.guise.hardware:
        raise vim.fault.VirtualHardwareVersionNotSupported(
            hostName=world.system.name,
            host=world.system.reference,
            msg=f"Virtual machine version {version} is not supported.",
        )
    folder = vmx.rpartition("/")[0]
    return vim.vm.ConfigInfo(
        name=spec.name, changeVersion="0", modified=datetime.now(UTC), guestId="otherGuest", version=version,
        guestFullName=GUESTS["otherGuest"][1], uuid=spec.uuid or str(uuid.uuid4()), template=False,
        instanceUuid=spec.instanceUuid or str(uuid.uuid4()), alternateGuestName="", firmware="bios",
        files=vim.vm.FileInfo(vmPathName=vmx, snapshotDirectory=folder, logDirectory=folder, suspendDirectory=folder),
        flags=vim.vm.FlagInfo(), defaultPowerOps=vim.vm.DefaultPowerOpInfo(), changeTrackingEnabled=False,
        hardware=vim.vm.VirtualHardware(
            numCPU=1, memoryMB=32, numCoresPerSocket=1, virtualICH7MPresent=False, virtualSMCPresent=False,
            device=hardware.born_with(),
        ),
        bootOptions=vim.vm.BootOptions(bootDelay=0, enterBIOSSetup=False),
    )  # fmt: skip


def read_config(vmx: Path, place: str) -> tuple[Any, str, bool]:
    """Read what `Machine.save` wrote, in a folder that may be another by now.

    Returns:
        The configuration, what the .vmsd holds, and whether the folder was moved or copied.
    """
    before, _, text = vmx.read_text().partition("\n")
    beside = vmx.with_suffix(".vmsd")
    kept = beside.read_text().replace("[] ", place) if beside.exists() else ""
    return load(text.replace("[] ", place)), kept, before != place
