"""What is left out on VMware's simulator is there, and fails there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.contract.driver_vcsim import Vcsim
from tests.contract.vcsim_limit import LEFT_OUT, MARK, entry_of
from tests.service.component import need

HERE = Path(__file__).parent

#: The modules with the contract's tests on vcsim.
MODULES = ("test_esxi_vcsim_long.py", "test_esxi_vcsim_trash_long.py")


@pytest.mark.timeout(1200)
def test_what_is_left_out_is_there_and_fails(tmp_path: Path) -> None:
    need("vcsim", "vddk", "libnbd", "nbdkit", "qemu-nbd")
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", MARK, "--tb=no", "-p", "no:cacheprovider"]
    places = [f"--basetemp={tmp_path / 'tests'}", f"--junitxml={report}", *(str(HERE / name) for name in MODULES)]
    done = subprocess.run([*command, *places], capture_output=True, text=True, check=False)
    cases = ET.parse(report).getroot().findall(".//testcase")
    assert [case.get("name") for case in cases if case.find("failure") is None] == [], done.stdout
    for kind in Vcsim:
        names = (str(case.get("name")) for case in cases)
        assert {entry_of(name, kind) for name in names if f"[{kind.value}" in name} == set(LEFT_OUT)
