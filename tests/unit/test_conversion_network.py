"""A guest's network configuration for the target: four renderers, three modes, each from files to files."""

from __future__ import annotations

import pytest

from bootpoint_worker.conversion.guest import Edits, Guest
from bootpoint_worker.conversion.network import plan_network, renderer
from bootpoint_worker.targets.replica import Addressing, Nic

OLD, NEW = "3c:ec:ef:00:00:21", "52:54:00:aa:bb:cc"

LINK = "etc/systemd/network/10-bootpoint-0.link"

NETPLAN = f"""\
network:
  version: 2
  ethernets:
    eno1:
      match:
        macaddress: "{OLD.upper()}"
      addresses: [10.1.0.21/24]
    eno2:
      dhcp4: true
"""

INTERFACES = f"""\
auto lo
iface lo inet loopback

auto eno1 eno2
iface eno1 inet static
    address 10.1.0.21/24
    hwaddress ether {OLD}
iface eno2 inet dhcp
"""

KEYFILE = f"[connection]\nid=wired\ninterface-name=eno1\n\n[ethernet]\nmac-address={OLD.upper()}\n"

NETWORK = f"[Match]\nMACAddress={OLD}\n\n[Network]\nDHCP=yes\n"

GUESTS = {
    "netplan": Guest({"etc/netplan/50-cloud.yaml": NETPLAN.encode(), "etc/network/interfaces": b"auto lo\n"}),
    "ifupdown": Guest({"etc/network/interfaces": INTERFACES.encode()}),
    "networkmanager": Guest(
        {"etc/NetworkManager/system-connections/wired.nmconnection": KEYFILE.encode()},
        enabled=frozenset({"NetworkManager"}),
    ),
    "networkd": Guest(
        {"etc/systemd/network/20-wired.network": NETWORK.encode()}, enabled=frozenset({"systemd-networkd"})
    ),
}

#: The file that had the card, by renderer.
SOURCE = {
    "netplan": "etc/netplan/50-cloud.yaml",
    "ifupdown": "etc/network/interfaces",
    "networkmanager": "etc/NetworkManager/system-connections/wired.nmconnection",
    "networkd": "etc/systemd/network/20-wired.network",
}

#: The file that has the card on the target, by renderer.
MADE = {
    "netplan": "etc/netplan/90-bootpoint-0.yaml",
    "ifupdown": "etc/network/interfaces",
    "networkmanager": "etc/NetworkManager/system-connections/bootpoint-0.nmconnection",
    "networkd": "etc/systemd/network/05-bootpoint-0.network",
}


def planned(kind: str, mode: str, **changes: object) -> tuple[Guest, Edits]:
    static = {"addresses": ("10.9.0.21/24",), "gateway": "10.9.0.1", "dns": ("10.9.0.2",)} if mode == "static" else {}
    values: dict[str, object] = {"source_name": "eno1", "source_mac": OLD, **static, **changes}
    guest, edits = GUESTS[kind], Edits()
    plan_network(guest, edits, [Nic("net", "virtio", NEW, addressing=Addressing(mode, **values))])  # type: ignore[arg-type]
    return guest, edits


@pytest.mark.parametrize("kind", GUESTS)
def test_renderer_is_known_by_its_files(kind: str) -> None:
    assert renderer(GUESTS[kind]) == kind


def test_a_guest_without_any_has_none() -> None:
    assert renderer(Guest()) is None
    edits = Edits()
    plan_network(Guest(), edits, [Nic("net", "virtio", NEW, addressing=Addressing("dhcp"))])
    assert edits.writes == {}
    assert len(edits.problems) == 1


@pytest.mark.parametrize("kind", GUESTS)
def test_source_keeps_name_and_addresses_under_the_new_mac(kind: str) -> None:
    guest, edits = planned(kind, "source")
    assert edits.writes[LINK] == f"[Match]\nMACAddress={NEW}\n\n[Link]\nName=eno1\n".encode()
    before = guest.text(SOURCE[kind])
    assert edits.text(guest, SOURCE[kind]) == before.replace(OLD, NEW).replace(OLD.upper(), NEW)
    assert NEW in edits.text(guest, SOURCE[kind])
    assert edits.aside == []
    assert set(edits.writes) == {LINK, SOURCE[kind]}


@pytest.mark.parametrize("kind", GUESTS)
def test_source_with_the_mac_kept_only_keeps_the_name(kind: str) -> None:
    _guest, edits = planned(kind, "source", source_mac=NEW.upper())
    assert set(edits.writes) == {LINK}


@pytest.mark.parametrize("kind", GUESTS)
def test_dhcp_takes_the_place_of_what_the_card_had(kind: str) -> None:
    guest, edits = planned(kind, "dhcp")
    made = edits.text(guest, MADE[kind])
    wanted = {
        "netplan": "dhcp4: true",
        "ifupdown": "iface eno1 inet dhcp",
        "networkmanager": "method=auto",
        "networkd": "DHCP=yes",
    }
    assert wanted[kind] in made
    assert OLD not in made.lower()
    assert "10.1.0.21" not in edits.text(guest, SOURCE[kind])
    assert OLD not in edits.text(guest, SOURCE[kind]).lower()
    assert LINK in edits.writes


@pytest.mark.parametrize("kind", GUESTS)
def test_static_writes_address_gateway_and_name_servers(kind: str) -> None:
    guest, edits = planned(kind, "static")
    made = edits.text(guest, MADE[kind])
    assert all(value in made for value in ("10.9.0.21/24", "10.9.0.1", "10.9.0.2"))
    assert OLD not in edits.text(guest, SOURCE[kind]).lower()
    assert edits.actions == [f"network card eno1 ({NEW}) gets 10.9.0.21/24 by {kind}"]


@pytest.mark.parametrize("kind", ["netplan", "ifupdown"])
def test_other_cards_keep_their_configuration(kind: str) -> None:
    guest, edits = planned(kind, "dhcp")
    text = edits.text(guest, SOURCE[kind])
    assert "eno2" in text
    assert "dhcp" in text
    if kind == "ifupdown":
        assert "auto eno2\n" in text
        assert text.count("iface eno1 ") == 1


def test_a_file_that_is_about_the_card_alone_is_put_aside() -> None:
    for kind in ("networkmanager", "networkd"):
        _guest, edits = planned(kind, "static")
        assert edits.aside == [SOURCE[kind]]
    alone = Guest({"etc/netplan/01.yaml": b"network:\n  version: 2\n  ethernets:\n    eno1:\n      dhcp4: true\n"})
    edits = Edits()
    plan_network(alone, edits, [Nic("net", "virtio", NEW, addressing=Addressing("dhcp", "eno1", OLD))])
    assert edits.aside == ["etc/netplan/01.yaml"]


def test_secrets_of_networkmanager_stay_readable_by_root_alone() -> None:
    _guest, edits = planned("networkmanager", "static")
    assert edits.modes[MADE["networkmanager"]] == 0o600


def test_ipv6_addresses_go_where_they_belong() -> None:
    guest, edits = planned("networkmanager", "static", addresses=("2001:db8::21/64",), gateway="2001:db8::1", dns=())
    text = edits.text(guest, MADE["networkmanager"])
    four, six = text.split("[ipv4]")[1].split("[ipv6]")
    assert "method=disabled" in four
    assert "address1=2001:db8::21/64\ngateway=2001:db8::1" in six
    guest, edits = planned("ifupdown", "static", addresses=("2001:db8::21/64",), gateway=None, dns=())
    assert "iface eno1 inet6 static\n    address 2001:db8::21/64\n" in edits.text(guest, MADE["ifupdown"])


def test_a_name_that_is_no_name_of_a_card_is_not_written_anywhere() -> None:
    guest, edits = planned("ifupdown", "dhcp", source_name="eno1\niface evil")
    assert "evil" not in "".join(edits.text(guest, path) for path in edits.writes)
    assert "iface bp0 inet dhcp" in edits.text(guest, MADE["ifupdown"])


def test_udev_rules_of_old_distributions_follow_the_mac() -> None:
    path = "etc/udev/rules.d/70-persistent-net.rules"
    rule = f'SUBSYSTEM=="net", ATTR{{address}}=="{OLD}", NAME="eth0"\n'
    guest, edits = Guest({path: rule.encode()}), Edits()
    plan_network(guest, edits, [Nic("net", "virtio", NEW, addressing=Addressing("source", "eth0", OLD))])
    assert edits.text(guest, path) == rule.replace(OLD, NEW)
