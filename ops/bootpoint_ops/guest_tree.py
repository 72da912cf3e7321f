"""The file tree of the demo's guest: a minimal Debian, made once by mmdebstrap and kept in the cache.

Beside Debian's packages it holds the init that the disk's boot loader names (see `guest_disk`).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bootpoint_common.errors import Code, error
from bootpoint_worker.verdict import GREETING

#: The file that holds the marker, on the guest's root file system.
MARKER_FILE = "/etc/bootpoint-marker"

#: The file to which each boot adds a line.
BOOT_LOG = "/var/log/bootpoint-boots"

#: The distribution, fixed so that a cached tree and a new one boot alike.
SUITE = "bookworm"

#: The guest's packages, besides Debian's essential ones.
PACKAGES = ("linux-image-cloud-amd64", "initramfs-tools", "busybox", "e2fsprogs", "mount", "zstd")

#: Drivers in the initramfs: every bus that a source or a standby of the demo may have.
DRIVERS = ("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "ata_piix", "ext4")

#: What a machine without users does not miss: a third of the size.
_EXCLUDED = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/lib/x86_64-linux-gnu/gconv/*",
    "/lib/udev/hwdb.d/*",
)

_INIT = f"""\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec </dev/ttyS0 >/dev/ttyS0 2>&1
mount -o remount,rw /
marker=$(cat {MARKER_FILE})
echo "$marker" >>{BOOT_LOG}
sync
root=$(while read -r device where rest; do [ "$where" != / ] || echo "$device"; done </proc/mounts)
echo
echo "{GREETING} marker=$marker root=$root nic=$(echo $(ls /sys/class/net))"
mount -o remount,ro /
echo o >/proc/sysrq-trigger
while :; do sleep 1; done
"""

def cache_directory(environment: Mapping[str, str] | None = None) -> Path:
    """Return where the tree is kept.

    Args:
        environment: By default the process's own. ``BOOTPOINT_CACHE`` names the directory; without it, it is
            ``.cache`` of the checkout when bootpoint runs from one, else ``bootpoint`` in the user's cache.
    """
    environment = os.environ if environment is None else environment
    if chosen := environment.get("BOOTPOINT_CACHE"):
        return Path(chosen)
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").exists():
        return checkout / ".cache"
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bootpoint"


def base_tree(cache: Path, packages: Sequence[str] = PACKAGES, drivers: Sequence[str] = DRIVERS) -> Path:
    """Return the tree from which disks are made, made now if it isn't in the cache.

    Args:
        cache: The directory that holds trees, one for each recipe.
        packages: Besides Debian's essential ones.
        drivers: Of the initramfs, beside those that packages add.

    Raises:
        BootpointError: ``host_unsupported`` when Debian's packages can't be had.
    """
    recipe = repr((SUITE, tuple(packages), tuple(drivers), _EXCLUDED, _INIT))
    tree = cache / f"guest-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if tree.exists():
        return tree
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "guest.lock"):
        if not tree.exists():
            _make_tree(tree, packages, drivers)
    return tree


def _make_tree(tree: Path, packages: Sequence[str], drivers: Sequence[str]) -> None:
    unfinished = tree.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    modules = "\\n".join(drivers)
    before_kernel = (
        'mkdir -p "$1/etc/initramfs-tools/conf.d"; '
        r'printf "MODULES=list\nCOMPRESS=zstd\n" >"$1/etc/initramfs-tools/conf.d/bootpoint"; '
        f'printf "{modules}\\n" >"$1/etc/initramfs-tools/modules"'
    )
    run_tool(
        [
            "mmdebstrap",
            "--mode=root",
            "--format=directory",
            "--variant=essential",
            "--aptopt=Apt::Install-Recommends false",
            "--aptopt=Acquire::Retries 3",
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED),
            f"--essential-hook={before_kernel}",
            f"--include={','.join(packages)}",
            SUITE,
            str(unfinished),
            mirror(),
        ]
    )
    init = unfinished / "sbin/bootpoint-guest"
    init.write_text(_INIT)
    init.chmod(0o755)
    (unfinished / "boot/grub").mkdir()
    # devtmpfs covers /dev at boot; without its nodes the tree can be copied and removed by anybody.
    shutil.rmtree(unfinished / "dev")
    (unfinished / "dev").mkdir()
    unfinished.rename(tree)


def mirror() -> str:
    """Return the line of sources.list for the suite on the mirror that this machine itself uses."""
    columns = "$(CODENAME) $(COMPONENT) $(REPO_URI)"
    listing = run_tool(["apt-get", "indextargets", "--format", columns, "Created-By: Packages"])
    for line in listing.stdout.splitlines():
        codename, component, uri = line.split()
        if (codename, component) == (SUITE, "main"):
            return f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {uri} {SUITE} main"
    raise error(
        Code.HOST_UNSUPPORTED,
        f"this machine's apt knows no mirror of Debian {SUITE}",
        hint="add one to /etc/apt/sources.list.d and run apt-get update",
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run_tool(command: Sequence[str], *, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program of the system to its end, in the C locale.

    Raises:
        BootpointError: ``host_unsupported`` when it is missing or fails.
    """
    environment = {**os.environ, "LC_ALL": "C", "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, env=environment, check=True)
    except FileNotFoundError:
        raise error(Code.HOST_UNSUPPORTED, f"{command[0]} is missing", hint="run ops/setup") from None
    except subprocess.CalledProcessError as exc:
        message = f"{command[0]} ended with {exc.returncode}: {exc.stderr.strip()[-600:]}"
        raise error(Code.HOST_UNSUPPORTED, message, hint="the message names the cause") from exc
