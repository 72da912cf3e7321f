"""A machine with systemd and the agent that is started, shut down, and started again, run by TCG.

Its disks outlive its starts. Its network is slirp's: what listens on this machine's loopback interface is at `GATEWAY`.
Scripts run in it as in `linux_guest`; what its units print is in its console's log.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bootpoint_ops.guest_tree import run_tool
from tests.service.linux_guest import LinuxGuest, talking
from tests.service.linux_tree import make_checkout, make_initramfs, own_kernel, packages_disk
from tests.service.process import Server
from tests.service.systemd_tree import DRIVERS, INIT, systemd_tree

#: Address of this machine's loopback interface in the guest.
GATEWAY = "10.0.2.2"

_KERNEL = (
    "console=ttyS0,115200 quiet loglevel=4 panic=-1 no_timer_check nowatchdog rcupdate.rcu_cpu_stall_suppress=1 "
    "nokaslr mitigations=off systemd.show_status=1"
)

#: Memory of the guest, in MiB.
MEMORY = 768

#: What tells the machine from others, at each of its starts.
_UUID = "0c1d9c3e-0000-4000-8000-00000000005d"


class SystemdMachine:
    """The machine while it is off; made from the cached tree.

    Args:
        directory: Where its disks, its console's logs and its output are kept.
        disks: Size in bytes of each disk beside the system's, by its serial number; ``vdb`` first.
        packages: Packages of Debian's beside those that every machine has.
    """

    def __init__(self, directory: Path, disks: Mapping[str, int], packages: Sequence[str] = ()) -> None:
        self._directory = directory
        self.disks = {name: directory / f"{name}.disk" for name in disks}
        for name, size in disks.items():
            with self.disks[name].open("wb") as file:
                file.truncate(size)
        tree = systemd_tree(packages)
        kernel = own_kernel(tree.with_suffix(""))
        self._kernel = kernel.image
        make_checkout(directory / "checkout.ext4")
        make_initramfs(directory / "initramfs", tree.with_suffix(""), kernel, init=INIT, guest="", drivers=DRIVERS)
        layer = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(tree)]
        run_tool([*layer, str(directory / "system.qcow2")])
        self._starts = 0

    @contextmanager
    def started(self) -> Iterator[LinuxGuest]:
        """Start it, and see that it has ended at the end, as by a power cut if need be.

        Raises:
            GuestError: It didn't start.
        """
        self._starts += 1
        output, console = (self._directory / f"{name}-{self._starts}" for name in ("output", "console"))
        output.touch()
        for name in ("control", "qmp"):
            (self._directory / name).unlink(missing_ok=True)
        server = Server(self._command(output, console), log=self._directory / "qemu.log")
        with talking(server, self._directory / "control", output=output, console=console) as guest:
            yield guest

    def cut_the_link(self) -> None:
        """Pull the network cable, at this instant."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(os.path.relpath(self._directory / "qmp"))
            with monitor.makefile("rw") as stream:
                stream.readline()  # its greeting
                for command in ({"execute": "qmp_capabilities"}, _LINK_DOWN):
                    stream.write(json.dumps(command) + "\n")
                    stream.flush()
                    while "return" not in (answer := json.loads(stream.readline())):
                        assert "error" not in answer, answer

    def _command(self, output: Path, console: Path) -> list[str]:
        at = os.path.relpath(self._directory)
        command = ["qemu-system-x86_64", "-accel", "tcg", "-smp", "1", "-m", str(MEMORY)]
        command += ["-cpu", "qemu64,+rdrand,+ssse3", "-uuid", _UUID, "-nodefaults", "-no-user-config"]
        command += ["-display", "none", "-no-reboot", "-kernel", str(self._kernel), "-append", _KERNEL]
        command += ["-initrd", str(self._directory / "initramfs"), "-serial", f"file:{console}"]
        command += ["-qmp", f"unix:{at}/qmp,server=on,wait=off"]
        command += ["-netdev", "user,id=lan", "-device", "virtio-net-pci,netdev=lan,id=nic"]
        command += ["-device", "virtio-serial-pci,id=ports"]
        command += ["-chardev", f"socket,id=control,path={at}/control,server=on,wait=off"]
        command += ["-device", "virtserialport,chardev=control,name=control"]
        command += ["-chardev", f"file,id=output,path={output}"]
        command += ["-device", "virtserialport,chardev=output,name=output"]
        drives = {"system": (self._directory / "system.qcow2", "qcow2")}
        drives |= {name: (path, "raw") for name, path in self.disks.items()}
        drives["checkout"] = (self._directory / "checkout.ext4", "raw")
        for name, (path, form) in drives.items():
            command += ["-drive", f"file={path},format={form},if=none,id={name},cache=unsafe"]
            command += ["-device", f"virtio-blk-pci,drive={name},serial={name}"]
        # The cached one, which nobody may change.
        command += ["-drive", f"file={packages_disk()},format=raw,if=none,id=packages,cache=unsafe,snapshot=on"]
        return [*command, "-device", "virtio-blk-pci,drive=packages,serial=packages"]


_LINK_DOWN = {"execute": "set_link", "arguments": {"name": "nic", "up": False}}
