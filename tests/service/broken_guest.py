"""Guests that don't boot, each in its own way, and one that takes its time: changes to a disk of `guest_disk`."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from bootpoint_ops.guest_disk import PARTITION_OFFSET, read_file

#: Seconds that the slow guest sleeps before it asks for a login.
SLOW_SECONDS = 60

#: A UUID that no file system has.
NO_ROOT = "11111111-1111-1111-1111-111111111111"

_CONFIG = "/boot/grub/grub.cfg"


def zeroed_mbr(disk: Path) -> None:
    """Overwrite the first sector."""
    with disk.open("r+b") as file:
        file.write(bytes(512))


def zeroed_boot_code(disk: Path) -> None:
    """Overwrite the boot code; the mark of a boot sector stays, so the firmware runs what is there."""
    with disk.open("r+b") as file:
        file.write(bytes(440))


def removed_initrd(disk: Path) -> None:
    """Delete the initramfs: the kernel finds nothing to mount."""
    listed = _debugfs(disk, ["ls -p /boot"])
    names = re.findall(r"/(initrd\.img[^/]*)/", listed)
    assert names, listed
    _debugfs(disk, [f"rm /boot/{name}" for name in names], write=True)


def wrong_root(disk: Path) -> None:
    """Name a root file system that isn't there; without ``panic=`` the initramfs ends in its shell."""
    _change_command_line(disk, lambda line: re.sub(r"root=UUID=\S+", f"root=UUID={NO_ROOT}", line), "")


def panic(disk: Path, *, again: int) -> None:
    """Let init end, so that the kernel panics; after ``again`` seconds it resets the machine, 0: never."""
    _init(disk, "exit 1\n", f"panic={again}")


def endless_reboot(disk: Path) -> None:
    """Reset the machine as soon as its root is mounted, without a word."""
    _init(disk, "mount -t proc proc /proc 2>/dev/null\necho b >/proc/sysrq-trigger\nwhile :; do sleep 1; done\n", "")


def slow(disk: Path) -> None:
    """Sleep, then ask for a login."""
    lines = f"exec >/dev/ttyS0\nsleep {SLOW_SECONDS}\nprintf '\\n\\nslow-guest login: '\nwhile :; do sleep 1; done\n"
    _init(disk, lines, "")


def _init(disk: Path, lines: str, options: str) -> None:
    head = "#!/bin/sh\nexport PATH=/usr/sbin:/usr/bin:/sbin:/bin\n"
    _write(disk, "/usr/sbin/broken-guest", head + lines)
    _change_command_line(disk, lambda line: re.sub(r"init=\S+", "init=/usr/sbin/broken-guest", line), options)


def _change_command_line(disk: Path, change: Callable[[str], str], options: str) -> None:
    lines = read_file(disk, _CONFIG).splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.startswith("linux "):
            lines[number] = f"{change(re.sub(r' panic=[0-9]+', '', line)).rstrip()} {options}".rstrip() + "\n"
    _write(disk, _CONFIG, "".join(lines))


def _write(disk: Path, name: str, content: str) -> None:
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(content)
        file.flush()
        commands = [f"rm {name}", f"write {file.name} {name}", f"sif {name} mode 0100755"]
        _debugfs(disk, commands, write=True)
    assert read_file(disk, name) == content


def _debugfs(disk: Path, commands: list[str], *, write: bool = False) -> str:
    words = ["debugfs", *(["-w"] if write else []), "-f", "-", f"{disk}?offset={PARTITION_OFFSET}"]
    done = subprocess.run(words, input="\n".join(commands) + "\n", capture_output=True, text=True, check=True)
    return done.stdout


def login_on_the_screen(disk: Path) -> None:
    """Ask for a login on the screen alone; the serial port stays silent."""
    lines = "exec >/dev/tty1\nprintf '\\n\\nscreen-guest login: '\nwhile :; do sleep 1; done\n"
    _init(disk, lines, "")
    _change_command_line(disk, lambda line: line.replace(" console=ttyS0,115200", ""), "")


def guest_agent(disk: Path) -> None:
    """Say nothing, and answer on the port of the QEMU guest agent as that does."""
    _init(disk, _AGENT, "")
    _change_command_line(disk, lambda line: line.replace(" console=ttyS0,115200", ""), "")


#: An agent in sh: it answers libvirt's synchronisation and its ping. The port ends as long as nobody has opened it on
#: the host, which libvirt does only once it has heard that the guest has.
_AGENT = r"""
modprobe virtio_console
while :; do
  for port in /sys/class/virtio-ports/*; do
    [ "$(cat "$port/name" 2>/dev/null)" = org.qemu.guest_agent.0 ] && break 2
  done
  sleep 1
done
exec 3<>"/dev/${port##*/}"
while sleep 0.2; do
  while read -r asked <&3; do
    case $asked in
      *guest-sync*) id=${asked##*\"id\":} && echo "{\"return\": ${id%%\}*}}" >&3 ;;
      *guest-ping*) echo '{"return": {}}' >&3 ;;
    esac
  done
done
"""
