"""A guest's own network configuration, for the cards that it has on the target.

With ``source`` a card keeps the source's name (a ``.link`` file of systemd gives it to the new MAC) and configuration
that goes by the old MAC goes by the new one. With ``dhcp`` and ``static`` what the guest had for the card is put aside,
and new configuration is written in the form that the guest uses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_interface

from bootpoint_worker.conversion.guest import Edits, Guest
from bootpoint_worker.targets.replica import Nic

#: Files that may name a card or its MAC.
_CONFIGURATION = (
    r"etc/network/interfaces(?:\.d/[^/]+)?",
    r"etc/netplan/[^/]+\.ya?ml",
    r"etc/systemd/network/[^/]+\.(?:link|network|netdev)",
    r"etc/NetworkManager/system-connections/[^/]+",
    r"etc/sysconfig/network-scripts/ifcfg-[^/]+",
    r"etc/udev/rules\.d/[^/]*net[^/]*\.rules",
)

#: Names that Linux takes for a card.
_CARD = re.compile(r"[A-Za-z0-9_.-]{1,15}")


def renderer(guest: Guest) -> str | None:
    """Return what brings the guest's cards up: ``netplan``, ``networkmanager``, ``networkd``, ``ifupdown``, or None."""
    if guest.matching(r"etc/netplan/[^/]+\.ya?ml"):
        return "netplan"
    if "NetworkManager" in guest.enabled:
        return "networkmanager"
    if "systemd-networkd" in guest.enabled:
        return "networkd"
    if "etc/network/interfaces" in guest.files:
        return "ifupdown"
    return None


def plan_network(guest: Guest, edits: Edits, nics: Sequence[Nic]) -> None:
    """Plan the configuration of every card that the guest is to know."""
    kind = renderer(guest)
    for number, nic in enumerate(nics):
        wanted = nic.addressing
        name = wanted.source_name if wanted.source_name and _CARD.fullmatch(wanted.source_name) else None
        if wanted.mode == "source":
            _as_source(guest, edits, number, nic, name)
            continue
        if kind is None:
            edits.problems.append(
                f"network card {number + 1} was to get {wanted.mode} addressing, and nothing is known to configure it"
            )
            continue
        card = name or f"bp{number}"
        _forget(guest, edits, card, wanted.source_mac)
        _link(guest, edits, number, nic.mac, card)
        _WRITERS[kind](guest, edits, number, card, nic)
        what = "DHCP" if wanted.mode == "dhcp" else ", ".join(wanted.addresses)
        edits.actions.append(f"network card {card} ({nic.mac}) gets {what} by {kind}")


def _as_source(guest: Guest, edits: Edits, number: int, nic: Nic, name: str | None) -> None:
    old = nic.addressing.source_mac
    if old is not None and old.lower() != nic.mac.lower():
        for pattern in _CONFIGURATION:
            for path in guest.matching(pattern):
                text = edits.text(guest, path)
                edits.write(guest, path, re.sub(re.escape(old), nic.mac, text, flags=re.IGNORECASE))
    if name is not None:
        _link(guest, edits, number, nic.mac, name)
        edits.actions.append(f"network card {nic.mac} is called {name}, with the source's addresses")


def _link(guest: Guest, edits: Edits, number: int, mac: str, name: str) -> None:
    text = f"[Match]\nMACAddress={mac}\n\n[Link]\nName={name}\n"
    edits.write(guest, f"etc/systemd/network/10-bootpoint-{number}.link", text)


def _forget(guest: Guest, edits: Edits, card: str, mac: str | None) -> None:
    """Take what the guest says of a card out of its configuration."""
    for path in guest.matching(r"etc/network/interfaces(?:\.d/[^/]+)?"):
        edits.write(guest, path, _without_stanzas(edits.text(guest, path), card))
    for path in guest.matching(r"etc/netplan/[^/]+\.ya?ml"):
        text = edits.text(guest, path)
        rest = _without_block(text, card, mac)
        if rest is None:
            edits.put_aside(path)
        elif rest != text:
            edits.write(guest, path, rest)
    keys = [rf"^(?:interface-name|Name|DEVICE)\s*=\s*[\"']?{re.escape(card)}[\"']?\s*$"]
    if mac is not None:
        keys.append(rf"^(?:mac-address|MACAddress|PermanentMACAddress|HWADDR)\s*=\s*[\"']?{re.escape(mac)}[\"']?\s*$")
    for pattern in (*_CONFIGURATION[2:5],):
        for path in guest.matching(pattern):
            text = edits.text(guest, path)
            if any(re.search(key, text, re.MULTILINE | re.IGNORECASE) for key in keys):
                edits.put_aside(path)


def _without_stanzas(text: str, card: str) -> str:
    """Return ifupdown's configuration without a card's stanzas."""
    kept: list[str] = []
    skipping = False
    for line in text.splitlines(keepends=True):
        words = line.split()
        if words and words[0] in ("iface", "mapping"):
            skipping = words[1:2] == [card]
        elif words and (words[0] in ("auto", "source", "source-directory") or words[0].startswith("allow-")):
            skipping = False
            if card in words[1:] and not words[0].startswith("source"):
                rest = [word for word in words[1:] if word != card]
                kept += [f"{' '.join([words[0], *rest])}\n"] if rest else []
                continue
        if not skipping:
            kept.append(line)
    return "".join(kept)


def _without_block(text: str, card: str, mac: str | None) -> str | None:
    """Return netplan's YAML without the block of a card below ``ethernets``; None when nothing is left there.

    Blocks are told by their indentation, as netplan's own files are written; a file in flow style that names the card
    is given up as a whole.
    """
    lines = text.splitlines(keepends=True)
    blocks = _blocks(lines)
    drop = [
        (first, end)
        for first, end in blocks
        if lines[first].strip().rstrip(":").strip("\"'") == card
        or (mac is not None and mac.lower() in "".join(lines[first:end]).lower())
    ]
    if not drop:
        named = re.search(rf"[{{,]\s*[\"']?{re.escape(card)}[\"']?\s*:", text) is not None
        return None if named and not blocks else text
    if len(drop) == len(blocks):
        return None
    gone = {number for first, end in drop for number in range(first, end)}
    return "".join(line for number, line in enumerate(lines) if number not in gone)


def _blocks(lines: Sequence[str]) -> list[tuple[int, int]]:
    """Return first line and end of every block below ``ethernets:``."""
    found: list[tuple[int, int]] = []
    start = next((number for number, line in enumerate(lines) if line.strip() == "ethernets:"), None)
    if start is None:
        return found
    outer, inner = _indent(lines[start]), None
    for number in range(start + 1, len(lines)):
        if not lines[number].strip() or lines[number].lstrip().startswith("#"):
            continue
        indent = _indent(lines[number])
        if indent <= outer:
            break
        inner = indent if inner is None else inner
        if indent == inner:
            found.append((number, number + 1))
        elif found:
            found[-1] = (found[-1][0], number + 1)
    return found


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _netplan(guest: Guest, edits: Edits, number: int, card: str, nic: Nic) -> None:
    wanted = nic.addressing
    lines = ["network:", "  version: 2", "  ethernets:", f"    {card}:"]
    lines += ["      match:", f'        macaddress: "{nic.mac}"', f"      set-name: {card}"]
    if wanted.mode == "dhcp":
        lines.append("      dhcp4: true")
    else:
        lines += ["      dhcp4: false", "      addresses:", *(f'        - "{address}"' for address in wanted.addresses)]
        if wanted.gateway:
            anywhere = "::/0" if ":" in wanted.gateway else "0.0.0.0/0"
            lines += ["      routes:", f'        - to: "{anywhere}"', f'          via: "{wanted.gateway}"']
        if wanted.dns:
            lines += ["      nameservers:", "        addresses:", *(f'          - "{server}"' for server in wanted.dns)]
    edits.write(guest, f"etc/netplan/90-bootpoint-{number}.yaml", "\n".join(lines) + "\n", 0o600)


def _ifupdown(guest: Guest, edits: Edits, _number: int, card: str, nic: Nic) -> None:
    wanted = nic.addressing
    path = "etc/network/interfaces"
    lines = ["", f"auto {card}"]
    if wanted.mode == "dhcp":
        lines.append(f"iface {card} inet dhcp")
    for number, address in enumerate(wanted.addresses if wanted.mode == "static" else ()):
        family = "inet6" if ip_interface(address).version == 6 else "inet"
        lines += [f"iface {card} {family} static", f"    address {address}"]
        if number == 0 and wanted.gateway:
            lines.append(f"    gateway {wanted.gateway}")
        if number == 0 and wanted.dns:
            lines.append(f"    dns-nameservers {' '.join(wanted.dns)}")
    edits.write(guest, path, edits.text(guest, path).rstrip("\n") + "\n" + "\n".join(lines) + "\n")


def _networkmanager(guest: Guest, edits: Edits, number: int, card: str, nic: Nic) -> None:
    wanted = nic.addressing
    lines = [
        "[connection]",
        f"id=bootpoint-{number}",
        "type=ethernet",
        f"interface-name={card}",
        "autoconnect=true",
        "",
    ]
    lines += ["[ethernet]", f"mac-address={nic.mac}", ""]
    for family, section in ((4, "ipv4"), (6, "ipv6")):
        own = [address for address in wanted.addresses if ip_interface(address).version == family]
        lines.append(f"[{section}]")
        if wanted.mode == "dhcp" or not own:
            lines += [f"method={'auto' if wanted.mode == 'dhcp' or family == 6 else 'disabled'}", ""]
            continue
        lines.append("method=manual")
        lines += [f"address{place}={address}" for place, address in enumerate(own, 1)]
        lines += [f"gateway={wanted.gateway}"] if _of_family(wanted.gateway, family) else []
        servers = [server for server in wanted.dns if _of_family(server, family)]
        lines += [f"dns={';'.join(servers)};"] if servers else []
        lines.append("")
    path = f"etc/NetworkManager/system-connections/bootpoint-{number}.nmconnection"
    edits.write(guest, path, "\n".join(lines), 0o600)


def _of_family(address: str | None, family: int) -> bool:
    return address is not None and (":" in address) == (family == 6)


def _networkd(guest: Guest, edits: Edits, number: int, card: str, nic: Nic) -> None:
    wanted = nic.addressing
    lines = ["[Match]", f"MACAddress={nic.mac}", "", "[Network]"]
    if wanted.mode == "dhcp":
        lines.append("DHCP=yes")
    else:
        lines += [f"Address={address}" for address in wanted.addresses]
        lines += [f"Gateway={wanted.gateway}"] if wanted.gateway else []
        lines += [f"DNS={server}" for server in wanted.dns]
    edits.write(guest, f"etc/systemd/network/05-bootpoint-{number}.network", "\n".join(lines) + "\n")
    del card  # by its MAC: the name is the link file's


_WRITERS = {"netplan": _netplan, "ifupdown": _ifupdown, "networkmanager": _networkmanager, "networkd": _networkd}
