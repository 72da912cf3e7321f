"""What `status` and `job list` say of runs that are under way."""

from __future__ import annotations

import json
from pathlib import Path

from bootpoint_common.store.database import run as execute
from bootpoint_ops.dashboard import share
from tests.service.desk import desk


def test_status_and_job_list_show_what_runs(database: str, tmp_path: Path) -> None:
    with desk(database, tmp_path) as call:
        call.apply("erp", "--run")
        assert "run 1 waits" in call.done("job", "list")
        with call.database.transaction() as connection:
            execute(connection, "UPDATE run SET state = 'running', started_at = now() - interval '10 minutes'")
        result = call("status")
        assert result.exit_code == 1
        assert result.stdout == "erp: never, no boot point yet\nerp: run 1 is under way, begun 10 min ago\n"
        (running,) = json.loads(call("status", "-o", "json").stdout)["running"]
        assert (running["run"], running["job"], running["progress"]) == (1, "erp", None)
        assert "begun 10 min ago" in call.done("job", "list")


def test_how_far_a_run_is_goes_by_the_bytes_of_its_disks() -> None:
    def target(state: str, *disks: tuple[int, int | None, int]) -> dict[str, object]:
        names = ("size_bytes", "scanned_bytes", "applied_bytes")
        return {"state": state, "disks": [dict(zip(names, disk, strict=True)) for disk in disks]}

    assert share([]) is None
    assert share([target("open", (100, None, 0), (300, 100, 20))]) == 0.25
    assert share([target("open", (100, None, 40))]) == 0.4
    assert share([target("sealed", (100, 7, 7)), target("open", (100, 0, 0))]) == 0.5
    assert share([target("committed", (100, 7, 7))]) == 1.0
