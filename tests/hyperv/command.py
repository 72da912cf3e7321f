"""The commands of a host, by their names: each is a function of the host and of the call.

What each takes is in cmdlets.toml; what it does, in Microsoft's reference of the command, which a comment quotes where
it isn't what its name says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from tests.hyperv import fault
from tests.hyperv.machine import Machine, Snapshot
from tests.hyperv.pwsh.cmdlet import Call

if TYPE_CHECKING:
    from tests.hyperv.host import Host

#: Carries out a command.
Do = Callable[["Host", Call], object]

#: All of them.
COMMANDS: dict[str, Do] = {}


def command(name: str) -> Callable[[Do], Do]:
    """Register what carries out a command."""

    def register(do: Do) -> Do:
        COMMANDS[name] = do
        return do

    return register


def many(value: object) -> list[object]:
    """Return what a parameter was given as a list: one object, or several."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def text(call: Call, name: str, default: str = "") -> str:
    """Return a parameter as text."""
    return str(call.get(name, default))


def number(call: Call, name: str, default: int = 0) -> int:
    """Return a parameter as a number."""
    return int(cast(int, call.get(name, default)))


def machines(host: Host, call: Call) -> list[Machine]:
    """Return the VMs that a call is about: ``-VM``, or ``-VMName`` or ``-Name``; one that isn't there is an error that
    doesn't end the command.
    """
    if "VM" in call:
        given = cast(list[Machine], many(call["VM"]))
        return [each for each in given if _is_there(host, call, each)]
    found = []
    for name in many(call.get("VMName", None) or call.get("Name", None)):
        named = [each for each in host.vmms.machines if _like(each.name, str(name))]
        if not named:
            call.error(fault.no_machine(call.command, f'name "{name}"'))
        found += named
    return found


def _is_there(host: Host, call: Call, machine: Machine) -> bool:
    """Tell whether the VM of an object is still there."""
    if machine in host.vmms.machines:
        return True
    call.error(fault.no_machine(call.command, f'id "{machine.id}"'))
    return False


def _like(name: str, wanted: str) -> bool:
    return wanted == "*" or name.lower() == wanted.lower()


def off(call: Call, machine: Machine) -> None:
    """Check that a VM is off.

    Raises:
        Failure: It isn't.
    """
    if machine.state.name != "Off":
        raise fault.wrong_state(call.command, machine.name)


def owner(host: Host, call: Call) -> list[Machine | Snapshot]:
    """Return what a call that reads is about: a checkpoint, or VMs."""
    if "VMSnapshot" in call:
        snapshot = cast(Snapshot, call["VMSnapshot"])
        if snapshot not in host.vmms.snapshots():
            raise fault.invalid(call.command, f"Hyper-V was unable to find the checkpoint {snapshot.name}.")
        return [snapshot]
    return list(machines(host, call))
