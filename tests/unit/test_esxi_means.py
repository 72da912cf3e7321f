"""What a worker's machine lacks to reach disks of ESXi, in words; and which VDDK goes with which vSphere."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootpoint_worker.targets.esxi.means import Means, find_means, judged
from bootpoint_worker.targets.host import HostAccess
from tests.service.component import need

ACCESS = HostAccess(name="esx1", kind="esxi", address="10.9.0.5", port=443, user="root")


def test_a_machine_without_nbdkit_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_means(ACCESS, "8.0.3") == Means(None, ("nbdkit is missing on the worker's machine: install nbdkit",))


def test_a_machine_without_the_plugin_is_told_its_packages(tmp_path: Path) -> None:
    need("nbdkit")
    plugin = str(tmp_path / "nbdkit-vddk-plugin.so")
    access = HostAccess(
        name="esx1", kind="esxi", address="10.9.0.5", port=443, user="root", settings={"vddk_plugin": plugin}
    )
    [problem] = find_means(access, "8.0.3").problems
    assert problem.startswith(f"nbdkit has no plugin {plugin} (")
    assert "nbdkit-plugin-vddk (Debian 13 and later, contrib; Ubuntu)" in problem
    assert "`bootpoint host set esx1 --vddk-plugin FILE`" in problem


def said(version: str) -> dict[str, str]:
    """Return what nbdkit says of a library, whose file's name has the whole version."""
    major = version.partition(".")[0]
    return {"version": "1.42.3", "vddk_library_version": major, "vddk_dll": f"/opt/lib64/libvixDiskLib.so.{version}"}


@pytest.mark.parametrize(
    ("library", "vsphere"),
    [("8.0.3", "8.0.2"), ("8.0.0", "6.7.0"), ("8.0.0", "9.0.1"), ("6.7.3", "7.0.3"), ("8", "8.0.3")],
)
def test_neighbouring_releases_go_together(library: str, vsphere: str) -> None:
    assert judged(said(library), vsphere) == Means(f"nbdkit-vddk-plugin 1.42.3, VDDK {library}")


@pytest.mark.parametrize(("library", "vsphere"), [("8.0.3", "6.5.0"), ("6.5.0", "7.0.0"), ("7.0.3", "9.0.0")])
def test_distant_releases_are_hinted_at(library: str, vsphere: str) -> None:
    found = judged(said(library), vsphere)
    assert found.problems == ()
    [hint] = found.hints
    assert f"VDDK {library} with vSphere {vsphere}" in hint


def test_a_library_that_cannot_flush_is_refused() -> None:
    [problem] = judged(said("5.5.4"), "6.0.0").problems
    assert "install VDDK 6.0 or later" in problem
