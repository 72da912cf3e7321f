"""The line with a real worker; a long test has three hundred jobs in it."""

from __future__ import annotations

from tests.service.fleet import Fleet
from tests.service.sharing import share_places


def test_many_jobs_share_eight_places_and_none_starves(installation: Fleet) -> None:
    share_places(installation, 60)
