"""The first point of a chain is looked into by a worker, and what was found is shown and kept."""

from __future__ import annotations

from pathlib import Path

from bootpoint_common.store import job as jobs
from bootpoint_common.store.database import run
from bootpoint_common.units import MiB
from bootpoint_ops import read
from bootpoint_worker.targets.fake_host import FakeHost
from tests.service.fleet import Fleet

MADE = "SELECT profile FROM replica WHERE profile ? 'made_at'"


def test_a_job_knows_what_a_start_takes_after_its_first_point(installation: Fleet, tmp_path: Path) -> None:
    host = f"fake-{tmp_path.name}"
    disk = tmp_path / "system.raw"
    disk.write_bytes(b"\xeb\x63" + bytes(8 * MiB - 2))
    installation.add_worker("w1")
    host_id = installation.add_host(host)
    installation.add_agent("erp", [disk])
    job_id = installation.add_job("erp", "erp", {"system": disk}, host_id)
    installation.wait(installation.run(job_id))
    found = installation.wait_until(lambda: installation.row(MADE))["profile"]
    assert found["boot_disk"] is None
    (problem,) = found["problems"]
    assert not problem["bootable"]
    (event,) = installation.rows("SELECT text, actor, point FROM event WHERE kind = 'profile_made'")
    assert event["actor"] == "examine"
    assert "it will not boot" in event["text"]
    assert problem["text"] in event["text"]
    with installation.database.transaction() as connection:
        (replica,) = jobs.replicas(connection, job_id)
        assert read.point(connection, replica, "latest")["profile"] == found
    # The next point is not looked into: the chain is the same.
    installation.wait(installation.run(job_id))
    assert len(installation.rows("SELECT 1 FROM event WHERE kind = 'profile_made'")) == 1
    # What is missing is made up for by the reaper, even if it was asked for and nothing came of it.
    journal = FakeHost.at(host).manifests
    assert all(manifest.profile is not None for manifest in journal.values())
    with installation.database.transaction() as connection:
        run(connection, "UPDATE replica SET profile = jsonb_build_object('asked_at', now() - interval '1 hour')")
    again = installation.wait_until(lambda: installation.row(MADE))["profile"]
    assert again["made_at"] > found["made_at"]
