"""Hosts and sessions for tests of the stand-in of ESXi."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.esxi.client import Client, connect
from tests.esxi.server import Esxi
from tests.service.component import need


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Esxi]:
    """A host in the newest guise."""
    need("pyvmomi", "qemu-img")
    with Esxi(tmp_path / "host") as made:
        yield made


@pytest.fixture
def client(host: Esxi) -> Iterator[Client]:
    """The administrator's session."""
    with connect(host) as made:
        yield made
