"""What every process of the control plane does for notices: the post of each channel, and looking for news.

News that no step of a run brings are found by looking: objectives that are broken or fulfilled again, the hour of the
digest, notices that nobody sends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from bootpoint_common.notice import NoticeSettings
from bootpoint_common.store import delivery, digest, objective
from bootpoint_common.store.database import Database, present
from bootpoint_common.store.notice import Channel

from .mail import Mail
from .post import Post, note_failure
from .text import Texts
from .webhook import Webhook

#: Seconds between two looks at what is to be sent.
SEND_SECONDS = 2.0

#: Seconds between two looks for news.
LOOK_SECONDS = 30.0


class Round(NamedTuple):
    """What a thread does again and again."""

    name: str
    work: Callable[[], object]
    pause: float


def rounds(database: Database, settings: NoticeSettings, worker: str, stop: threading.Event) -> list[Round]:
    """Return the rounds of a process; one without a mail server leaves mail and digests to others."""
    hooks = Post(database, Channel.WEBHOOK, Webhook(settings), worker=worker, stopping=stop.is_set)
    found = [
        Round("webhooks", hooks.round, SEND_SECONDS),
        Round("news", lambda: look(database, settings, worker), LOOK_SECONDS),
    ]
    if settings.mail is not None:
        mail = Post(database, Channel.MAIL, Mail(settings, _texts(settings)), worker=worker, stopping=stop.is_set)
        found.append(Round("mail", mail.round, SEND_SECONDS))
    return found


def check(settings: NoticeSettings) -> None:
    """Look at the files that the settings name.

    Raises:
        UsageError: ``spec_invalid``: one can't be used.
    """
    Webhook(settings).check()
    if settings.mail is not None:
        Mail(settings, _texts(settings)).check()


def look(database: Database, settings: NoticeSettings, worker: str, at: datetime | None = None) -> None:
    """Look for news once.

    Args:
        database: The truth.
        settings: When the digest is due.
        worker: Name of this process, for the history.
        at: The instant of the look; by default the database's now.
    """
    more = True
    while more:
        with database.transaction() as connection:
            moment = at or present(connection)
            more = objective.review(connection, moment)
    reached = None if settings.mail is None or settings.digest is None else settings.digest.reached(moment)
    if reached is not None:
        with database.transaction() as connection:
            digest.write(connection, *reached, moment)
    with database.transaction() as connection:
        for row in delivery.expire(connection):
            note_failure(connection, row["kind"], row["job"], row["run"], row["problem"], actor=worker)
        delivery.forget(connection)


def _texts(settings: NoticeSettings) -> Texts:
    return Texts(settings.templates)
