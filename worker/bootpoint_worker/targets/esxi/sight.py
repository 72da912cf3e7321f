"""What a test VM shows from outside."""

from __future__ import annotations

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.targets.esxi.datastore import split
from bootpoint_worker.targets.esxi.host import Host
from bootpoint_worker.targets.sight import Sight
from bootpoint_worker.targets.snapshots.vm import Vm


def look(host: Host, vm: Vm, serial: str) -> Sight:
    """Look at a VM; see `Host.sight`."""
    paths = ("summary.guest.toolsRunningStatus", "runtime.question")
    found = host.client.read(vm.entity, optional=paths)
    if not vm.on:
        return Sight(state="off", serial=serial)
    question = found.get("runtime.question")
    return Sight(
        state="paused" if question is not None else "running",
        why=str(question.text) if question is not None else None,
        serial=serial,
        picture=_picture(host, vm),
        agent=found.get("summary.guest.toolsRunningStatus") == "guestToolsRunning",
    )


def _picture(host: Host, vm: Vm) -> bytes | None:
    """Return a VM's screen; the host saves it beside the VM's files, from where it is fetched and deleted."""
    try:
        path = str(host.client.run(lambda: vm.entity.CreateScreenshot_Task()))  # noqa: PLW0108 - pyVmomi's method
    except BootpointError as exc:
        if exc.code in (Code.HOST_UNREACHABLE, Code.HOST_AUTH, Code.HOST_KEY_CHANGED):
            raise
        return None  # it was just powered off, or this host makes none
    store = host.store(split(path)[0])
    picture = store.get(path)
    store.delete(path)
    return picture
