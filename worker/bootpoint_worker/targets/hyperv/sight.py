"""What a test VM shows from outside."""

from __future__ import annotations

import base64
import binascii

from bootpoint_worker.targets.hyperv.host import Host
from bootpoint_worker.targets.kvm.picture import png_of
from bootpoint_worker.targets.sight import Sight
from bootpoint_worker.targets.snapshots.vm import Vm

#: Size in pixels of the picture that the host is asked for: text of 80 columns can be read in it.
WIDTH, HEIGHT = 640, 480

#: State of a VM -> as `Sight` has it; ``Paused`` is what the host does when a volume is full.
STATES = {"Off": "off", "Running": "running", "Starting": "running", "Paused": "paused", "Saved": "off"}


def look(host: Host, vm: Vm, serial: str) -> Sight:
    """Look at a VM; see `Host.sight`."""
    said = host.ask("sight", vm, width=WIDTH, height=HEIGHT)
    return Sight(
        state=STATES.get(said["state"], "paused"),
        why=said["state"] if said["state"] not in STATES else None,
        serial=serial,
        picture=_picture(said["picture"]),
        agent=said["heartbeat"].startswith("Ok"),
    )


def _picture(said: str | None) -> bytes | None:
    """Return a picture as PNG; the host gives RGB565, two bytes a pixel, the low one first (Msvm_…ThumbnailImage)."""
    try:
        raw = base64.b64decode(said or "", validate=True)
    except binascii.Error:
        return None
    if len(raw) != WIDTH * HEIGHT * 2:
        return None
    pixels = bytearray()
    for low, high in zip(raw[::2], raw[1::2], strict=True):
        value = low | high << 8
        red, green, blue = value >> 11, value >> 5 & 0x3F, value & 0x1F
        # The upper bits fill the lower ones, so that white is white.
        pixels += bytes((red << 3 | red >> 2, green << 2 | green >> 4, blue << 3 | blue >> 2))
    return png_of(b"P6\n%d %d\n255\n" % (WIDTH, HEIGHT) + bytes(pixels))
