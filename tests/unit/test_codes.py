"""The codes are a contract: their list, their page and their classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootpoint_common.errors import CODES, BootpointError, Code, error
from bootpoint_ops.code_page import page

PAGE = Path(__file__).parents[2] / "docs" / "codes.md"

#: Every code that users, scripts and alerts may rely on.
CONTRACT = [
    "host_unreachable", "host_auth", "host_key_changed", "host_unsupported", "host_licence", "host_full",
    "credentials_not_saved", "vm_name_taken", "storage_unknown", "network_unknown", "needs_move",
    "source_ineligible", "disk_missing", "disk_changed", "disk_read_error", "agent_offline", "agent_revoked",
    "agent_too_old", "agent_is_a_copy", "no_worker", "no_scheduler", "base_mismatch", "epoch_stale", "superseded",
    "point_open", "bundle_rejected", "stream_gap", "layer_lost", "torn_leaf", "script_failed", "freeze_timeout",
    "snapshot_failed", "snapshot_lost", "consistency_too_low", "target_write_error", "target_check_failed",
    "conversion_failed", "target_too_slow", "deadline", "cancelled", "too_late", "missed", "already_running", "drift",
    "standby_running", "source_alive", "point_in_use", "retention_full", "retention_blocked", "last_verified",
    "busy", "spec_invalid", "secret_in_spec", "host_permission", "agent_restarted", "stalled", "clock_skew",
    "tls_refused", "no_such_job", "no_such_host", "no_such_run", "no_such_agent", "no_such_vm", "no_such_disk",
    "no_such_point", "no_such_event", "broker_unreachable", "broker_refused",
]  # fmt: skip


def test_codes_are_those_of_the_contract() -> None:
    assert sorted(Code) == sorted(CONTRACT)
    assert set(CODES) == set(Code)


def test_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run: python -m bootpoint_ops.code_page > docs/codes.md"


def test_page_has_one_whole_row_for_each_code() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == sorted(CONTRACT)
    assert all(row.replace("\\|", "").count("|") == 6 for row in rows)


@pytest.mark.parametrize("code", Code)
def test_every_code_explains_itself(code: Code) -> None:
    problem = error(code, "it happened")
    assert isinstance(problem, BootpointError)
    assert CODES[code].meaning.endswith(".")
    assert problem.hint
    assert problem.as_json()["code"] == code.value
