"""Every act and every refusal of a command is in the history, with who and from where."""

from __future__ import annotations

from pathlib import Path

from bootpoint_common.store.database import rows
from tests.service.desk import desk


def test_acts_and_refusals_say_who_and_from_where(database: str, tmp_path: Path) -> None:
    with desk(database, tmp_path) as call:
        call.apply("erp", "--run")
        assert call("job", "delete", "erp", "--yes").exit_code == 4
        assert call("job", "run", "erp", "--timeout", "0", "-o", "json").exit_code == 4
        call.done("run", "cancel", "1")
        assert call("run", "cancel", "1", "-o", "json").exit_code == 4
        # Nothing would be changed by this, whatever it answers.
        assert call("job", "show", "none").exit_code == 3
        with call.database.transaction() as connection:
            found = rows(connection, "SELECT * FROM v_event ORDER BY id")
    assert [(item["kind"], item["origin"], item["code"]) for item in found] == [
        ("host_added", "host add", None),
        ("job_created", "job apply", None),
        ("run_requested", "job apply", None),
        ("command_refused", "job delete", "already_running"),
        ("command_refused", "job run", "already_running"),
        ("cancel_requested", "run cancel", "cancelled"),
        ("run_cancelled", "run cancel", "cancelled"),
        ("cancel_refused", "run cancel", "too_late"),
    ]
    refused = found[3]
    assert (refused["job"], refused["actor"]) == ("erp", found[1]["actor"])
    assert refused["details"]["command"] == "bootpoint job delete erp --yes"
    assert found[4]["details"]["command"] == "bootpoint job run erp --timeout 0 -o json"
