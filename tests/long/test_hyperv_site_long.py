"""Runs onto a Hyper-V host that something happens to: what they say, and that the next one brings the right bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootpoint_common.units import MiB
from bootpoint_worker.targets.certificate import fetch_fingerprint
from tests.service.hyperv_site import HyperVSite, hyperv_site
from tests.service.site import SLOWLY, rewrite

#: smbclient drops the handle of a request that is cut in its midst; it went with its connection.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed SMB handle:ResourceWarning")


@pytest.fixture
def site(database: str, tmp_path: Path) -> Iterator[HyperVSite]:
    disk = tmp_path / "system.raw"
    rewrite(disk, 0)
    with hyperv_site(database, tmp_path, disk, points=14, limits=SLOWLY) as made:
        made.protect()
        made.examined()
        yield made


def test_what_speaks_against_a_run_is_its_reason_and_gone_with_it(site: HyperVSite) -> None:
    host, password = site.host, site.host.password

    host.winrm.renew_certificate()
    host.cut()
    host.start()
    assert site.refused()["reason"] == "host_key_changed"
    site.change(fingerprint=fetch_fingerprint(host.address, host.winrm.port))
    site.goes_on()

    site.change(secrets={"password": "wrong"})
    assert site.refused()["reason"] == "host_auth"
    site.change(secrets={"password": password})
    site.goes_on()

    host.filter()
    assert site.refused()["reason"] == "host_permission"
    host.filter(filtered=False)

    host.trouble.vmms = "Stopped"
    assert site.refused()["reason"] == "host_unsupported"
    host.trouble.vmms = "Running"

    room, host.volumes["D"] = host.volumes["D"], MiB
    assert site.refused()["reason"] == "host_full"
    host.volumes["D"] = room

    host.vmms.power_on(site.standby)
    assert site.refused()["reason"] in ("standby_running", "drift")
    host.vmms.power_off(site.standby)
    site.goes_on()


@pytest.mark.parametrize(
    "strike",
    [
        pytest.param(lambda site: site.host.samba.control("close-share", "D$"), id="share-closed"),
        pytest.param(lambda site: (site.host.cut(), site.host.start()), id="host-restarted"),
        pytest.param(lambda site: setattr(site.host.trouble, "killed_shells", 1), id="shell-killed"),
        pytest.param(lambda site: setattr(site.host.trouble, "lost_answers", 1), id="answer-lost"),
    ],
)
def test_a_blow_in_mid_run_costs_that_run_at_most(site: HyperVSite, strike: Callable[[HyperVSite], object]) -> None:
    run = site.in_its_midst()
    strike(site)
    ended = site.ended(run)
    assert site.check() == (2 if ended["state"] == "succeeded" else 1)
    site.goes_on()


def test_a_disk_that_grew_has_a_new_chain_and_the_older_points_keep_theirs(site: HyperVSite) -> None:
    _, second = site.grown()
    # A delta above the first point's file would have it beneath.
    assert site.host.chain_below(site.host.locate(second.identity)) == []
    site.protect()
    assert site.check() == 3


def test_the_points_stand_as_checkpoints_in_hyper_v_manager(site: HyperVSite, tmp_path: Path) -> None:
    rewrite(site.disk, 1)
    site.protect()
    points = site.fleet.points(site.job)
    assert [each.name for each in site.standby._snapshots] == [point.name for point in points]
    for point in points:
        site.flatten(point, tmp_path / "found.raw")
        assert (tmp_path / "found.raw").read_bytes() == site.copies[point.run_uid].read_bytes()
