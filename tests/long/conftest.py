"""What the tests of ``make test-all`` have in common."""

from tests.contract.vcsim_limit import pytest_collection_modifyitems, pytest_runtest_makereport

__all__ = ["pytest_collection_modifyitems", "pytest_runtest_makereport"]
