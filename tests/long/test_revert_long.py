"""Reverted and forward again, with real boots: the marker that a guest prints tells the boot point that it runs from.

Nothing but the host is there, as in tests/system/test_runbook.py.
"""

from __future__ import annotations

import pytest

from tests.service.demo import PATIENCE, DemoRun
from tests.service.libvirt import LibvirtHost
from tests.service.process import wait_for
from tests.system.test_runbook import BOOT, direct, host

__all__ = ["host"]


@pytest.mark.long
@pytest.mark.timeout(PATIENCE * 2)
def test_a_standby_boots_from_where_it_was_reverted_to_and_from_the_newest_again(
    host: LibvirtHost, demo_run: DemoRun
) -> None:
    vm, (older, newest) = demo_run.report["vm"], demo_run.report["points"]

    def boot(number: int, *words: str) -> str:
        """Start the standby, wait until it has powered itself off, and return what it printed."""
        log = demo_run.directory / f"serial/revert-{number}.log"
        direct(host, "start", vm, *words, "--serial-log", str(log), "--yes")
        wait_for(lambda: "BOOTPOINT-GUEST marker=" in log.read_text(errors="replace"), "a marker", BOOT)
        host.wait_until_off(vm)
        return log.read_text(errors="replace")

    def stands_on() -> tuple[str, bool]:
        (item,) = [item for item in direct(host, "list")["items"] if item["standby"]]
        return item["stands_on"], item["held"]

    direct(host, "revert", vm, older["name"])
    assert f"marker={older['marker']} " in boot(1)
    assert stands_on() == (older["name"], True)
    # It has written into its scratch layers; where it goes from there, they are kept.
    direct(host, "revert", vm, newest["name"])
    assert f"marker={newest['marker']} " in boot(2)
    direct(host, "revert", vm, older["name"])
    assert f"marker={older['marker']} " in boot(3)
    direct(host, "revert", vm, "latest")
    assert stands_on() == (newest["name"], False)
    assert f"marker={newest['marker']} " in boot(4)
    assert f"marker={older['marker']} " in boot(5, older["name"])
    assert f"marker={newest['marker']} " in boot(6)
