"""A disk of a machine that means harm to the host on which it is converted.

Its ``update-initramfs`` tries what a guest program in the sandbox must not be able to do, notes what it could, and then
does its work, so that the conversion succeeds. Its file tree is full of links and special files.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from bootpoint_common.units import GiB
from tests.service import guest

#: Where the guest notes what it could do, on its root file system.
REPORT = "/var/log/hostile"

#: Each line: what it is called, and what must fail.
_ATTACKS = """\
try core-pattern sh -c 'echo "|{canary}" >/proc/sys/kernel/core_pattern'
try sysrq sh -c 'echo h >/proc/sysrq-trigger'
try remount mount -o remount,rw /proc
try mount mount -t tmpfs none /mnt
try umount umount /proc
try device mknod /mnt/sda b 8 0
try loop test -e /dev/loop0
try fuse test -e /dev/fuse
try namespace unshare --user true
try chroot chroot /mnt true
try sys test -e /sys/kernel
try canary-read cat {canary}
try canary-write sh -c 'echo harm >{canary}'
try host-root ls /oldroot
try kill kill -9 {pid}
try interfaces sh -c 'tail -n +3 /proc/net/dev | grep -v "^ *lo:"'
try hostname sh -c '[ "$(cat /proc/sys/kernel/hostname)" != localhost ]'
try processes sh -c '[ "$(ls -d /proc/[0-9]* | wc -l)" -gt 20 ]'
try setuid sh -c 'cp /bin/true /tmp/suid && chmod 4755 /tmp/suid && chown 1:1 /tmp/suid'
"""

_PROGRAM = """\
#!/bin/sh
try() {{
  name=$1
  shift
  "$@" >/dev/null 2>&1 && echo "$name" >>{report}
}}
: >{report}
{attacks}
# It changes what would be the host's, were the nodes the host's own.
chmod 000 /dev/null; chown 1 /dev/zero
(setsid sh -c 'while :; do sleep 1; done' {token} &) >/dev/null 2>&1
echo tried >>{report}
exec /usr/sbin/update-initramfs.real "$@"
"""


def hostile_disk(path: Path, canary: Path, token: str) -> None:
    """Make it.

    Args:
        path: Where.
        canary: A file of the host that is to stay as it is.
        token: A word in the command line of a process that it leaves running.
    """
    guest.ide_disk(path, "hostile")
    attacks = _ATTACKS.format(canary=shlex.quote(str(canary)), pid=os.getpid())
    with guest.mounted(path) as root:
        program = root / "usr/sbin/update-initramfs"
        program.rename(root / "usr/sbin/update-initramfs.real")
        program.write_text(_PROGRAM.format(report=REPORT, attacks=attacks, token=token))
        program.chmod(0o755)
        # Where files are written: a link out of the guest, which leads nowhere from inside.
        networks = root / "etc/systemd/network"
        networks.rmdir() if networks.is_dir() else None
        networks.symlink_to(canary.parent)
        (root / "etc/initramfs-tools/modules").unlink()
        (root / "etc/initramfs-tools/modules").symlink_to(f"../../../../../../../..{canary}")
        # Where files are read: secrets of the host, devices, files without an end, odd names.
        (root / "etc/crypttab").unlink(missing_ok=True)
        (root / "etc/crypttab").symlink_to(canary)
        (root / "etc/netplan").mkdir(exist_ok=True)
        os.mkfifo(root / "etc/netplan/pipe.yaml")
        os.mknod(root / "etc/netplan/disk.yaml", 0o60666, os.makedev(7, 0))
        os.mknod(root / "etc/netplan/zero.yaml", 0o20666, os.makedev(1, 5))
        (root / "etc/netplan/huge.yaml").touch()
        os.truncate(root / "etc/netplan/huge.yaml", 100 * GiB)
        odd = root / "etc/network/interfaces.d"
        odd.mkdir(parents=True, exist_ok=True)
        (odd / "a\n$(touch harm); rm -rf x").write_text("auto eno1\n")
        (odd / "--checkpoint-action=exec=sh").write_text("auto eno1\n")
        (root / "boot/grub/device.map").symlink_to("device.map")
        suid = root / "usr/bin/suid"
        suid.write_bytes((root / "usr/bin/id").read_bytes())
        suid.chmod(0o4755)
