"""A guest's files as they were collected in the sandbox, and the edits that are planned from them.

The collection is a tar archive that the guest's own tools wrote: whatever it says concerns that guest alone. Only
regular files up to a bounded size are taken from it, by names of a fixed set of patterns.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field

from bootpoint_common.units import KiB, MiB
from bootpoint_worker.targets.guest import GuestSystem

#: Largest collection that is taken.
LARGEST_COLLECTION = 16 * MiB

#: Largest file that is looked at; configuration is smaller, and anything larger isn't that.
LARGEST_FILE = 512 * KiB

#: Most files of a collection.
MOST_FILES = 2000

#: Characters of a guest's own words that a sentence quotes.
LONGEST_WORDS = 80

#: Where the sandbox puts what it found out about the guest, beside the files.
FACTS = "run/bootpoint/facts"

#: Names that are taken: relative, of plain characters, so that nobody has to quote them.
_NAME = re.compile(r"[A-Za-z0-9_@.+:-]+(?:/[A-Za-z0-9_@.+: -]+)*")

#: What a file is renamed to that is put aside.
ASIDE = ".bootpoint-source"


@dataclass(frozen=True, slots=True)
class Kernel:
    """An installed kernel.

    Attributes:
        version: Its directory's name below /lib/modules.
        initramfs: Path of its initramfs; None where there is none.
        has: Drivers that are in its initramfs or built in: ``virtio_blk``, ``ahci``, ….
        modules: Drivers that its modules offer at all.
    """

    version: str
    initramfs: str | None
    has: frozenset[str]
    modules: frozenset[str]


@dataclass(frozen=True, slots=True)
class Guest:
    """A Linux guest.

    Attributes:
        files: Content by path, relative to its root.
        modes: Permissions of these files.
        tools: Programs that it has: ``update-initramfs``, ``dracut``, ``netplan``, ….
        kernels: Its kernels.
        enabled: systemd services that start at boot, without their ending.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    modes: Mapping[str, int] = field(default_factory=dict)
    tools: frozenset[str] = frozenset()
    kernels: tuple[Kernel, ...] = ()
    enabled: frozenset[str] = frozenset()

    def text(self, path: str) -> str:
        """Return a file as text; empty when it isn't there. Odd bytes survive a way through `encoded`."""
        return self.files.get(path, b"").decode("utf-8", "surrogateescape")

    def matching(self, pattern: str) -> dict[str, str]:
        """Return the text of all files whose whole path matches."""
        return {path: self.text(path) for path in sorted(self.files) if re.fullmatch(pattern, path)}

    @property
    def system(self) -> GuestSystem:
        """What os-release says."""
        text = self.text("etc/os-release") or self.text("usr/lib/os-release")
        values = dict(re.findall(r'^([A-Z_]+)="?([^"\n]{0,80})"?$', text, re.MULTILINE))
        return GuestSystem("linux", shown(values.get("NAME", "Linux")), shown(values.get("VERSION_ID", "")))


def shown(text: str) -> str:
    """Return a guest's words as they may stand in a sentence: not long, and no odd bytes, which no database takes."""
    return "".join(char for char in text if char.isprintable())[:LONGEST_WORDS]


def encoded(text: str) -> bytes:
    """Return text as bytes, odd ones as they were."""
    return text.encode("utf-8", "surrogateescape")


@dataclass
class Edits:
    """What is to be changed in a guest.

    Attributes:
        writes: New content, by path.
        modes: Permissions of new files, where they aren't 0644.
        aside: Paths of files that are renamed, so that nobody reads them any more.
        actions: What is done, each a sentence.
        problems: What can't be done, each a sentence.
        initramfs: ``initramfs-tools`` or ``dracut`` where one is to be made anew, for `versions`.
        versions: Kernels whose initramfs lacks something.
    """

    writes: dict[str, bytes] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    aside: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    initramfs: str | None = None
    versions: tuple[str, ...] = ()

    def text(self, guest: Guest, path: str) -> str:
        """Return a file as it will be: as edited so far, else as the guest has it; empty when it is put aside."""
        if path in self.aside:
            return ""
        return self.writes[path].decode("utf-8", "surrogateescape") if path in self.writes else guest.text(path)

    def write(self, guest: Guest, path: str, text: str, mode: int | None = None) -> None:
        """Write a file, unless it says so already."""
        if text == self.text(guest, path):
            return
        self.writes[path] = encoded(text)
        if mode is not None:
            self.modes[path] = mode

    def put_aside(self, path: str) -> None:
        """Rename a file, so that nobody reads it any more."""
        self.writes.pop(path, None)
        self.aside.append(path)


def read_collection(archive: bytes) -> Guest:
    """Read what was collected.

    Raises:
        ValueError: It is no archive, too long, or broken off.
    """
    if len(archive) >= LARGEST_COLLECTION:
        raise ValueError("its configuration is larger than any that is known")
    files: dict[str, bytes] = {}
    modes: dict[str, int] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as opened:
            for count, member in enumerate(opened):
                if count > MOST_FILES:
                    raise ValueError("it has more configuration files than any that is known")
                name = member.name.removeprefix("./")
                # A sparse file is as long as it says, whatever the archive's length.
                if not member.isreg() or member.issparse() or member.size > LARGEST_FILE:
                    continue
                if not _NAME.fullmatch(name) or ".." in name:
                    continue
                content = opened.extractfile(member)
                if content is not None:
                    files[name] = content.read()
                    modes[name] = member.mode & 0o777
    except (tarfile.TarError, EOFError, OverflowError, RecursionError) as exc:
        raise ValueError(f"its files could not be collected: {shown(str(exc))}") from exc
    return _with_facts(files, modes)


def _with_facts(files: dict[str, bytes], modes: dict[str, int]) -> Guest:
    """Read the lines ``WORD REST`` that the collecting script wrote."""
    tools, enabled = set(), set()
    initramfs: dict[str, str] = {}
    has: dict[str, set[str]] = {}
    modules: dict[str, set[str]] = {}
    for line in files.pop(FACTS, b"").decode("utf-8", "replace").splitlines():
        words = line.split(" ")
        if not all(re.fullmatch(r"[A-Za-z0-9_@.+/~:-]+", word) for word in words):
            continue
        match words:
            case ["tool", name]:
                tools.add(name)
            case ["enabled", name]:
                enabled.add(name.removesuffix(".service"))
            case ["kernel", version]:
                has.setdefault(version, set())
            case ["initramfs", version, path]:
                initramfs[version] = path
            case ["has", version, name]:
                has.setdefault(version, set()).add(name.replace("-", "_"))
            case ["module", version, name]:
                modules.setdefault(version, set()).add(name.replace("-", "_"))
            case _:
                pass
    kernels = tuple(
        Kernel(version, initramfs.get(version), frozenset(has[version]), frozenset(modules.get(version, ())))
        for version in sorted(has)
    )
    return Guest(files, modes, frozenset(tools), kernels, frozenset(enabled))


def write_archive(guest: Guest, edits: Edits) -> bytes:
    """Return the edits as a tar archive for the sandbox: new files, owned by root."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as opened:
        made: set[str] = set()
        for path, content in sorted(edits.writes.items()):
            for parent in _parents(path):
                if parent not in made and not any(known.startswith(parent + "/") for known in guest.files):
                    folder = tarfile.TarInfo(parent)
                    folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                    opened.addfile(folder)
                made.add(parent)
            member = tarfile.TarInfo(path)
            member.size = len(content)
            member.mode = edits.modes.get(path, guest.modes.get(path, 0o644))
            opened.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: number + 1]) for number in range(len(parts))]
