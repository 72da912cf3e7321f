"""Telling a guest that runs what addresses a card is to have, through the host's integration services.

Sources: Microsoft's Hyper-V WMI provider (V2): ``SetGuestNetworkAdapterConfiguration``,
``Msvm_GuestNetworkAdapterConfiguration``, ``Msvm_KvpExchangeComponent`` and ``Msvm_ConcreteJob``; that emulated cards
are left out: "Inject IP address into the Replica VM before it has failed over" (Microsoft's virtualization blog, 2012).
"""

from __future__ import annotations

import time
from ipaddress import ip_address, ip_interface
from typing import Any

from bootpoint_worker.targets.hyperv.host import Host
from bootpoint_worker.targets.replica import Addressing, Nic
from bootpoint_worker.targets.snapshots.vm import Vm

#: Seconds between two looks whether a guest answers, or has done what it was told: each starts PowerShell on the host.
TICK = 5.0

#: Seconds after the deadline until which a guest that has answered may put the addresses of all its cards into effect.
JOB_TIMEOUT = 120.0

#: Values of ProtocolIFType: which versions of IP a configuration is of.
IPV4, IPV6, BOTH = 4096, 4097, 4098

#: Return values of the method: done, and a job was started.
DONE, STARTED = 0, 4096

#: A job's state: the job is done. Any above it is an end without success, any below it isn't over.
COMPLETED = 7

#: What the other return values mean.
REFUSALS = {
    32768: "failed",
    32769: "access denied",
    32770: "not supported",
    32771: "status unknown",
    32772: "timeout",
    32773: "invalid parameter",
    32774: "system is in use",
    32775: "invalid state for this operation",
    32776: "incorrect data type",
    32777: "system is not available",
    32778: "out of memory",
}

#: State of the module's answer -> why the guest can't be told.
_REASONS = {
    "off": "the VM is off",
    "no_card": "the VM has no synthetic card of that MAC address, and an emulated one (legacy) can't be told",
    "disabled": "the VM's integration service Key-Value Pair Exchange (Data Exchange) is disabled",
}


def tell(host: Host, vm: Vm, nic: Nic, deadline: float) -> str | None:
    """Tell a guest about a card; see `Host.tell_addresses`."""
    said = _answered(host, vm, nic, deadline)
    if said["state"] == "silent":
        return (
            "its guest's integration services (Key-Value Pair Exchange) have not answered in time:"
            " `bootpoint vm address` tells it once they do"
        )
    if said["state"] != "told":
        return _REASONS[said["state"]]
    if said["code"] == STARTED:
        return _outcome(host, vm, said["job"], deadline + JOB_TIMEOUT)
    return None if said["code"] == DONE else f"the host refuses: {REFUSALS.get(said['code'], said['code'])}"


def card(nic: Nic) -> dict[str, Any]:
    """Return what a guest is to be told of a card, as the module takes it."""
    wanted = nic.addressing if nic.addressing.mode != "dhcp" else Addressing("dhcp")
    own = [ip_interface(address) for address in wanted.addresses]
    gateways = [wanted.gateway] if wanted.gateway else []
    versions = {each.version for each in own} | {ip_address(each).version for each in (*gateways, *wanted.dns)}
    return {
        "mac": nic.mac.replace(":", "").upper(),
        "dhcp": wanted.mode == "dhcp",
        "family": BOTH if len(versions) > 1 else IPV6 if versions == {6} else IPV4,
        "addresses": [str(each.ip) for each in own],
        # As Set-VMNetworkAdapterFailoverConfiguration has them: a mask, and the length of a prefix.
        "subnets": [str(each.netmask) if each.version == 4 else str(each.network.prefixlen) for each in own],
        "gateways": gateways,
        "dns": list(wanted.dns),
    }


def _answered(host: Host, vm: Vm, nic: Nic, deadline: float) -> dict[str, Any]:
    """Tell the guest as soon as it answers; what the module says at last."""
    while True:
        said: dict[str, Any] = host.do("address", vm, **card(nic))
        if said["state"] != "silent" or time.monotonic() > deadline:
            return said
        time.sleep(TICK)


def _outcome(host: Host, vm: Vm, job: str, deadline: float) -> str | None:
    """Wait for a job: None when the guest has done it, else why not."""
    while True:
        said = host.ask("address_job", vm, job=job)
        state = said["state"]
        if state is None:
            return "the host knows no more what came of it"
        if state == COMPLETED:
            return None
        if state > COMPLETED:
            return said["message"] or f"the host's job ended in the state {state}"
        if time.monotonic() > deadline:
            return "its guest has not put them into effect in time"
        time.sleep(TICK)
