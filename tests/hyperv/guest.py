"""What runs a VM: by default nothing (it is just said to run), or a QEMU without hardware help.

QEMU has no VMBus disks: those on SCSI are on virtio here, and those on IDE on IDE, as on Hyper-V. It runs a flat copy
of what the disks show, and what the guest writes is thrown away. That hv_storvsc and its like are in a guest can't be
tried here.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from bootpoint_common.units import MiB
from tests.hyperv.avhdx import Vhdx
from tests.hyperv.part import Controller, Drive
from tests.service import qmp
from tests.service.process import Server, wait_for

if TYPE_CHECKING:
    from tests.hyperv.host import Host
    from tests.hyperv.machine import Machine

#: Where Debian's ovmf has UEFI for machines.
OVMF = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"


class Guest:
    """Runs one VM once.

    Args:
        host: Where.
        machine: Which one.

    Attributes:
        serial: File that its first serial port writes to.
        control: QEMU's socket for commands.
    """

    def __init__(self, host: Host, machine: Machine) -> None:
        self._host = host
        self._machine = machine
        self._directory = host.directory / "guests" / str(machine.id)
        self.control = self._directory / "qmp"
        self.serial = self._directory / "serial.log"
        self._server: Server | None = None

    @property
    def ended(self) -> bool:
        """Whether it has shut itself down."""
        return self._server is not None and not self._server.alive

    def start(self) -> None:
        """Start it."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        server = Server(self._command(), log=self._directory / "qemu.log")
        # A program dies with the thread that has started it, and a process' ends soon.
        self._host.starter.submit(server.start, self.control.exists, "the guest's QEMU").result()
        self._server = server

    def stop(self) -> None:
        """End it; may be called twice."""
        if self._server is not None:
            self._server.kill()
            self._server = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def _command(self) -> list[str]:
        machine = self._machine
        command = [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", "pc", "-snapshot", "-display", "none",
            "-m", str(machine.memory_startup // MiB), "-smp", str(machine.processor_count), "-no-reboot",
            "-nodefaults", "-vga", "std", "-nic", "none", "-serial", f"file:{self.serial}",
            "-qmp", f"unix:{self.control},server=on,wait=off", "-device", "virtio-scsi-pci,id=scsi",
        ]  # fmt: skip
        if machine.generation == 2:
            memory = self._directory / "vars.fd"
            shutil.copyfile(OVMF[1], memory)
            command += ["-drive", f"if=pflash,format=raw,readonly=on,file={OVMF[0]}"]
            command += ["-drive", f"if=pflash,format=raw,file={memory}"]
        for number, drive in enumerate(machine.hard_drives):
            command += self._drive(number, drive)
        return command

    def _drive(self, number: int, drive: Drive) -> list[str]:
        flat = self._directory / f"disk{number}.raw"
        flatten(self._host, self._host.locate(drive.path), flat)
        kind, controller, location = drive.place
        bus = f"ide-hd,bus=ide.{controller},unit={location}" if kind is Controller.IDE else "scsi-hd,bus=scsi.0"
        made = ["-drive", f"if=none,id=disk{number},format=raw,file={flat}"]
        return [*made, "-device", f"{bus},drive=disk{number},bootindex={number}"]

    def screen(self, width: int, height: int) -> bytes:
        """Return what it shows as RGB565, in a size that was asked for."""
        path = self._directory / "screen.ppm"
        path.unlink(missing_ok=True)
        qmp.command(self.control, "screendump", filename=str(path))
        return scaled(wait_for(path.read_bytes, "a picture of the screen"), width, height)


def flatten(host: Host, leaf: Path, target: Path) -> None:
    """Write what a disk shows into a raw file: what each file of the chain holds, the base first."""
    with target.open("wb") as raw:
        for path in reversed([leaf, *host.chain_below(leaf)]):
            with Vhdx(path, find=host.find_parent) as disk:
                raw.truncate(disk.shape.size)
                for offset, data in disk.content():
                    raw.seek(offset)
                    raw.write(data)


def scaled(picture: bytes, width: int, height: int) -> bytes:
    """Return a PPM picture (netpbm: P6, 8 bits a colour) as RGB565 in another size, by its nearest points."""
    _, sizes, _, points = picture.split(b"\n", 3)
    columns, rows = map(int, sizes.split())
    found = bytearray()
    for row in range(height):
        start = row * rows // height * columns
        for column in range(width):
            place = 3 * (start + column * columns // width)
            red, green, blue = points[place : place + 3]
            found += (red >> 3 << 11 | green >> 2 << 5 | blue >> 3).to_bytes(2, "little")
    return bytes(found)
