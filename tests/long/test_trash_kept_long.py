"""A job that was deleted is applied again, and nobody adopts its replica: what rests in the trash stays there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from bootpoint_common.job import read_json
from bootpoint_ops import job as editing
from tests.integration.conftest import installation
from tests.integration.test_trash import DAY, Site, site
from tests.service.process import wait_for

__all__ = ["installation", "site"]


def warnings(site: Site) -> tuple[str, ...]:
    assert site.spec is not None
    with site.fleet.database.transaction() as connection:
        return editing.plan(connection, read_json(site.spec["spec"])).warnings


def test_what_a_job_could_take_back_does_not_go_until_it_has_points_of_its_own(site: Site) -> None:
    site.run()
    before = site.contents()
    replica = site.replica
    site.delete()
    site.rests(replica)
    (warning,) = warnings(site)
    assert warning.startswith("the trash of h1 holds 1 boot point of a deleted job of this name:")
    site.apply_again()
    site.pass_time(8 * DAY)
    assert site.state(replica) == "resting"
    assert abs(site.rests(replica)["purge_at"] - datetime.now(UTC) - 15 * DAY) < timedelta(minutes=5)
    (kept,) = site.fleet.rows("SELECT text FROM event WHERE kind = 'trash_kept'")
    assert "`bootpoint host rescan h1 --adopt` takes it back" in kept["text"]
    site.rescan(adopt=True)
    wait_for(lambda: len(site.fleet.points(site.job)) == 1, "the point to be adopted", 30.0)
    assert (site.contents(), warnings(site)) == (before, ())


def test_once_it_has_points_of_its_own_the_old_ones_go_when_their_rest_is_over(site: Site) -> None:
    site.run()
    replica = site.replica
    site.delete()
    site.rests(replica)
    site.apply_again()
    site.pass_time(8 * DAY)
    site.run()
    site.pass_time(9 * DAY)
    assert site.state(replica) == "resting", "its rest began anew"
    site.pass_time(16 * DAY)
    wait_for(lambda: site.state(replica) is None, "the trash to be empty", 30.0)
    assert len(site.contents()) == 1


def test_a_host_that_was_away_when_the_rest_was_over_keeps_what_is_wanted_by_now(site: Site) -> None:
    site.run()
    replica = site.replica
    site.delete()
    site.rests(replica)
    site.host.disconnect_at("purge", "called", times=1000)
    site.pass_time(8 * DAY)
    wait_for(lambda: "trash_waits" in site.events(), "a worker to find the host away", 30.0)
    site.apply_again()
    site.host.clear_faults()
    with site.fleet.database.transaction() as connection:
        connection.execute(b"UPDATE trash SET enqueued_at = now() - interval '1 hour'")
    wait_for(lambda: site.state(replica) == "resting", "a worker to let it rest", 60.0)
    assert site.host.layers
