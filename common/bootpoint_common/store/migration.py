"""Numbered migrations: each runs once, in order, in a transaction of its own."""

from __future__ import annotations

from importlib import resources

import psycopg
from psycopg.rows import dict_row

from . import role

#: Advisory lock that two migrating processes wait for ("bootpoin" as a number).
_LOCK = 0x626F6F74706F696E


def migrate(url: str) -> list[str]:
    """Bring a database up to date, and grant the roles that the server has what is theirs.

    Safe to call from several processes at once.

    Args:
        url: ``postgresql://…`` of an existing database.

    Returns:
        Names of the migrations that ran now.
    """
    done: list[str] = []
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migration (name text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
        )
        known = {row["name"] for row in connection.execute("SELECT name FROM migration")}
        folder = resources.files(__package__) / "migrations"
        for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
            if not file.name.endswith(".sql") or file.name in known:
                continue
            with connection.transaction():
                connection.execute(file.read_bytes())
                connection.execute("INSERT INTO migration (name) VALUES (%s)", (file.name,))
            done.append(file.name)
        with connection.transaction():
            # New tables are nobody's until they are granted; most servers of one machine have no roles.
            role.apply(connection, role.grants(connection, role.existing(connection)))
    return done
