"""The machine that the agent runs on, as ``disk list`` shows it and as its standby is made after it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

from bootpoint_producer.probe import ask_json, line_of

_NET = Path("/sys/class/net")
_MEMORY = Path("/sys/devices/system/memory")


def machine() -> dict[str, Any]:
    """Return the ``machine`` object of ``disk list``."""
    return {
        "os": _system(),
        "kernel": os.uname().release,
        "firmware": "uefi" if Path("/sys/firmware/efi").exists() else "bios",
        "cpus": os.cpu_count() or 1,
        "memory_bytes": _memory(),
        "nics": _nics(),
    }


def _system() -> str:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"
    return re.sub(r" \([^)]*\)$", "", name)


def _memory() -> int:
    """Return the memory that is built in; the kernel's own total leaves out what it keeps for itself."""
    block = line_of(_MEMORY / "block_size_bytes")
    online = [state for state in _MEMORY.glob("memory[0-9]*/state") if line_of(state) == "online"]
    if block and online:
        return int(block, 16) * len(online)
    total = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return int(total[1]) * 1024 if total else 0


def _nics() -> list[dict[str, Any]]:
    """Return the network cards that are devices; bridges, bonds and tunnels are not, but may hold the address."""
    links: dict[str, dict[str, Any]] = {link["ifname"]: link for link in ask_json("ip", "-j", "addr") or []}
    routes = [*(ask_json("ip", "-j", "route") or []), *(ask_json("ip", "-j", "-6", "route") or [])]
    gateways: dict[str, str] = {}
    for route in routes:
        if route.get("dst") == "default" and "gateway" in route and "dev" in route:
            gateways.setdefault(route["dev"], route["gateway"])
    nics = []
    for name, link in links.items():
        if not (_NET / name / "device").exists():
            continue
        holders = [name, *([link["master"]] if link.get("master") in links else [])]
        nics.append(
            {
                "name": name,
                "mac": link.get("permaddr") or link.get("address"),
                "addresses": [address for holder in holders for address in _addresses(links[holder])],
                "gateway": next((gateways[holder] for holder in holders if holder in gateways), None),
            }
        )
    return nics


def _addresses(link: dict[str, Any]) -> list[str]:
    return [
        f"{address['local']}/{address['prefixlen']}"
        for address in link.get("addr_info", [])
        if address.get("scope") == "global" and "local" in address and not address.get("temporary")
    ]
