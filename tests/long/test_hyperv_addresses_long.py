"""A guest that no conversion has told its addresses: its host tells it once it answers, and what came of it is said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bootpoint_worker.targets.base import StartRequest
from bootpoint_worker.targets.host import Told
from bootpoint_worker.targets.hyperv import addresses
from bootpoint_worker.targets.hyperv.target import HyperVTarget
from bootpoint_worker.targets.replica import Addressing, Nic
from tests.contract.driver_hyperv import GUISES, NETWORK, HyperVHooks, hyperv
from tests.contract.test_target import SIZE, Bench, _pattern, _replica
from tests.hyperv.client import run
from tests.hyperv.host import Host
from tests.hyperv.machine import Machine
from tests.hyperv.pwsh.failure import failure
from tests.hyperv.wmi import INVALID, NOT_SUPPORTED, STARTED, WRONG_STATE, Telling

pytestmark = pytest.mark.long

#: MAC addresses of the standby's cards.
FIRST, SECOND, THIRD = "00:15:5d:00:00:01", "00:15:5d:00:00:02", "00:15:5d:00:00:03"

STATIC = Addressing("static", None, None, ("10.9.0.21/24",), "10.9.0.1", ("10.9.0.2", "10.9.0.3"))
BY_HAND = "set them by hand: 10.9.0.21/24; gateway 10.9.0.1; DNS 10.9.0.2, 10.9.0.3"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "TICK", 0.05)


@dataclass
class Started:
    """A standby on a stand-in, with a point that no conversion changes."""

    bench: Bench
    host: Host

    @property
    def machine(self) -> Machine:
        """The standby, as the host has it."""
        return self.host.machine(self.bench.replica.vm_name)

    def tell(self, seconds: float) -> tuple[Told, ...]:
        """Tell its guest its addresses."""
        assert isinstance(self.bench.target, HyperVTarget)
        return self.bench.target.tell_addresses(self.bench.replica, seconds)

    def start(self, *nics: Nic, seconds: float = 60.0) -> tuple[Told, ...]:
        """Start the standby with these cards, and tell its guest about them."""
        target = self.bench.target
        self.bench.replica = replace(self.bench.replica, nics=nics)
        target.create(self.bench.replica)
        first = self.bench.point(None, (0, _pattern(1, SIZE)))
        target.start(self.bench.replica, StartRequest(point_id=first.point_id, conversion="none"))
        return self.tell(seconds)


def _started(directory: Path, guise: str = "2022") -> Iterator[Started]:
    with hyperv(directory, guise) as driver, closing(driver.connect()) as target:
        assert isinstance(driver.hooks, HyperVHooks)
        yield Started(Bench(driver, target, _replica(driver, disks=1)), driver.hooks.host)


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[Started]:
    yield from _started(tmp_path)


@pytest.mark.parametrize("guise", GUISES)
def test_a_guest_gets_what_the_job_says_of_each_of_its_cards(tmp_path: Path, guise: str) -> None:
    """Two cards on one network, one with both versions of IP; a third one asks DHCP."""
    for standby in _started(tmp_path, guise):
        source = Addressing("source", "eno1", "3c:ec:ef:00:00:21", ("10.1.0.21/16", "2001:db8::21/64"), "2001:db8::1")
        told = standby.start(
            Nic(NETWORK, "virtio", FIRST, addressing=STATIC),
            Nic(NETWORK, "virtio", SECOND, addressing=source),
            Nic(NETWORK, "virtio", THIRD, connect=False, addressing=Addressing("dhcp")),
        )
        assert [each.told for each in told] == [True, True, True], told
        assert standby.machine._told == {
            "00155D000001": Telling(False, frozenset({4}), ("10.9.0.21/24",), ("10.9.0.1",), ("10.9.0.2", "10.9.0.3")),
            "00155D000002": Telling(
                False, frozenset({4, 6}), ("10.1.0.21/16", "2001:db8::21/64"), ("2001:db8::1",), ()
            ),
            "00155D000003": Telling(True, frozenset({4}), (), (), ()),
        }
        assert told[0].text == (
            f"network card {FIRST} was told its addresses: 10.9.0.21/24; gateway 10.9.0.1; DNS 10.9.0.2, 10.9.0.3"
        )
        assert told[1].text.endswith("gateway 2001:db8::1, and no name servers, for the source's aren't known")
        assert told[2].text == f"network card {THIRD} was told its addresses: DHCP"


def test_a_guest_that_starts_for_a_while_is_waited_for(standby: Started) -> None:
    standby.host.trouble.silent_looks = 5
    (told,) = standby.start(Nic(NETWORK, "virtio", FIRST, addressing=STATIC))
    assert told.told, told
    assert standby.machine._told["00155D000001"].addresses == ("10.9.0.21/24",)
    # For the day when nobody but Hyper-V Manager starts it.
    runbook = (standby.host.locate(standby.machine.path) / "RUNBOOK.txt").read_text()
    assert f"card {FIRST}: 10.9.0.21/24; gateway 10.9.0.1; DNS 10.9.0.2, 10.9.0.3." in runbook


def test_a_guest_that_never_answers_runs_and_can_be_told_later(standby: Started) -> None:
    standby.host.trouble.silent_looks = 10_000
    cards = [Nic(NETWORK, "virtio", mac, addressing=STATIC) for mac in (FIRST, SECOND)]
    told = standby.start(*cards, seconds=0.5)
    assert [each.told for each in told] == [False, False]
    reason = "its guest's integration services (Key-Value Pair Exchange) have not answered in time"
    assert told[0].text.startswith(f"network card {FIRST} was not told its addresses, for {reason}: ")
    assert told[0].text.endswith(BY_HAND)
    assert standby.machine.state.name == "Running"
    standby.machine._silent_looks = 0
    assert all(each.told for each in standby.tell(0))
    assert set(standby.machine._told) == {"00155D000001", "00155D000002"}


def test_why_a_guest_has_no_addresses_is_said_card_by_card(standby: Started) -> None:
    """One whose source's are unknown, an emulated one, and one whose guest refuses."""
    standby.host.trouble.guest_refuses = "The guest could not set 10.9.0.21: it is in use on the network."
    unknown, emulated, refused = standby.start(
        Nic(NETWORK, "virtio", FIRST),
        Nic(NETWORK, "legacy", SECOND, addressing=STATIC),
        Nic(NETWORK, "virtio", THIRD, addressing=STATIC),
    )
    assert [unknown.told, emulated.told, refused.told] == [False, False, False]
    assert unknown.text == (
        f"network card {FIRST} was not told its addresses, for the source's aren't known: set them by hand"
    )
    assert "an emulated one (legacy) can't be told" in emulated.text
    assert emulated.text.endswith(BY_HAND)
    assert "The guest could not set 10.9.0.21: it is in use on the network." in refused.text
    assert standby.machine._told == {}
    assert standby.machine.state.name == "Running"


def test_a_guest_that_never_ends_is_given_up(standby: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "JOB_TIMEOUT", 0.5)
    standby.host.trouble.busy_looks = 10_000
    (told,) = standby.start(Nic(NETWORK, "virtio", FIRST, addressing=STATIC), seconds=0)
    assert f"for its guest has not put them into effect in time; {BY_HAND}" in told.text
    standby.host.trouble.busy_looks = 3
    (told,) = standby.tell(60)
    assert told.told, told


def test_a_switched_off_service_and_a_machine_that_is_off_are_not_waited_for(standby: Started) -> None:
    standby.host.trouble.exchange_disabled = True
    (told,) = standby.start(Nic(NETWORK, "virtio", FIRST, addressing=STATIC), seconds=3600)
    assert "Key-Value Pair Exchange (Data Exchange) is disabled" in told.text
    standby.host.vmms.power_off(standby.machine)
    (told,) = standby.tell(3600)
    assert f"for {standby.bench.replica.vm_name} is off; {BY_HAND}" in told.text


def test_a_host_that_refuses_or_is_gone_fails_no_start(standby: Started) -> None:
    kind, text = "System.UnauthorizedAccessException", "Access is denied. (0x80070005)"
    identity = "UnauthorizedAccess,Microsoft.PowerShell.Commands.GetWmiObjectCommand"
    standby.host.trouble.fail("Get-WmiObject", lambda: failure(kind, text, identity, "PermissionDenied"))
    (told,) = standby.start(Nic(NETWORK, "virtio", FIRST, addressing=STATIC))
    assert (told.told, told.text.endswith(BY_HAND)) == (False, True)
    assert "host contract denies access (address): Access is denied." in told.text
    standby.host.winrm.stop()
    (told,) = standby.tell(3600)
    assert (told.told, told.text.endswith(BY_HAND)) == (False, True)
    assert "host contract does not answer" in told.text


# --- the stand-in itself

#: Tells the guest of the VM `web` an address; prints what the method returned.
TELL = """
$space = 'root\\virtualization\\v2'
$port = @(Get-WmiObject -Namespace $space -Class Msvm_{kind}EthernetPortSettingData)[0]
$wanted = @($port.GetRelated('Msvm_GuestNetworkAdapterConfiguration'))[0]
$wanted.DHCPEnabled = $false
$wanted.ProtocolIFType = {family}
$wanted.IPAddresses = @('10.9.0.21')
$wanted.Subnets = @('255.255.255.0')
$service = @(Get-WmiObject -Namespace $space -Class Msvm_VirtualSystemManagementService)[0]
$system = @(Get-WmiObject -Namespace $space -Class Msvm_ComputerSystem)[0]
$answer = $service.SetGuestNetworkAdapterConfiguration($system.Path, @($wanted.GetText(1)))
@{{ code = $answer.ReturnValue }} | ConvertTo-Json
"""


def test_the_stand_in_refuses_what_microsoft_says_is_refused(tmp_path: Path) -> None:
    """A VM that is off, an emulated card, and addresses of another version of IP; of a silent guest the job fails."""
    with Host(tmp_path / "hv1") as host:
        run(host, "New-VM -Name web -Path 'D:\\standby' -MemoryStartupBytes 512MB -NoVHD | Out-Null")
        run(host, "Add-VMNetworkAdapter -VMName web -IsLegacy $true -Name old")
        synthetic = TELL.format(kind="Synthetic", family=4096)
        assert run(host, synthetic)["code"] == WRONG_STATE
        run(host, "Start-VM -Name web")
        assert run(host, TELL.format(kind="Emulated", family=4096))["code"] == NOT_SUPPORTED
        assert run(host, TELL.format(kind="Synthetic", family=4097))["code"] == INVALID
        assert run(host, synthetic)["code"] == STARTED
        host.machine("web")._silent_looks = 10
        assert run(host, synthetic)["code"] == STARTED
        jobs = "@(Get-WmiObject -Namespace root\\virtualization\\v2 -Class Msvm_ConcreteJob | ForEach-Object {"
        looked = jobs + " @{ state = $_.JobState; error = $_.ErrorDescription } }) | ConvertTo-Json"
        assert [each["state"] for each in run(host, looked)] == [4, 4]
        assert [each["state"] for each in run(host, looked)] == [7, 10]
        assert "no contact" in run(host, looked)[1]["error"]
