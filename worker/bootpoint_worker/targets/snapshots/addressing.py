"""Telling the guest of a standby that runs what addresses its cards are to have, where no conversion has.

A machine that is started as it is knows its addresses by the source's cards, and the standby has others. The machine
runs whatever comes of this: nothing here is an error, each card has a sentence of what came of it.
"""

from __future__ import annotations

import time

from bootpoint_common.errors import BootpointError
from bootpoint_worker.targets.host import Told
from bootpoint_worker.targets.replica import Addressing, Nic, Replica
from bootpoint_worker.targets.snapshots import place
from bootpoint_worker.targets.snapshots.host import Host
from bootpoint_worker.targets.snapshots.vm import Vm


def tell(host: Host, replica: Replica, seconds: float) -> tuple[Told, ...]:
    """Tell a guest about its cards; see `TellsAddresses.tell_addresses`."""
    try:
        before = place.must_read(host, replica)
    except BootpointError as problem:
        return tuple(_untold(nic, problem.message) for nic in replica.nics)
    standby = before.manifest.standby
    if standby is not None and standby.converted:
        return ()
    deadline = time.monotonic() + seconds
    return tuple(_tell(host, before.vm, nic, deadline) for nic in before.manifest.replica.nics)


def _tell(host: Host, vm: Vm, nic: Nic, deadline: float) -> Told:
    wanted = nic.addressing
    if wanted.mode != "dhcp" and not wanted.addresses:
        text = f"network card {nic.mac} was not told its addresses, for the source's aren't known: set them by hand"
        return Told(nic.mac, told=False, text=text)
    try:
        why = host.tell_addresses(vm, nic, deadline) if vm.on else f"{vm.name} is off"
    except BootpointError as problem:
        why = problem.message
    if why is not None:
        return _untold(nic, why)
    # A source tells its addresses, and no name servers.
    unnamed = ", and no name servers, for the source's aren't known" if wanted.mode == "source" else ""
    return Told(nic.mac, told=True, text=f"network card {nic.mac} was told its addresses: {words(wanted)}{unnamed}")


def _untold(nic: Nic, why: str) -> Told:
    text = f"network card {nic.mac} was not told its addresses, for {why}; set them by hand: {words(nic.addressing)}"
    return Told(nic.mac, told=False, text=text)


def words(wanted: Addressing) -> str:
    """Return what is to be set of a card by hand, as people write it."""
    if wanted.mode == "dhcp":
        return "DHCP"
    words = [", ".join(wanted.addresses) or "those of the source"]
    words += [f"gateway {wanted.gateway}"] if wanted.gateway else []
    words += [f"DNS {', '.join(wanted.dns)}"] if wanted.dns else []
    return "; ".join(words)
