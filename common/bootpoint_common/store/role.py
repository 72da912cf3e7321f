"""Roles of PostgreSQL: what each process may do with which table, and the SQL that lets it.

The roles are groups without a login. Whoever runs the database makes logins and puts each into its group, so passwords,
certificates and addresses stay his. Every table stands here, with each role's rights: a test compares the two, so that
no migration forgets one, and `migrate` grants again.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from .database import Connection, rows


class Role(StrEnum):
    """Who works with the database; the value is the group's name."""

    WORKER = "bootpoint_worker"
    """Worker processes: all that a run does to rows."""
    SCHEDULER = "bootpoint_scheduler"
    """Scheduler processes: what starts runs and relays; never a host's credentials."""
    CONSOLE = "bootpoint_console"
    """People, by the command line: jobs, hosts, agents, what is kept and what is deleted."""
    EXPORTER = "bootpoint_exporter"
    """The exporter: reads what metrics are made of, without secrets."""
    READER = "bootpoint_reader"
    """Checks and reports of others: the views, and no table."""


#: What the letters of `_TABLES` grant. ``L`` lets a row be locked, for which PostgreSQL wants a right to change it.
_VERBS = {"S": "SELECT", "I": "INSERT", "U": "UPDATE", "D": "DELETE", "L": "UPDATE (id)"}

#: Rights of worker, scheduler, console and exporter on each table; ``-`` for none.
_TABLES = {
    "adoption": "SIU SU SI S",
    "adoption_segment": "SIUD - - -",
    "agent": "SU SU SIU S",
    "boot_picture": "SIUD - S -",
    "boot_plan": "SIU SIU S S",
    "boot_point": "SIUD SU SU S",
    "boot_point_disk": "SIUD SU SU S",
    "damage": "SIUD S S S",
    "digest_day": "SID SID - -",
    "due": "SIUD SIUD SIUD S",
    "event": "SI SI SI S",
    "event_hour": "SIU SIU S S",
    "event_milestone": "SID SID S S",
    "host": "SU SL SIUD S",
    "installation": "S S S S",
    "job": "SU SU SIUD S",
    "job_revision": "S S SI S",
    "metric_count": "SIU SIU SIU S",
    "migration": "S S S S",
    "network_bucket": "SIU - - S",
    "notification": "SIUD SIUD SIU S",
    "objective_broken": "SID SID SID S",
    "outbox": "SIUD SIUD SIU S",
    "process": "SIUD SIUD S S",
    "reference": "SIUD SIUD SIUD S",
    "replica": "SU SU SIUD S",
    "request": "SIUD SIUD SIUD S",
    "run": "SIU SIU SIU S",
    "run_target": "SIUD SIUD SIUD S",
    "sample": "SIUD - - -",
    "segment": "SIUD S S -",
    "source_event": "SIUD SIUD S S",
    "source_event_job": "SIU SIU S S",
    "test_vm": "SIU SIU SIU S",
    "trash": "SIUD SU SIUD S",
    "unprotected_disk": "SIUD SIUD SIUD S",
    "verification": "SIUD SIUD SIU S",
    "verify_day": "SIUD SD S S",
}

#: Columns that are secrets, though encrypted with the installation's key, and who may not even read them.
_HIDDEN = {
    Role.SCHEDULER: {"host": {"credentials"}},
    Role.EXPORTER: {
        "agent": {"key", "previous_key", "join_secret"},
        "host": {"credentials"},
        "outbox": {"payload"},
        "request": {"arguments", "secret", "answer", "error"},
    },
}

_COLUMNS = """
SELECT c.relname AS name, c.relkind AS kind, array_agg(a.attname::text ORDER BY a.attnum) AS columns FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'v') GROUP BY c.oid, c.relname, c.relkind
ORDER BY c.relname
"""


def rights(role: Role, table: str) -> str:
    """Return the letters of a role's rights on a table; none for one that isn't known."""
    if role is Role.READER or table not in _TABLES:
        return ""
    places = (Role.WORKER, Role.SCHEDULER, Role.CONSOLE, Role.EXPORTER)
    return _TABLES[table].split()[places.index(role)].replace("-", "")


def hidden(role: Role, table: str) -> set[str]:
    """Return the columns of a table that a role may not read."""
    return _HIDDEN.get(role, {}).get(table, set())


def tables() -> list[str]:
    """Return the tables whose rights are known."""
    return sorted(_TABLES)


def existing(connection: Connection) -> list[Role]:
    """Return the roles that the server has."""
    found = {row["rolname"] for row in rows(connection, "SELECT rolname FROM pg_roles")}
    return [role for role in Role if role in found]


def creation(connection: Connection) -> list[str]:
    """Return the statements that make the roles which the server lacks."""
    known = existing(connection)
    return [f"CREATE ROLE {role} NOLOGIN" for role in Role if role not in known]


def grants(connection: Connection, roles: list[Role]) -> list[str]:
    """Return the statements that give roles their rights, and take every other one from them.

    Args:
        connection: To the migrated database, whose tables and views it looks at.
        roles: The roles; they exist where the statements run.
    """
    if not roles:
        return []
    names = ", ".join(roles)
    schema = rows(connection, "SELECT quote_ident(current_schema()) AS name")[0]["name"]
    statements = [
        f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC",
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM PUBLIC, {names}",
        f"GRANT USAGE ON SCHEMA {schema} TO {names}",
    ]
    for row in rows(connection, _COLUMNS):
        if row["kind"] == "v":
            statements.append(f"GRANT SELECT ON {row['name']} TO {names}")
        else:
            statements.extend(_of_table(row["name"], row["columns"], roles))
    # A notice tells of the event that its own session has just written: `notice.alert` asks for its number.
    writers = ", ".join(role for role in roles if "I" in rights(role, "event"))
    if writers:
        statements.append(f"GRANT SELECT ON SEQUENCE event_id_seq TO {writers}")
    return statements


def _of_table(table: str, columns: list[str], roles: list[Role]) -> Iterator[str]:
    for role in roles:
        granted = [_VERBS[letter] for letter in rights(role, table)]
        secret = hidden(role, table)
        if secret:
            shown = ", ".join(column for column in columns if column not in secret)
            granted = [f"SELECT ({shown})" if verb == "SELECT" else verb for verb in granted]
        if granted:
            yield f"GRANT {', '.join(granted)} ON {table} TO {role}"


def apply(connection: Connection, statements: list[str]) -> None:
    """Run statements in the connection's transaction."""
    for statement in statements:
        connection.execute(statement.encode())
