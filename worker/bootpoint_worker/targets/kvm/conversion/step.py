"""Steps of a conversion on the host: each runs in namespaces of its own, guest programs in a sandbox within them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from bootpoint_common.errors import Code, error
from bootpoint_worker.conversion.disk import Partition
from bootpoint_worker.conversion.guest import LARGEST_COLLECTION, Edits
from bootpoint_worker.conversion.loader import Copy
from bootpoint_worker.conversion.seccomp import filter_program
from bootpoint_worker.targets.kvm import script
from bootpoint_worker.targets.kvm.conversion.layer import Work, taken_over
from bootpoint_worker.targets.kvm.host import Host
from bootpoint_worker.targets.kvm.session import Result

#: Seconds that looking into a guest may take.
LOOK_SECONDS = 120

#: Seconds that a guest's own tools may take: some make several initramfs, each of a minute on a slow disk.
WRITE_SECONDS = 900

#: Exit codes of timeout(1), and of a step that was killed; a session may say that with a negative one too.
_TIMED_OUT, _KILLED = 124, 137


@dataclass(frozen=True, slots=True)
class Mount:
    """A partition that the guest mounts: slot of its disk, the partition, and where (empty: the root)."""

    slot: str
    part: Partition
    at: str = ""


#: What stands for the archive of a file system in which there is no system.
DATA = b"data\n"


def collect(host: Host, work: Work, mounts: Sequence[Mount]) -> bytes:
    """Return the archive of a guest's configuration; `DATA` when its root holds data only, empty when its own tools
    can't be run.

    Raises:
        FatalError: ``conversion_failed``: its file systems can't be mounted.
    """
    result = _run(
        host, work, "step_collect", LOOK_SECONDS, *_disks(work), _filter(), str(LARGEST_COLLECTION),
        _inside("inside_collect"), *_mounts(work, mounts),
    )  # fmt: skip
    return _succeeded(host, work, result, "look into the guest").stdout


def write(host: Host, work: Work, mounts: Sequence[Mount], edits: Edits, archive: bytes) -> None:
    """Carry edits out in a guest.

    Raises:
        FatalError: ``conversion_failed``.
    """
    words = [edits.initramfs or "none", str(len(edits.versions)), *edits.versions, *edits.aside]
    result = _run(
        host, work, "step_write", WRITE_SECONDS, *_disks(work), _filter(), _inside("inside_write"), "\n".join(words),
        *_mounts(work, mounts), stdin=archive,
    )  # fmt: skip
    _succeeded(host, work, result, "write into the guest")


def loaders(host: Host, work: Work, slot: str, esp: Partition) -> tuple[str, ...]:
    """Return the files of an EFI partition."""
    said = _loaders(host, work, slot, esp)
    return tuple(line for line in said.decode("utf-8", "replace").splitlines() if line)


def copy_loaders(host: Host, work: Work, slot: str, esp: Partition, copies: Sequence[Copy]) -> None:
    """Copy files within an EFI partition.

    Raises:
        FatalError: ``conversion_failed``.
    """
    _loaders(host, work, slot, esp, *(word for copy in copies for word in (copy.source, copy.target)))


def _loaders(host: Host, work: Work, slot: str, esp: Partition, *words: str) -> bytes:
    result = _run(
        host, work, "step_loaders", LOOK_SECONDS, "1", work.files[slot], _filter(), _inside("inside_loaders"),
        str(esp.offset), *words,
    )  # fmt: skip
    return _succeeded(host, work, result, "reach the EFI partition").stdout


def _run(host: Host, work: Work, name: str, seconds: int, *arguments: str, stdin: bytes = b"") -> Result:
    text = _inside("step_prelude") + _inside(name)
    return host.session.run(
        script.script("convert"), work.place.directory, work.key, work.token, str(seconds), text, *arguments,
        stdin=stdin, timeout=seconds + 30.0,
    )  # fmt: skip


def _succeeded(host: Host, work: Work, result: Result, what: str) -> Result:
    if result.exit_code == 0:
        return result
    if result.exit_code == _KILLED or result.exit_code < 0:
        raise taken_over(work)
    if "No space left on device" in result.stderr:
        raise error(Code.HOST_FULL, f"host {host.name} has no room left to {what}", host=host.name)
    said = "it took too long" if result.exit_code == _TIMED_OUT else result.stderr.strip()[-1000:]
    raise failed(host, f"could not {what}: {said or f'exit code {result.exit_code}'}")


def failed(host: Host, why: str) -> Exception:
    """Return the error of a conversion that can't be done."""
    return error(Code.CONVERSION_FAILED, f"host {host.name}: {why}", host=host.name)


def _disks(work: Work) -> list[str]:
    return [str(len(work.files)), *work.files.values()]


def _mounts(work: Work, mounts: Sequence[Mount]) -> list[str]:
    slots = list(work.files)
    words: list[str] = []
    for mount in mounts:
        part = mount.part
        words += [str(slots.index(mount.slot)), str(part.offset), str(part.size), part.kind]
        words += [mount.at] if mount.at else []
    return words


@cache
def _filter() -> str:
    return base64.b64encode(filter_program()).decode()


def _inside(name: str) -> str:
    return script.bare(name)
