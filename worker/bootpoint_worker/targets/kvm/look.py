"""Looking at a test VM from outside: its logs on the host, its screen, its guest agent, what its disks have done."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from bootpoint_common.errors import Code, error
from bootpoint_worker.targets.kvm import domain, script, standby
from bootpoint_worker.targets.kvm.host import Host
from bootpoint_worker.targets.kvm.picture import png_of
from bootpoint_worker.targets.kvm.session import check
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.sight import SERIAL_TAIL, Sight, plain

if TYPE_CHECKING:
    import libvirt

#: Where the characters of the VGA text mode lie: address, columns, rows; each is a character and its colours.
_TEXT_AT, _COLUMNS, _ROWS = 0xB8000, 80, 25

#: Share of characters that a text has to have; pixels of a graphics mode show others.
_READABLE = 0.95

#: Seconds that a guest agent may take for an answer.
_AGENT_SECONDS = 2


def look(host: Host, replica: Replica, test_id: str) -> Sight:
    """Look at a test VM; see `Target.look`."""
    place = host.place(replica)
    resets, serial, firmware = _logs(host, place.directory, test_id)
    hypervisor = host.hypervisor
    with hypervisor.connection() as connection:
        machine = hypervisor.look_up(replica.machine_name(test_id))
        mark = None if machine is None else domain.mark_of(machine.XMLDesc())
        if machine is None or mark is None or mark.replica_id != replica.replica_id:
            return Sight(state="absent", serial=serial, firmware=firmware, resets=resets)
        state, why = _state(machine)
        seen: dict[str, Any] = {}
        if state in ("running", "paused", "crashed"):
            seen = _live(connection, machine)
        return Sight(state=state, why=why, resets=resets, serial=serial, firmware=firmware, **seen)


def _logs(host: Host, directory: str, test_id: str) -> tuple[int, str, str]:
    paths = [posixpath.join(directory, name) for name in standby.logs_of(test_id)]
    result = host.session.run(script.script("look"), *paths, str(SERIAL_TAIL))
    head, _, rest = check(host.session, result, f"read what test {test_id} says").stdout.partition(b"\n")
    try:
        resets, serial, firmware = map(int, head.split())
    except ValueError as exc:
        raise error(Code.TARGET_WRITE_ERROR, f"host {host.name} said {head[:80]!r} of test {test_id}") from exc
    return resets, plain(rest[:serial]), plain(rest[serial : serial + firmware])


def _state(machine: libvirt.virDomain) -> tuple[str, str | None]:
    import libvirt

    state, reason = machine.state()
    if state == libvirt.VIR_DOMAIN_SHUTOFF:
        words = {
            libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: "shutdown",
            libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: "destroyed",
            libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: "QEMU crashed",
            libvirt.VIR_DOMAIN_SHUTOFF_FAILED: "QEMU failed",
        }
        return "off", words.get(reason)
    if state == libvirt.VIR_DOMAIN_CRASHED:
        return "crashed", None
    if state == libvirt.VIR_DOMAIN_PAUSED:
        return "paused", "I/O error" if reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR else None
    return "running", None


def _live(connection: libvirt.virConnect, machine: libvirt.virDomain) -> dict[str, Any]:
    """Return what only a VM that runs can show. It may end at any moment: what is missing then is left out."""
    import libvirt

    seen: dict[str, Any] = {}
    try:
        xml = ET.fromstring(machine.XMLDesc())  # noqa: S314 - libvirtd made it
        amounts = [machine.blockStats(disk.get("dev")) for disk in xml.iterfind("./devices/disk/target")]
        seen["read_bytes"] = sum(max(0, amount[1]) for amount in amounts)
        seen["written_bytes"] = sum(max(0, amount[3]) for amount in amounts)
        seen["cpu_seconds"] = machine.info()[4] / 1e9
        seen["agent"] = _agent(machine, xml)
        seen["text"] = _text(machine)
        seen["picture"] = _picture(connection, machine)
    except libvirt.libvirtError as exc:
        if exc.get_error_code() not in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
            raise
    return seen


def _agent(machine: libvirt.virDomain, xml: ET.Element) -> bool:
    """Tell whether the guest agent answers. libvirt knows whether its port is open: only then it is asked."""
    port = xml.find(f"./devices/channel/target[@name='{domain.GUEST_AGENT}']")
    if port is None or port.get("state") != "connected":
        return False
    import libvirt
    import libvirt_qemu  # type: ignore[import-untyped]  # libvirt's bindings have no types

    try:
        answer = libvirt_qemu.qemuAgentCommand(machine, '{"execute":"guest-ping"}', _AGENT_SECONDS, 0)
    except libvirt.libvirtError:
        return False  # the port is open, and nobody behind it speaks
    return '"return"' in (answer or "")


def _text(machine: libvirt.virDomain) -> str | None:
    import libvirt

    try:
        memory = machine.memoryPeek(_TEXT_AT, _COLUMNS * _ROWS * 2, libvirt.VIR_MEMORY_PHYSICAL)
    except libvirt.libvirtError as exc:
        if exc.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
            raise
        return None  # this libvirt or QEMU doesn't show memory
    return screen_text(memory)


def screen_text(memory: bytes) -> str | None:
    """Read the memory of a VGA text screen; None where it holds something else."""
    characters = memory[0 : _COLUMNS * _ROWS * 2 : 2]
    readable = sum(byte in (0, *range(0x20, 0x7F), *range(0xB0, 0xE0)) for byte in characters)
    if readable < _READABLE * _COLUMNS * _ROWS:
        return None
    text = characters.decode("cp437").replace("\0", " ")
    return "\n".join(text[at : at + _COLUMNS].rstrip() for at in range(0, len(text), _COLUMNS)).rstrip("\n")


def _picture(connection: libvirt.virConnect, machine: libvirt.virDomain) -> bytes | None:
    import libvirt

    stream = connection.newStream()
    pieces: list[bytes] = []
    try:
        machine.screenshot(stream, 0)
        stream.recvAll(lambda _stream, data, _opaque: pieces.append(data), None)
        stream.finish()
    except libvirt.libvirtError as exc:
        if exc.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
            raise
        return None  # no screen, or the host has no room for the picture
    return png_of(b"".join(pieces))
