"""A test of the contract is left out on vcsim for the table's reasons alone."""

from __future__ import annotations

import pytest

from tests.contract.vcsim_limit import MARK

pytest_plugins = ["pytester"]

HOOKS = "from tests.contract.vcsim_limit import pytest_collection_modifyitems, pytest_runtest_makereport"

TESTS = """
import pytest
from tests.contract.driver_vcsim import Vcsim

@pytest.fixture(params=[Vcsim.HOST, "elsewhere"], ids=["host", "elsewhere"])
def driver(request):
    return request.param

def test_zero_hides_the_base(driver):
    assert driver == "elsewhere"

def test_that_skips_itself(driver):
    pytest.skip("it can't be")

@pytest.mark.skip(reason="it can't be")
def test_that_is_marked(driver):
    pass

def test_that_passes(driver):
    pass
"""


def test_what_is_left_out_is_not_collected_and_what_is_skipped_is_red(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(HOOKS)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-q", "-o", f"markers={MARK}")
    result.assert_outcomes(passed=3, failed=1, errors=1, skipped=2)
    result.stdout.fnmatch_lines(["*skipped on vcsim, and not in the table*"])
