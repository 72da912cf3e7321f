"""What the ESXi driver can't be tried with on vcsim: those tests of the contract are left out there, and no others.

``tests/long/conftest.py`` has the hooks of this module called: a test of the table isn't collected for vcsim, and one
that is skipped there is red. ``tests/long/test_esxi_vcsim_left_out_long.py`` runs what is left out, and is red for a
test that would pass, or that there isn't.
"""

from __future__ import annotations

import enum
from collections.abc import Generator
from typing import Any

import pytest

from tests.contract.driver_vcsim import Vcsim

#: Marks what is left out; ``-m left_out`` runs it all the same.
MARK = "left_out"


class Limit(enum.Enum):
    """What a real host has, and vcsim hasn't; no other limit counts.

    The contract has tests of the first alone: what needs another one needs deltas, too, or is tried on our own server
    only (``test_esxi_trouble_long.py``, ``test_esxi_conversion_long.py``, ``tests/integration/esxi``).
    """

    #: A file of its own above each snapshot: what is written to a leaf is what every point shows.
    NAMES_OF_DELTAS = "names of deltas"
    #: No more than 32 levels of snapshots.
    DEPTH = "depth limit"
    #: ConsolidateVMDisks_Task.
    CONSOLIDATION = "ConsolidateVMDisks"
    #: CreateScreenshot_Task.
    SCREENSHOT = "CreateScreenshot"
    #: DuplicateName, for a second VM of a name.
    DUPLICATE_NAME = "DuplicateName"


#: Test of the contract, by its name or that of one of its cases -> why it is left out.
LEFT_OUT = {
    "test_zero_hides_the_base": Limit.NAMES_OF_DELTAS,
    "test_points_are_read_while_a_layer_is_open_and_written": Limit.NAMES_OF_DELTAS,
    "test_aborting_leaves_the_head_as_it_was": Limit.NAMES_OF_DELTAS,
    "test_every_point_of_a_chain_keeps_its_content": Limit.NAMES_OF_DELTAS,
    "test_a_test_vm_writes_beside_the_points": Limit.NAMES_OF_DELTAS,
    "test_a_test_vm_runs_while_a_point_is_open_and_committed": Limit.NAMES_OF_DELTAS,
    "test_a_standby_that_ran_is_no_hindrance_to_the_next_point": Limit.NAMES_OF_DELTAS,
    "test_a_change_made_outside_bootpoint_is_drift": Limit.NAMES_OF_DELTAS,
    "test_a_reverted_standby_stays_where_it_is_until_it_is_let_go": Limit.NAMES_OF_DELTAS,
    "test_a_revert_changes_no_point_though_the_standby_wrote": Limit.NAMES_OF_DELTAS,
    "test_a_merged_point_is_gone_and_the_others_show_what_they_did": Limit.NAMES_OF_DELTAS,
    "test_merging_again_only_says_where_the_content_is": Limit.NAMES_OF_DELTAS,
    "test_both_disks_are_merged": Limit.NAMES_OF_DELTAS,
    "test_a_disk_that_grew_is_merged_at_its_new_size": Limit.NAMES_OF_DELTAS,
    "test_zeros_of_the_successor_hide_what_the_point_held[True]": Limit.NAMES_OF_DELTAS,
    "test_the_newest_point_is_never_merged": Limit.NAMES_OF_DELTAS,
    "test_nothing_is_merged_while_a_point_is_open": Limit.NAMES_OF_DELTAS,
    "test_a_test_vm_that_is_off_keeps_its_point": Limit.NAMES_OF_DELTAS,
    "test_a_vm_that_runs_keeps_what_is_beneath_it_and_nothing_above": Limit.NAMES_OF_DELTAS,
    "test_a_deleted_replica_is_gone_from_its_place_and_comes_back_whole": Limit.NAMES_OF_DELTAS,
    "test_the_place_is_free_for_another_replica_and_each_keeps_its_own": Limit.NAMES_OF_DELTAS,
}


def entry_of(name: str, kind: Vcsim) -> str | None:
    """Return the entry of the table that a test belongs to; None when it isn't left out.

    Args:
        name: The test's name with its case: ``test_it[host-True]``.
        kind: What vcsim pretends to be in it.
    """
    case = name.replace(f"[{kind.value}]", "").replace(f"[{kind.value}-", "[")
    return next((entry for entry in (case, case.partition("[")[0]) if entry in LEFT_OUT), None)


def _kind_of(item: pytest.Item) -> Vcsim | None:
    """Return what vcsim pretends to be in a test; None for a test that runs elsewhere."""
    kind = item.callspec.params.get("driver") if hasattr(item, "callspec") else None
    return kind if isinstance(kind, Vcsim) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is left out, and leave it out unless just that is wanted."""
    left_out = [item for item in items if (kind := _kind_of(item)) is not None and entry_of(item.name, kind)]
    for item in left_out:
        item.add_marker(MARK)
    if config.getoption("markexpr") != MARK:
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Let a test that skips itself on vcsim fail; what the machine lacks skips it before its call, at home only."""
    report = yield
    by_itself = report.when == "call" or item.get_closest_marker("skip") or item.get_closest_marker("skipif")
    if report.skipped and by_itself and _kind_of(item) is not None:
        report.outcome, report.longrepr = "failed", f"skipped on vcsim, and not in the table: {report.longrepr}"
    return report
