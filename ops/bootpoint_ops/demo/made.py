"""A boot point that the demo has made, with the evidence for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bootpoint_ops.demo.guest import Seen
from bootpoint_ops.demo.place import Place
from bootpoint_ops.demo.report import PointReport


@dataclass(frozen=True, slots=True)
class Made:
    """A run that succeeded.

    Attributes:
        place: Where the demo lies.
        marker: What the disk held; None for one that isn't the demo's own.
        shown: The run as ``run show`` has it.
    """

    place: Place
    marker: str | None
    shown: dict[str, Any]

    @property
    def point(self) -> str:
        """Name of the boot point."""
        return str(self.shown["targets"][0]["point"])

    @property
    def serial_log(self) -> Path:
        """What the VM that is started from it writes to its serial port."""
        return self.place.serial / f"{self.point}.log"

    def report(self, verified: tuple[str, float], boot: Seen, stored: dict[str, Any]) -> PointReport:
        """Return what is reported of it.

        Args:
            verified: Digest, and the seconds it took.
            boot: What its VM showed.
            stored: The point as its host knows it.
        """
        disk = self.shown["targets"][0]["disks"][0]
        took = datetime.fromisoformat(self.shown["ended_at"]) - datetime.fromisoformat(self.shown["started_at"])
        return PointReport(
            name=self.point,
            kind=str(stored["kind"]),
            run=self.shown["id"],
            marker=self.marker,
            run_seconds=took.total_seconds(),
            scanned_bytes=disk["scanned_bytes"],
            changed_bytes=disk["changed_bytes"],
            wire_bytes=disk["wire_bytes"],
            stored_bytes=stored["stored_bytes"],
            verify_seconds=verified[1],
            digest=verified[0],
            files={item["slot"]: str(self.place.replica / item["identity"]) for item in stored["disks"]},
            serial_log=self.serial_log,
            boot=boot,
        )
