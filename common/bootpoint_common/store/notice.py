"""Notices: what people are told, by mail and webhook, written in the transaction that makes the news true.

A row holds everything that will be said, and its Message-ID: what is sent a second time, because nobody knows whether
the first attempt arrived, is the same letter. How rows are sent: `delivery`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from bootpoint_common.errors import Code
from bootpoint_common.identity import new_id
from bootpoint_common.job.spec import NotifyOn

from .database import Connection, Row, one, one_row, rows, run
from .shown import jsonable

#: Seconds within which the same alert about the same run is told once: several disks of it met the same.
SAME_SECONDS = 3600.0

#: Seconds for which letters to one reader about the same thing are gathered, once the first has gone: a host that is
#: away lets the runs of all its jobs fail, one after the other, and again when they are retried.
GATHER_SECONDS = 900.0

#: Seconds after which such a letter is news again.
_SAME_THING_SECONDS = 86400.0

#: Failures whose cause is a host, whichever job meets them.
_OF_HOSTS = frozenset(
    {
        Code.HOST_UNREACHABLE,
        Code.HOST_AUTH,
        Code.HOST_KEY_CHANGED,
        Code.HOST_UNSUPPORTED,
        Code.HOST_LICENCE,
        Code.HOST_PERMISSION,
        Code.HOST_FULL,
        Code.CREDENTIALS_NOT_SAVED,
    }
)

#: Alerts that many jobs have at the same time, for one reason.
_OF_MANY = frozenset({"objective_broken", "objective_met"})

#: Right side of every Message-ID: a name that no host has, for the left side is an id that no other machine makes.
_MESSAGE_DOMAIN = "notice.bootpoint.invalid"


class Channel(enum.StrEnum):
    """How somebody is told."""

    MAIL = "mail"
    WEBHOOK = "webhook"


class Kind(enum.StrEnum):
    """Kinds of notices that are no events of the history."""

    DIGEST = "digest"  #: the state of all jobs, once a day
    TEST = "notice_test"  #: somebody tries whether notices arrive; given up at the first failure


@dataclass(frozen=True, slots=True)
class _Reader:
    """Somebody who is told."""

    channel: Channel
    address: str
    secret_file: str | None = None


# --- writing


def run_ended(connection: Connection, number: int, spec: dict[str, Any] | None) -> None:
    """Write what is told of the end of a run; to be called in the transaction that ends it.

    Nobody is told of a run that was cancelled or skipped: somebody did it, or it is as it should be; but one that was
    missed is a failure. Of a failure that is to be tried again mail tells at the first attempt and at the last one, a
    webhook each time.

    Args:
        connection: The transaction.
        number: The run.
        spec: Its job; None where that was deleted.
    """
    ended = one_row(connection, "SELECT state, reason FROM run WHERE id = %s", number)
    kind = "run_missed" if ended["reason"] == Code.MISSED else f"run_{ended['state']}"
    if spec is None or kind not in _OUTCOMES:
        return
    readers = _readers(spec, _OUTCOMES[kind])
    if not readers:
        return
    shown = jsonable(one_row(connection, "SELECT * FROM v_run WHERE id = %s", number))
    job = one(connection, "SELECT state, next_run_at FROM v_job WHERE name = %s", shown["job"])
    if job is not None and job["state"] not in _NO_RETRY and _is_between(shown, spec["run"]["retry"]["times"]):
        readers = [reader for reader in readers if reader.channel is not Channel.MAIL]
    # What scripts wrote is theirs to say, and long: it stays in the run's log.
    shown["scripts"] = [{**script, "output": None} for script in shown["scripts"]]
    facts = {
        **_FACTS, "kind": kind, "at": shown["ended_at"], "job": shown["job"], "run": shown,
        "next_run_at": None if job is None else jsonable(job["next_run_at"]),
    }  # fmt: skip
    _write(connection, readers, facts, number=number, about=_host_failure(shown))


def _host_failure(shown: dict[str, Any]) -> str | None:
    """Return what a run's failure has in common with those of other jobs; None where the cause isn't a host."""
    if shown["state"] != "failed" or shown["reason"] not in _OF_HOSTS:
        return None
    hosts = [target["host"] for target in shown["targets"] if target["reason"] in (None, shown["reason"])]
    return f"{shown['reason']} on {', '.join(hosts)}"


#: Which readers are told of what.
_OUTCOMES = {
    "run_succeeded": NotifyOn.SUCCESS,
    "run_failed": NotifyOn.FAILURE,
    "run_missed": NotifyOn.FAILURE,
}

#: States of a job whose failed runs nobody tries again.
_NO_RETRY = ("disabled", "paused")


def _is_between(shown: dict[str, Any], times: int) -> bool:
    """Tell whether a run is an attempt between the first one and the last one."""
    return bool(shown["state"] == "failed" and shown["retryable"] and 1 < shown["attempt"] <= times)


def missed(connection: Connection, run_uids: Sequence[UUID]) -> None:
    """Write what is told of runs that were skipped: of those that were missed, as of a failure."""
    found = rows(
        connection,
        "SELECT r.id, j.spec FROM run r JOIN job j ON j.id = r.job_id WHERE r.uid = ANY(%s) AND r.reason = %s"
        " ORDER BY r.id",
        *(list(run_uids), str(Code.MISSED)),
    )
    for row in found:
        run_ended(connection, row["id"], row["spec"])


#: Every key of what is told.
_FACTS: dict[str, Any] = dict.fromkeys(("kind", "at", "job", "run", "event", "next_run_at"))


def alert(connection: Connection, job: str) -> None:
    """Write what is told of the event that was recorded last in this session; see `bootpoint_common.alert`."""
    found = one(connection, "SELECT spec FROM job WHERE name = %s", job)
    readers = [] if found is None else _readers(found["spec"], NotifyOn.FAILURE)
    if not readers:
        return
    news = _last_event(connection)
    told = rows(
        connection,
        "SELECT address FROM notification WHERE job = %s AND kind = %s AND run = %s"
        " AND created_at > now() - make_interval(secs => %s)",
        *(job, news["kind"], news["run"], SAME_SECONDS),
    )
    already = {row["address"] for row in told}
    fresh = [reader for reader in readers if reader.address not in already]
    _write(connection, fresh, _of_event(news), about=news["kind"] if news["kind"] in _OF_MANY else None)


def test(connection: Connection, spec: dict[str, Any]) -> list[UUID]:
    """Write a notice to everybody whom a job names, of the event that was recorded last in this session."""
    readers = dict.fromkeys([*_readers(spec, NotifyOn.FAILURE), *_readers(spec, NotifyOn.SUCCESS)])
    return _write(connection, list(readers), _of_event(_last_event(connection)))


def digest(connection: Connection, address: str, facts: dict[str, Any]) -> None:
    """Write a digest; ``facts`` has ``at`` and what the text of a digest needs."""
    _write(connection, [_Reader(Channel.MAIL, address)], {**_FACTS, "kind": str(Kind.DIGEST), **facts})


def _last_event(connection: Connection) -> Row:
    # In two steps: compared with a function that isn't constant, every row of the history would be read.
    number = one_row(connection, "SELECT currval(pg_get_serial_sequence('event', 'id')) AS id")["id"]
    return one_row(connection, "SELECT * FROM v_event WHERE id = %s", number)


def _of_event(news: Row) -> dict[str, Any]:
    shown = jsonable(news)
    return {**_FACTS, "kind": shown["kind"], "at": shown["at"], "job": shown["job"], "event": shown}


def _readers(spec: dict[str, Any], outcome: NotifyOn) -> list[_Reader]:
    wanted, notify = (outcome, NotifyOn.BOTH), spec.get("notify") or {}
    mail, hook = notify.get("mail"), notify.get("webhook")
    found = [_Reader(Channel.MAIL, address) for address in mail["to"]] if mail and mail["on"] in wanted else []
    if hook and hook["on"] in wanted:
        found.append(_Reader(Channel.WEBHOOK, hook["url"], hook["secret_file"]))
    return found


def _write(
    connection: Connection,
    readers: Sequence[_Reader],
    facts: dict[str, Any],
    *,
    number: int | None = None,
    about: str | None = None,
) -> list[UUID]:
    ids = []
    event = facts["event"]
    for reader in readers:
        notice_id = new_id()
        gathers = about if reader.channel is Channel.MAIL else None
        run(
            connection,
            "INSERT INTO notification (id, channel, address, kind, job, run, message_id, facts, secret_file, about,"
            " not_before) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, coalesce(%s, now()))",
            *(notice_id, str(reader.channel), reader.address, facts["kind"], facts["job"]),
            *(number if event is None else event["run"], f"<{notice_id}@{_MESSAGE_DOMAIN}>", Jsonb(facts)),
            *(reader.secret_file, gathers, None if gathers is None else _gathered_at(connection, reader, gathers)),
        )
        ids.append(notice_id)
    return ids


def _gathered_at(connection: Connection, reader: _Reader, about: str) -> datetime | None:
    """Return when a letter goes with others about the same thing; None for at once, where it is the first."""
    found: datetime | None = one_row(
        connection,
        "SELECT max(CASE WHEN not_before > now() THEN not_before ELSE not_before + make_interval(secs => %s) END) AS at"
        " FROM notification WHERE address = %s AND about = %s AND created_at > now() - make_interval(secs => %s)",
        *(GATHER_SECONDS, reader.address, about, _SAME_THING_SECONDS),
    )["at"]
    return found
