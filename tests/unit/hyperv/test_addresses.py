"""What a guest on Hyper-V is told of a card, in the words of Msvm_GuestNetworkAdapterConfiguration."""

from __future__ import annotations

from typing import Any

import pytest

from bootpoint_worker.targets.hyperv.addresses import card
from bootpoint_worker.targets.replica import Addressing, Nic


def _told(addressing: Addressing) -> dict[str, Any]:
    return card(Nic("LAN", "virtio", "00:15:5d:0a:0b:0c", addressing=addressing))


@pytest.mark.parametrize(
    ("addresses", "family", "subnets"),
    [
        (("10.9.0.21/24",), 4096, ["255.255.255.0"]),
        (("10.9.0.21/25", "10.9.8.21/16"), 4096, ["255.255.255.128", "255.255.0.0"]),
        (("2001:db8::21/64",), 4097, ["64"]),
        (("10.9.0.21/24", "2001:db8::21/48"), 4098, ["255.255.255.0", "48"]),
    ],
)
def test_each_address_has_its_mask_and_the_family_is_that_of_all(
    addresses: tuple[str, ...], family: int, subnets: list[str]
) -> None:
    told = _told(Addressing("static", addresses=addresses))
    assert (told["mac"], told["dhcp"], told["family"], told["subnets"]) == ("00155D0A0B0C", False, family, subnets)
    assert told["addresses"] == [each.partition("/")[0] for each in addresses]


def test_a_name_server_of_the_other_version_of_ip_makes_it_one_of_both() -> None:
    told = _told(Addressing("static", None, None, ("10.9.0.21/24",), "10.9.0.1", ("10.9.0.2", "2001:db8::2")))
    assert (told["family"], told["gateways"], told["dns"]) == (4098, ["10.9.0.1"], ["10.9.0.2", "2001:db8::2"])


def test_a_guest_that_asks_dhcp_is_told_nothing_else() -> None:
    told = _told(Addressing("dhcp", "eno1", "3c:ec:ef:00:00:21", ("10.1.0.21/24",), "10.1.0.1", ("10.1.0.2",)))
    lists = ("addresses", "subnets", "gateways", "dns")
    assert (told["dhcp"], told["family"], [told[each] for each in lists]) == (True, 4096, [[], [], [], []])
