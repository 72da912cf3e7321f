"""docs/esxi.md names the rights that are asked for, all of them and no others."""

from __future__ import annotations

import re
from pathlib import Path

from bootpoint_worker.targets.esxi.permit import RIGHTS

PAGE = Path(__file__).parents[2] / "docs" / "esxi.md"

PLACES = {
    "Folder": "folders of VMs",
    "Datastore": "datastores",
    "Network": "networks",
    "ResourcePool": "resource pools",
}


def test_the_page_lists_every_right_with_its_place_and_its_purpose() -> None:
    written = re.findall(r"^\| `([A-Z]\w+(?:\.\w+)+)` \| ([^|]+) \| ([^|]+) \|$", PAGE.read_text(), re.MULTILINE)
    assert written == [(right.privilege, PLACES[right.kind], right.purpose) for right in RIGHTS]
