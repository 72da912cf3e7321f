"""Numbered migrations: each runs once, in order, in a transaction of its own."""

from __future__ import annotations

from importlib import resources

import psycopg

#: Advisory lock that two migrating processes wait for ("bootpoin" as a number).
_LOCK = 0x626F6F74706F696E


def migrate(url: str) -> list[str]:
    """Bring a database up to date; safe to call from several processes at once.

    Args:
        url: ``postgresql://…`` of an existing database.

    Returns:
        Names of the migrations that ran now.
    """
    done: list[str] = []
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migration (name text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
        )
        known = {row[0] for row in connection.execute("SELECT name FROM migration")}
        folder = resources.files(__package__) / "migrations"
        for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
            if not file.name.endswith(".sql") or file.name in known:
                continue
            with connection.transaction():
                connection.execute(file.read_bytes())
                connection.execute("INSERT INTO migration (name) VALUES (%s)", (file.name,))
            done.append(file.name)
    return done
