"""Fixtures for all tests, and the seed that they share."""

from __future__ import annotations

import os
import random
import signal

import hypothesis
import pytest

from tests.service.demo import demo_host, demo_place, demo_run
from tests.service.libvirt import libvirt_host, storage_directory
from tests.service.postgres import (
    database,
    debian_database,
    debian_postgres,
    empty_database,
    postgres_server,
    template_database,
)
from tests.service.rabbitmq import broker_url, rabbitmq_server, vhost
from tests.service.samba import samba_server
from tests.service.sshd import sshd_server

__all__ = [
    "broker_url",
    "database",
    "debian_database",
    "debian_postgres",
    "demo_host",
    "demo_place",
    "demo_run",
    "empty_database",
    "libvirt_host",
    "postgres_server",
    "rabbitmq_server",
    "samba_server",
    "sshd_server",
    "storage_directory",
    "template_database",
    "vhost",
]

#: The seed of everything random in the tests; 0 when none is given, and then every run is the same.
SEED = int(os.environ.get("BOOTPOINT_SEED") or 0)

# What a promise compares is shown when it isn't kept.
pytest.register_assert_rewrite("tests.contract.snapshots", "tests.long.trouble")

# A loaded machine is slow; how long an example takes says nothing about it being right.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.register_profile("seeded", deadline=None, print_blob=True)


def pytest_configure(config: pytest.Config) -> None:
    # A shell has what it starts in the background ignore Ctrl-C, and programs that the tests start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    hypothesis.settings.load_profile("seeded" if SEED else "same")
    if SEED and config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = SEED


def pytest_report_header() -> str:
    return f"BOOTPOINT_SEED={SEED}"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Randomness that is the same whenever this test runs with this seed."""
    return random.Random(f"{SEED} {request.node.nodeid}")
