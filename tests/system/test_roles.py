"""A job from its file to its boot point, with every process and every command under its role in the database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from bootpoint_common.store.role import Role
from bootpoint_common.units import MiB
from tests.service.component import need
from tests.service.libvirt import LibvirtHost
from tests.service.postgres import login_of, url_as
from tests.service.processes import Processes, processes
from tests.service.rabbitmq import VirtualHost


@pytest.fixture
def fleet(database: str, vhost: VirtualHost, libvirt_host: LibvirtHost, storage_directory: Path) -> Iterator[Processes]:
    need("qemu-img", "qemu-nbd", "libnbd")
    with processes(database, vhost, libvirt_host, storage_directory) as made:
        yield made


def test_a_job_needs_no_more_than_the_roles_of_its_processes(fleet: Processes, tmp_path: Path) -> None:
    source = tmp_path / "disk.raw"
    source.write_bytes(b"bootpoint" * MiB)
    fleet.add_worker("w1")
    fleet.add_scheduler("s1")
    fleet.add_agent("erp", [source])
    fleet.add_job("erp", "erp", {"system": source})
    run = fleet.bootpoint("job", "run", "erp", "--wait")
    assert run["state"] == "succeeded", fleet.logs()
    assert fleet.bootpoint("point", "verify", "erp", "latest")
    logins = {row["usename"] for row in fleet.rows("SELECT DISTINCT usename::text FROM pg_stat_activity")}
    assert {login_of(Role.WORKER), login_of(Role.SCHEDULER)} <= logins
    assert "permission denied" not in fleet.logs()
    for who, statement in (
        (Role.WORKER, "DELETE FROM job"),
        (Role.WORKER, "DELETE FROM replica"),
        (Role.SCHEDULER, "SELECT credentials FROM host"),
        (Role.READER, "SELECT credentials FROM host"),
        (Role.READER, "SELECT key FROM agent"),
    ):
        with psycopg.connect(url_as(fleet.database.url, who)) as connection, pytest.raises(InsufficientPrivilege):
            connection.execute(statement.encode())
    fleet.bootpoint("job", "delete", "erp", "--yes")
    assert fleet.rows("SELECT 1 FROM job") == []
