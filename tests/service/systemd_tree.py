"""The disk of a Debian guest with systemd as its first program: a machine that shuts down as machines do.

Beside Debian's packages it holds the harness's own: a network by slirp's addresses, the agent's program, which runs the
checkout's code, and a service that runs scripts as in `linux_tree`, through the same virtio ports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bootpoint_common.units import MiB
from bootpoint_ops.guest_tree import SUITE, run_tool
from tests.service.linux_tree import debian, kept, make_disk

#: Packages of the guest: systemd with its network, what the agent runs, and nothing that would start by itself.
_PACKAGES = (
    "linux-image-cloud-amd64", "busybox-static", "systemd", "systemd-sysv", "udev", "kmod", "mount", "procps",
    "iproute2", "e2fsprogs", "fdisk", "python3", "tzdata", "libbpf1",
)  # fmt: skip

#: What a machine without users does not miss.
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/lib/udev/hwdb.d/*")

#: Drivers that the kernel needs before it sees the tree.
DRIVERS = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_net")

#: The first program: loads drivers, and becomes systemd.
INIT = """\
#!/bin/busybox sh
busybox mount -t devtmpfs dev /dev
busybox mount -t proc proc /proc
for module in /modules/*; do busybox insmod $module; done
until [ -b /dev/vda ]; do busybox usleep 20000; done
busybox mount -t ext4 /dev/vda /root || busybox echo "no tree on vda"
busybox umount /proc
exec busybox switch_root /root /lib/systemd/systemd
"""

_AGENT = """\
#!/bin/sh
PYTHONPATH=/checkout/common:/checkout/producer:/packages PYTHONDONTWRITEBYTECODE=1 exec python3 -c \\
  'from bootpoint_producer.command import main; main()' "$@"
"""

#: Reads scripts off one port and writes what they print to the other; see `linux_tree`.
_HARNESS = """\
#!/bin/sh
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
for port in /sys/class/virtio-ports/*; do
  case $(cat $port/name) in
    control) exec 3<>/dev/${port##*/} ;;
    output) exec 4>/dev/${port##*/} ;;
  esac
done
echo ready >&3
while read -r length seconds <&3; do
  head -c "$length" <&3 >/run/script
  (cd /root; exec timeout -k 5 "$seconds" python3 -u /run/script </dev/null >&4 2>&4 3>&- 4>&-)
  echo "exit $?" >&3
done
"""

_HARNESS_UNIT = """\
[Unit]
Description=Scripts of the tests
After=network-online.target checkout.mount packages.mount
[Service]
ExecStart=/usr/local/sbin/harness
KillMode=process
[Install]
WantedBy=multi-user.target
"""

#: What slirp gives its guests.
_NETWORK = """\
[Match]
Driver=virtio_net
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
LinkLocalAddressing=no
"""

_FSTAB = """\
/dev/vda / ext4 defaults 0 0
/dev/disk/by-id/virtio-checkout /checkout ext4 ro 0 0
/dev/disk/by-id/virtio-packages /packages ext4 ro 0 0
"""

#: What units print is seen in the console's log.
_JOURNAL = "[Journal]\nStorage=volatile\nForwardToConsole=yes\nMaxLevelConsole=info\n"

#: Files of the harness by their paths; programs are executable.
_FILES: Mapping[str, str] = {
    "usr/local/bin/bootpoint-agent": _AGENT,
    "usr/local/sbin/harness": _HARNESS,
    "etc/systemd/system/harness.service": _HARNESS_UNIT,
    "etc/systemd/network/lan.network": _NETWORK,
    "etc/fstab": _FSTAB,
    "etc/hostname": "erp-db\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/systemd/journald.conf.d/console.conf": _JOURNAL,
}

#: Units that start with the guest.
_ENABLED = ("harness.service", "systemd-networkd.service", "systemd-networkd-wait-online.service")


def systemd_tree(more: Sequence[str] = ()) -> Path:
    """Return the disk of the tree, made now (minutes) if it isn't in the cache; its tree lies beside it.

    Args:
        more: Packages beside those that every machine has.
    """
    packages = (*_PACKAGES, *more)
    recipe = (SUITE, packages, _EXCLUDED, sorted(_FILES.items()), _ENABLED)
    return kept("guest-systemd", recipe, lambda disk: _make_tree(disk, packages))


def _make_tree(disk: Path, packages: Sequence[str]) -> None:
    unfinished, tree = debian(disk, packages, _EXCLUDED)
    for name, content in _FILES.items():
        file = unfinished / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(0o755 if content.startswith("#!") else 0o644)
    run_tool(["systemctl", "--root", str(unfinished), "enable", *_ENABLED])
    unfinished.rename(tree)
    make_disk(tree, disk, 256 * MiB)
