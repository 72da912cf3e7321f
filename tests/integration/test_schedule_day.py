"""Half a day of schedules with schedulers that are killed between any two statements; a long test has days of it."""

from __future__ import annotations

from random import Random

from bootpoint_common.store.database import Database
from tests.service.scheduled import Scene, live, require_one_outcome_each


def test_every_start_becomes_one_run_or_one_line_of_the_history(database: str, rng: Random) -> None:
    pool = Database(database, size=4)
    scene = Scene(pool, rng, count=8)
    live(scene, hours=12)
    require_one_outcome_each(scene)
    assert scene.deaths > 10
    kinds = {f"{row['trigger']} {row['state']}" for row in scene.rows("SELECT trigger, state FROM run")}
    assert {"schedule succeeded", "schedule skipped", "catch_up succeeded", "retry succeeded"} <= kinds
    pool.close()
