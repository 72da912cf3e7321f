"""What runs a machine: by default nothing (it is just said to be on), or a QEMU without hardware help.

QEMU has what VMware's machines have: a board with PIIX4 and its IDE channels, paravirtual SCSI, LSI Logic, AHCI and
NVMe controllers, vmxnet3 and e1000e network cards. Whatever the network is called, nothing gets out of a guest.
"""

from __future__ import annotations

import shutil
import struct
import threading
import uuid
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from tests.esxi import chain, hardware
from tests.service import qmp
from tests.service.process import Server, wait_for

if TYPE_CHECKING:
    from tests.esxi.machine import Machine

Device = vim.vm.device

#: QEMU's name of a controller.
CONTROLLERS: tuple[tuple[Any, str], ...] = (
    (Device.ParaVirtualSCSIController, "pvscsi"), (Device.VirtualLsiLogicSASController, "mptsas1068"),
    (Device.VirtualSCSIController, "lsi53c895a"), (Device.VirtualAHCIController, "ich9-ahci"),
)  # fmt: skip

#: QEMU's name of a network card.
CARDS: tuple[tuple[Any, str], ...] = (
    (Device.VirtualVmxnet3, "vmxnet3"), (Device.VirtualE1000e, "e1000e"), (Device.VirtualE1000, "e1000"),
)  # fmt: skip

#: Where Debian's ovmf has UEFI for machines, and their memory of it.
OVMF_CODE, OVMF_VARS = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"

#: Size of a picture without QEMU, in pixels: that of a text screen.
WIDTH, HEIGHT = 720, 400


class Guest:
    """Runs one machine.

    Attributes:
        started: Since when.
        question: What it waits for before it goes on.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._on = False
        self.started: datetime | None = None
        self.question: Any = None
        self._answered = threading.Event()
        self._server: Server | None = None

    @property
    def on(self) -> bool:
        """Whether it is on: until it is powered off, or has shut itself down."""
        if self._server is not None and not self._server.alive:
            self.power_off()
        return self._on

    @property
    def holds_files(self) -> bool:
        """Whether a process has opened its files."""
        return self._server is not None

    # --- questions

    def ask(self, text: str | None) -> None:
        """Ask something, if there is something to ask, and wait for the answer."""
        if text is None:
            return
        choices = [
            vim.ElementDescription(key=str(key), label=label, summary=label)
            for key, label in enumerate(("Move", "Copy"))
        ]
        self._answered.clear()
        self.question = vim.vm.QuestionInfo(
            id=str(uuid.uuid4().int % 10**6),
            text=text,
            choice=vim.option.ChoiceOption(choiceInfo=choices, defaultIndex=0),
        )
        self._machine.world.wait(self._answered)
        self.question = None

    def answer(self, number: str) -> bool:
        """Take an answer, and tell whether that was asked."""
        if self.question is None or self.question.id != number:
            return False
        self._answered.set()
        return True

    # --- power

    def power_on(self) -> None:
        """Start it."""
        if self._machine.world.runs_guests:
            self._start()
        self._on, self.started = True, datetime.now(UTC)

    def power_off(self) -> None:
        """Stop it; may be called when it is off."""
        if self._server is not None:
            self._server.kill()
            self._server = None
        self._on, self.started = False, None

    @property
    def _control(self) -> Path:
        return self._machine.world.sockets / f"{self._machine.moid}.qmp"

    def _start(self) -> None:
        self._control.unlink(missing_ok=True)
        log = self._machine.directory / "vmware.log"
        server = Server(self._command(), log=log)
        # A program dies with the thread that has started it, and a task's ends now.
        self._machine.world.starter.submit(server.start, self._control.exists, "the guest's QEMU").result()
        self._server = server

    def _command(self) -> list[str]:
        config = self._machine.config
        command = [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", "pc",
            "-m", str(config.hardware.memoryMB), "-smp", str(config.hardware.numCPU), "-name", config.name,
            "-display", "none", "-vga", "vmware", "-no-reboot", "-nodefaults", "-nic", "none", "-boot", "order=c",
            "-qmp", f"unix:{self._control},server=on,wait=off",
        ]  # fmt: skip
        if config.firmware == "efi":
            command += self._firmware()
        for device in config.hardware.device:
            command += self._device(device)
        return command

    def _firmware(self) -> list[str]:
        memory = self._machine.directory / f"{self._machine.directory.name}.nvram"
        if not memory.exists():
            shutil.copyfile(OVMF_VARS, memory)
        return [
            "-drive", f"if=pflash,format=raw,readonly=on,file={OVMF_CODE}",
            "-drive", f"if=pflash,format=raw,file={memory}",
        ]  # fmt: skip

    def _device(self, device: Any) -> list[str]:
        if isinstance(device, Device.VirtualDisk):
            return self._disk(device)
        if isinstance(device, Device.VirtualEthernetCard):
            model = next((name for kind, name in CARDS if isinstance(device, kind)), "e1000")
            card = f"{model},netdev=net{device.key},mac={device.macAddress}"
            return ["-netdev", f"user,id=net{device.key},restrict=on", "-device", card]
        if isinstance(device, Device.VirtualSerialPort) and hasattr(device.backing, "fileName"):
            return ["-serial", f"file:{self._machine.world.locate(device.backing.fileName)}"]
        if isinstance(device, Device.VirtualNVMEController):
            return []
        adapter = next((name for kind, name in CONTROLLERS if isinstance(device, kind)), None)
        return ["-device", f"{adapter},id=bus{device.key}"] if adapter else []

    def _disk(self, disk: Any) -> list[str]:
        extent = chain.read_link(self._machine.world.locate(disk.backing.fileName)).extent
        drive, bus = f"disk{disk.key}", f"bus{disk.controllerKey}"
        controller = next(each for each in self._machine.config.hardware.device if each.key == disk.controllerKey)
        how = f"drive={drive},bootindex={hardware.disks(self._machine.config.hardware.device).index(disk)}"
        if isinstance(controller, Device.VirtualNVMEController):
            device = f"nvme,serial=VMWare-NVME-{disk.key},{how}"
        elif isinstance(controller, Device.VirtualSCSIController):
            device = f"scsi-hd,bus={bus}.0,scsi-id={disk.unitNumber},{how}"
        elif isinstance(controller, Device.VirtualSATAController):
            device = f"ide-hd,bus={bus}.{disk.unitNumber},{how}"
        else:
            device = f"ide-hd,bus=ide.{controller.busNumber},unit={disk.unitNumber},{how}"
        return ["-drive", f"if=none,id={drive},format=qcow2,file={extent}", "-device", device]

    # --- the screen

    def save_screen(self) -> str:
        """Save a picture beside the machine's files, and return its path."""
        directory = self._machine.directory
        names = (directory / f"{directory.name}-{number}.png" for number in range(1, 10**4))
        path = next(each for each in names if not each.exists())
        path.write_bytes(self.screen())
        return self._machine.world.name_of(path)

    def screen(self) -> bytes:
        """Return what the screen shows, as PNG."""
        if self._server is None:
            return blank()
        path = self._machine.world.sockets / f"{self._machine.moid}.png"
        path.unlink(missing_ok=True)
        self.command("screendump", filename=str(path), format="png")
        return wait_for(path.read_bytes, "a picture of the screen")

    def command(self, name: str, **arguments: Any) -> Any:
        """Give QEMU a command, and return its answer."""
        return qmp.command(self._control, name, **arguments)


def blank() -> bytes:
    """Return a black picture of a text screen (PNG 1.2: signature, IHDR, IDAT, IEND)."""
    rows = (b"\0" + bytes(WIDTH)) * HEIGHT
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0)
    pieces = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    body = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in pieces
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)
