"""Runs onto an ESXi host that something happens to: what they say, and that the next one brings the right bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootpoint_worker.targets.certificate import fetch_fingerprint
from tests.esxi.server import ADDRESS
from tests.esxi.world import ROOT
from tests.service.esxi_site import EsxiSite, esxi_site
from tests.service.site import SLOWLY, rewrite


@pytest.fixture
def site(database: str, tmp_path: Path) -> Iterator[EsxiSite]:
    disk = tmp_path / "system.raw"
    rewrite(disk, 0)
    with esxi_site(database, tmp_path, disk, points=14, limits=SLOWLY) as made:
        made.protect()
        made.examined()
        yield made


def test_what_speaks_against_a_run_is_its_reason_and_gone_with_it(site: EsxiSite) -> None:
    world, shown = site.host.world, fetch_fingerprint(ADDRESS, site.host.port)

    site.host.renew_certificate()
    site.host.cut()
    site.host.start()
    assert site.refused()["reason"] == "host_key_changed"
    site.change(fingerprint=fetch_fingerprint(ADDRESS, site.host.port))
    assert fetch_fingerprint(ADDRESS, site.host.port) != shown
    site.goes_on()

    site.change(secrets={"password": "wrong"})
    assert site.refused()["reason"] == "host_auth"
    site.change(secrets={"password": ROOT.password})
    site.goes_on()

    world.trouble.free_licence = True
    assert site.refused()["reason"] == "host_licence"
    world.trouble.free_licence = False

    store = world.datastores[0]
    room, store.capacity_bytes = store.capacity_bytes, 1
    assert site.refused()["reason"] == "host_full"
    store.capacity_bytes = room

    with site.standby() as (vm, result):
        result(vm.PowerOnVM_Task())
        assert site.refused()["reason"] in ("standby_running", "drift")
        result(vm.PowerOffVM_Task())
    site.goes_on()


@pytest.mark.parametrize(
    "strike",
    [
        pytest.param(lambda site: site.host.world.sessions.expire(), id="session-ended"),
        pytest.param(lambda site: (site.host.cut(), site.host.start()), id="host-restarted"),
        pytest.param(lambda site: site.kill_servers(), id="nbdkit-killed"),
    ],
)
def test_a_blow_in_mid_run_costs_that_run_at_most(site: EsxiSite, strike: Callable[[EsxiSite], object]) -> None:
    run = site.in_its_midst()
    strike(site)
    ended = site.ended(run)
    assert site.check() == (2 if ended["state"] == "succeeded" else 1)
    site.goes_on()


def test_a_disk_that_grew_has_a_new_chain_and_the_older_points_keep_theirs(site: EsxiSite) -> None:
    _, second = site.grown()
    # A delta above the first point's file would have six digits.
    assert re.search(r"-[0-9a-f]{12}\.vmdk$", second.identity)
    site.protect()
    assert site.check() == 3
