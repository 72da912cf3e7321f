"""`bootpoint demo`, and a checker that takes nobody's word for it: QEMU's and ext4's own tools."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.service.demo import PATIENCE, DemoRun, processes_of, run_demo

#: The offset of the only partition, and the file that the guest prints.
EXT4_AT, MARKER_FILE = 1 << 20, "/etc/bootpoint-marker"


def marker_in(point_file: str, scratch: Path) -> str:
    """Return the marker in a boot point: flattened by qemu-img, read by debugfs."""
    raw = scratch / "flat.raw"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", point_file, str(raw)], check=True)
    done = subprocess.run(
        ["/usr/sbin/debugfs", "-R", f"cat {MARKER_FILE}", f"{raw}?offset={EXT4_AT}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    raw.unlink()
    return done.stdout.strip()


@pytest.mark.timeout(PATIENCE)
def test_points_hold_what_the_disk_held_at_their_instant(demo_run: DemoRun, tmp_path: Path) -> None:
    points = demo_run.report["points"]
    markers = [point["marker"] for point in points]
    assert len(set(markers)) == 2
    assert [marker_in(point["files"]["system"], tmp_path) for point in points] == markers
    assert [point["kind"] for point in points] == ["full", "increment"]
    newest, disk = points[-1]["files"]["system"], demo_run.report["disk"]
    subprocess.run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", newest, disk], check=True)


@pytest.mark.timeout(PATIENCE)
def test_guests_printed_the_markers(demo_run: DemoRun) -> None:
    for point in demo_run.report["points"]:
        said = Path(point["serial_log"]).read_text(errors="replace")
        assert f"BOOTPOINT-GUEST marker={point['marker']} " in said
        others = [other["marker"] for other in demo_run.report["points"] if other is not point]
        assert not any(other in said for other in others)


@pytest.mark.timeout(PATIENCE)
def test_says_what_happened_what_it_cost_and_what_comes_next(demo_run: DemoRun) -> None:
    full, increment = demo_run.report["points"]
    assert increment["changed_bytes"] < 2 << 20 < 100 << 20 < full["changed_bytes"]
    assert 0 < full["wire_bytes"] < full["changed_bytes"]
    for text in (full["name"], increment["name"], demo_run.report["runbook"], full["serial_log"], "What to do next"):
        assert text in demo_run.output
    assert "$ bootpoint job run demo --wait" in demo_run.output
    assert Path(demo_run.report["runbook"]).is_file()


@pytest.mark.timeout(PATIENCE)
def test_leaves_nothing_running(demo_run: DemoRun) -> None:
    assert demo_run.report["started"] == ["virtlogd", "libvirtd"]
    assert processes_of(demo_run.directory) == []


@pytest.mark.timeout(PATIENCE)
def test_refuses_a_directory_that_is_somebody_elses(tmp_path: Path, demo_run: DemoRun) -> None:
    tmp_path.joinpath("letter").write_text("dear")
    done = run_demo(tmp_path, demo_run.libvirt, "--report", str(tmp_path / "report.json"))
    assert done.returncode == 2
    assert "not a demo's" in done.stderr
    assert tmp_path.joinpath("letter").read_text() == "dear"


@pytest.mark.timeout(PATIENCE)
def test_given_disk_is_only_read(demo_place: tuple[Path, Path], tmp_path: Path) -> None:
    """A disk of unknown make, which here boots nothing: both points are made, and what its VM showed is said."""
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
        file.write(b"\xb8\x00\x00\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa")  # loops
    before, stamp = disk.read_bytes(), disk.stat().st_mtime_ns
    report = tmp_path / "report.json"
    done = run_demo(*demo_place, "--disk", str(disk), "--boot-timeout", "4", "--report", str(report))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (disk.read_bytes(), disk.stat().st_mtime_ns) == (before, stamp)
    assert "which itself is only read" in done.stdout
    found = json.loads(report.read_text())
    assert [(point["marker"], point["changed_bytes"]) for point in found["points"]] == [(None, 64 << 10), (None, 0)]
    assert "did not ask for a login" in done.stdout
