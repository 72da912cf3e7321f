"""Where the demo lies on this machine, and how a new one starts from nothing::

<directory>/            0711, so that guests, which run as another user, reach their disks
.bootpoint-demo     says that all of this is a demo's and may be deleted; locked while one runs
disk.raw            the source: a disk made for the demo, or a copy of the one given
demo.toml           the job file
replica/            the storage: the standby's directory with its boot points and RUNBOOK.txt
serial/             what the guests wrote to their serial ports
state/              the state directory of `bootpoint up`
bootpoint.log       its log
report.json         what happened, for programs
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bootpoint_common.errors import Code, error
from bootpoint_ops.embedded import running_url
from bootpoint_worker.targets.kvm import KvmTarget
from bootpoint_worker.targets.kvm.standby import remove_machine

#: Where a demo lies unless told otherwise; a checkout in /root would be out of the guests' reach.
DEFAULT_DIRECTORY = Path("/var/lib/bootpoint-demo")

#: Name of the standby VM.
VM = "bootpoint-demo"

_MARK = ".bootpoint-demo"


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of a demo, by its parts."""

    directory: Path

    @property
    def disk(self) -> Path:
        """The disk that is protected."""
        return self.directory / "disk.raw"

    @property
    def job_file(self) -> Path:
        """The job."""
        return self.directory / "demo.toml"

    @property
    def storage(self) -> Path:
        """Where the replica is kept."""
        return self.directory / "replica"

    @property
    def replica(self) -> Path:
        """The standby's directory there."""
        return self.storage / VM

    @property
    def serial(self) -> Path:
        """Where the serial logs go."""
        return self.directory / "serial"

    @property
    def state(self) -> Path:
        """State directory of `bootpoint up`."""
        return self.directory / "state"

    @property
    def log(self) -> Path:
        """What bootpoint wrote."""
        return self.directory / "bootpoint.log"

    @property
    def no_kvm(self) -> Path:
        """A closed device; used by libvirt already when the rest is cleared."""
        return self.directory / ".no-kvm"

    @property
    def libvirt_log(self) -> Path:
        """What libvirt's daemons wrote; of this demo already when the rest is cleared."""
        return self.directory / "libvirt.log"

    @property
    def report(self) -> Path:
        """What happened, as JSON."""
        return self.directory / "report.json"


@contextmanager
def claimed(directory: Path) -> Iterator[Place]:
    """Make a directory the demo's own, while no other demo has it.

    Raises:
        UsageError: ``spec_invalid``: there is something in it that no demo made.
        RetryableError: ``busy``: a demo, or a `bootpoint up` over one's state, runs there.
        FatalError: ``host_unsupported``: guests can't reach it.
    """
    mark = directory / _MARK
    if directory.exists() and not mark.exists() and any(directory.iterdir()):
        raise error(
            Code.SPEC_INVALID, f"{directory} holds something that is not a demo's", key="--directory",
            value=str(directory), hint="name a directory that is empty or doesn't exist",
        )  # fmt: skip
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    _require_way(directory)
    place = Place(directory)
    with mark.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise error(Code.BUSY, f"another demo runs in {directory}", hint="wait until it has ended") from None
        if running_url(place.state) is not None:
            raise error(
                Code.BUSY, f"`bootpoint up` runs over {place.state}, of an earlier demo", key="BOOTPOINT_STATE",
                value=str(place.state), hint="end it: Ctrl-C where it runs",
            )  # fmt: skip
        yield place


def _require_way(directory: Path) -> None:
    """Refuse a place that the user of the guests can't walk to; libvirt's own message would name only the file."""
    closed = [str(folder) for folder in (directory, *directory.parents) if not folder.stat().st_mode & 0o001]
    if closed:
        raise error(
            Code.HOST_UNSUPPORTED, f"guests run as a user who can't enter {closed[-1]}", key="--directory",
            value=str(directory), hint="name a directory elsewhere, such as below /var/lib or /var/tmp",
        )  # fmt: skip


def clear(place: Place, target: KvmTarget) -> bool:
    """Remove what an earlier demo left: VMs first, then files. Return whether there was any.

    Args:
        place: The directory, claimed.
        target: The driver of this machine; libvirt runs.

    Raises:
        RefusedError: ``standby_running``: somebody has started the earlier demo's standby.
    """
    for found in target.find_replicas():
        if Path(found.directory).is_relative_to(place.storage):
            target.remove(found.replica)
    # Somebody may have deleted the files alone: their VM would keep the name for ever.
    for machine, mark in target.host.hypervisor.machines():
        if mark is not None and Path(mark.directory).is_relative_to(place.storage):
            remove_machine(target.host, machine.name, mark.replica_id)
    kept = (_MARK, place.libvirt_log.name, place.no_kvm.name)
    left = [entry for entry in place.directory.iterdir() if entry.name not in kept]
    for entry in left:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    for folder, mode in ((place.storage, 0o711), (place.serial, 0o755), (place.state, 0o711)):
        folder.mkdir()
        folder.chmod(mode)
    return bool(left)
