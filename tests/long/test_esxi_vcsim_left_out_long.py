"""What is left out on VMware's simulator is there, and fails there."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.contract.driver_vcsim import Vcsim
from tests.contract.vcsim_limit import LEFT_OUT, MARK, entry_of
from tests.service.component import need

HERE = Path(__file__).parent

#: The modules with the contract's tests on vcsim.
MODULES = ("test_esxi_vcsim_long.py", "test_esxi_vcsim_trash_long.py")


#: How it fails: other bytes than were expected, or none, for with a snapshot vcsim may delete the file of a disk.
BYTES = ("AssertionError", "assert ", "bootpoint_common.errors.RetryableError: layer_lost")


@pytest.mark.timeout(900)
def test_what_is_left_out_is_there_and_fails_for_its_bytes(tmp_path: Path) -> None:
    need("vcsim", "vddk", "libnbd", "nbdkit", "qemu-nbd")
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", MARK, "--tb=no", "-p", "no:cacheprovider"]
    # Paths of sockets are short.
    with tempfile.TemporaryDirectory(prefix="bp-") as short:
        places = [f"--basetemp={short}/t", f"--junitxml={report}", *(str(HERE / name) for name in MODULES)]
        done = subprocess.run([*command, *places], capture_output=True, text=True, check=False)
    cases = ET.parse(report).getroot().findall(".//testcase")
    failures = {str(case.get("name")): case.find("failure") for case in cases}
    said = {name: "" if found is None else str(found.get("message")) for name, found in failures.items()}
    assert [name for name, text in said.items() if not text.startswith(BYTES)] == [], done.stdout
    for kind in Vcsim:
        assert {entry_of(name, kind) for name in failures if f"[{kind.value}" in name} == set(LEFT_OUT)
