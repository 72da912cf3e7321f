"""Roles of PostgreSQL: what each may do, and that no table and no process is forgotten."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import dict_row

from bootpoint_common.store import role
from bootpoint_common.store.database import Connection, Database, rows
from bootpoint_common.store.migration import migrate
from bootpoint_common.store.role import Role
from bootpoint_ops.cli import main
from bootpoint_ops.gauge import StateCollector
from tests.service.commandline import answer_of
from tests.service.postgres import PostgresServer, login_of, url_as

#: What a role must be refused: a stolen login of it does none of that.
FORBIDDEN = [
    (Role.WORKER, "DELETE FROM job"),
    (Role.WORKER, "DELETE FROM replica"),
    (Role.WORKER, "INSERT INTO job (name, revision, enabled, agent_id, spec) SELECT 'x', 1, true, id, '{}' FROM agent"),
    (Role.WORKER, "DELETE FROM host"),
    (Role.WORKER, "DELETE FROM agent"),
    (Role.WORKER, "DELETE FROM run"),
    (Role.WORKER, "TRUNCATE boot_point CASCADE"),
    (Role.SCHEDULER, "SELECT credentials FROM host"),
    (Role.SCHEDULER, "SELECT * FROM host"),
    (Role.SCHEDULER, "UPDATE host SET address = 'elsewhere'"),
    (Role.SCHEDULER, "DELETE FROM replica"),
    (Role.SCHEDULER, "DELETE FROM boot_point"),
    (Role.CONSOLE, "UPDATE boot_point_disk SET id = id; DELETE FROM boot_point"),
    (Role.CONSOLE, "DELETE FROM run"),
    (Role.CONSOLE, "DELETE FROM agent"),
    (Role.EXPORTER, "SELECT key FROM agent"),
    (Role.EXPORTER, "SELECT credentials FROM host"),
    (Role.EXPORTER, "SELECT secret FROM request"),
    (Role.EXPORTER, "SELECT payload FROM outbox"),
    (Role.EXPORTER, "UPDATE job SET enabled = false"),
    *((one, "UPDATE event SET actor = 'nobody'") for one in Role),
    *((one, "DELETE FROM event") for one in Role),
    *((one, "TRUNCATE event") for one in Role),
    *((one, "ALTER TABLE event DISABLE TRIGGER event_is_for_ever") for one in Role),
    *((one, "CREATE TABLE own (x integer)") for one in Role),
    *((one, "CREATE FUNCTION now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz'") for one in Role),
    *((one, "DELETE FROM migration") for one in Role),
]  # fmt: skip

VIEWS = ("v_job", "v_run", "v_boot_point", "v_event")


@pytest.mark.parametrize(("who", "statement"), FORBIDDEN)
def test_a_role_can_not_do_what_its_process_never_does(database: str, who: Role, statement: str) -> None:
    with psycopg.connect(url_as(database, who)) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute(statement.encode())


def test_a_reader_sees_the_views_and_no_table(database: str) -> None:
    with psycopg.connect(url_as(database, Role.READER), autocommit=True) as connection:
        for view in VIEWS:
            assert connection.execute(f"SELECT count(*) FROM {view}".encode()).fetchone() == (0,)
        for table in role.tables():
            with pytest.raises(InsufficientPrivilege):
                connection.execute(f"SELECT 1 FROM {table}".encode())


def test_somebody_without_a_role_sees_nothing(database: str, postgres_server: PostgresServer) -> None:
    postgres_server.execute("CREATE ROLE stranger LOGIN")
    try:
        with psycopg.connect(database.replace("postgres@", "stranger@"), autocommit=True) as connection:
            for name in (*VIEWS, *role.tables()):
                with pytest.raises(InsufficientPrivilege):
                    connection.execute(f"SELECT 1 FROM {name}".encode())
    finally:
        postgres_server.execute("DROP ROLE stranger")


def test_every_table_stands_in_the_grants_and_each_role_has_just_these(database: str) -> None:
    with closing(Database(database, size=1)) as opened, opened.transaction() as connection:
        found = [row["name"] for row in rows(connection, "SELECT tablename AS name FROM pg_tables"
                                              " WHERE schemaname = 'public' ORDER BY 1")]  # fmt: skip
        assert found == role.tables(), "store/role.py names each table with who may do what"
        for table in found:
            for who in Role:
                assert granted(connection, who, table) == set(role.rights(who, table).replace("L", "")), (who, table)


def granted(connection: Connection, who: Role, table: str) -> set[str]:
    """Return the letters of what a role may do with a whole table; S also where it may read but for its secrets."""
    verbs = {"S": "SELECT", "I": "INSERT", "U": "UPDATE", "D": "DELETE", "T": "TRUNCATE"}
    found = {
        letter for letter, verb in verbs.items()
        if rows(connection, "SELECT has_table_privilege(%s, %s, %s) AS may", str(who), table, verb)[0]["may"]
    }  # fmt: skip
    columns = {row["name"] for row in rows(connection, "SELECT attname AS name FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND NOT"
        " has_column_privilege(%s, attrelid, attnum, 'SELECT')", table, str(who))}  # fmt: skip
    if role.hidden(who, table):
        assert columns == role.hidden(who, table)
        found.add("S")
    return found


def test_a_later_migration_grants_again(empty_database: str) -> None:
    migrate(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(b"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM bootpoint_worker")
        connection.execute(b"GRANT DELETE ON job TO bootpoint_worker")
    migrate(empty_database)
    with psycopg.connect(url_as(empty_database, Role.WORKER), autocommit=True) as connection:
        assert connection.execute(b"SELECT count(*) FROM job").fetchone() == (0,)
        with pytest.raises(InsufficientPrivilege):
            connection.execute(b"DELETE FROM job")


def test_the_printed_statements_do_the_same(empty_database: str, tmp_path: Path) -> None:
    env = {"BOOTPOINT_DATABASE_URL": empty_database, "BOOTPOINT_STATE": str(tmp_path)}

    def call(*words: str) -> str:
        result = CliRunner().invoke(main, ["db", *words], env=env)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    call("migrate")
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(b"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM bootpoint_reader")
        for statement in call("roles").split(";\n"):
            connection.execute(statement.encode())
    with psycopg.connect(url_as(empty_database, Role.READER)) as connection:
        assert connection.execute(b"SELECT count(*) FROM v_job").fetchone() == (0,)
    assert "each role has its rights" in call("roles", "--apply")


def test_a_server_without_the_roles_gets_them(debian_postgres: PostgresServer) -> None:
    name = debian_postgres.create_database()
    try:
        migrate(debian_postgres.url(name))
        with psycopg.connect(debian_postgres.url(name), row_factory=dict_row) as connection:
            connection.execute(f"DROP OWNED BY {login_of(Role.READER)}; DROP ROLE {login_of(Role.READER)}".encode())
            connection.execute(f"DROP OWNED BY {Role.READER}; DROP ROLE {Role.READER}".encode())
            assert role.creation(connection) == [f"CREATE ROLE {Role.READER} NOLOGIN"]
            role.apply(connection, [*role.creation(connection), *role.grants(connection, list(Role))])
            assert role.existing(connection) == list(Role)
            connection.rollback()
    finally:
        debian_postgres.drop_database(name)


def test_a_command_under_the_wrong_role_says_so(database: str, tmp_path: Path) -> None:
    env = {"BOOTPOINT_DATABASE_URL": url_as(database, Role.READER), "BOOTPOINT_STATE": str(tmp_path)}
    result = CliRunner().invoke(main, ["agent", "list"], env=env)
    assert result.exit_code == 1
    assert "permission denied" in result.stderr
    assert "docs/security.md" in result.stderr
    env["BOOTPOINT_DATABASE_URL"] = url_as(database, Role.CONSOLE)
    assert answer_of(CliRunner().invoke(main, ["agent", "list", "-o", "json"], env=env)) == {"items": []}


def test_the_metrics_need_no_more_than_the_exporters_role(database: str) -> None:
    with closing(Database(url_as(database, Role.EXPORTER), size=1)) as opened:
        assert {family.name for family in StateCollector(opened).collect()} >= {"bootpoint_outbox_pending"}
