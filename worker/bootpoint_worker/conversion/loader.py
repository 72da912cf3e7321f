r"""The boot loader that firmware without memory starts: ``\EFI\BOOT\BOOTX64.EFI``.

A machine's firmware remembers in variables of its own which loader it starts; these don't travel with the disk. What is
left is the fixed path of the UEFI specification (section 3.5.1.1), and distributions don't all install there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

#: The loader's path, as mtools writes it.
FALLBACK = "EFI/BOOT/BOOTX64.EFI"

#: Loaders of a distribution, the best first: shim starts GRUB, and needs it beside itself under this name.
_LOADERS = ("shimx64.efi", "grubx64.efi", "systemd-bootx64.efi", "bootmgfw.efi", "elilo.efi")

#: What a loader needs beside itself.
_COMPANIONS = {"shimx64.efi": ("grubx64.efi", "mmx64.efi", "grub.cfg"), "grubx64.efi": ("grub.cfg",)}

#: Names that are handed to mtools: no pattern, nothing to be quoted.
_NAME = re.compile(r"EFI(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*){2,}")


@dataclass(frozen=True, slots=True)
class Copy:
    """A file that is copied within the EFI partition."""

    source: str
    target: str


def has_fallback(listing: Sequence[str]) -> bool:
    """Tell whether the loader is there."""
    return any(name.upper() == FALLBACK for name in listing)


def plan_fallback(listing: Sequence[str]) -> tuple[Copy, ...]:
    """Return what has to be copied; nothing when the loader is there, or none can be found.

    Args:
        listing: Paths of all files of the EFI partition, from its root, without a leading slash.
    """
    if has_fallback(listing):
        return ()
    known = {name.lower(): name for name in listing if _NAME.fullmatch(name)}
    for wanted in _LOADERS:
        found = sorted(low for low in known if low.rsplit("/", 1)[1] == wanted and not low.startswith("efi/boot/"))
        for low in found:
            folder = low.rsplit("/", 1)[0]
            beside = [name for name in _COMPANIONS.get(wanted, ()) if f"{folder}/{name}" in known]
            if wanted == "shimx64.efi" and "grubx64.efi" not in beside:
                continue
            copies = [Copy(known[low], FALLBACK)]
            return (*copies, *(Copy(known[f"{folder}/{name}"], f"EFI/BOOT/{name}") for name in beside))
    return ()
