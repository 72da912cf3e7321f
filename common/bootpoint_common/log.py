"""Structured logs on the standard library: a static event text, and fields.

Fields that hold for a whole task (job, run, boot point, disk) are bound once with `bind` and go with every line
that the task writes, those of libraries included. They belong to the thread or the task that bound them: a new
thread starts with none.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TextIO

from bootpoint_common.config import LogFormat, LogLevel

_bound: ContextVar[Mapping[str, object]] = ContextVar("bootpoint_log_fields", default={})  # noqa: B039 - never changed


class Log:
    """Writes events of one module.

    Args:
        name: The module's ``__name__``.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, /, **fields: object) -> None:
        """Write what only the developer of the code wants to know."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Write what an operator reads later to understand what happened."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Write what went another way than it should, and was made good."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Write what failed."""
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """Write what failed, with the traceback of the exception at hand."""
        self._write(logging.ERROR, event, fields, traceback=True)

    def _write(self, level: int, event: str, fields: dict[str, object], *, traceback: bool = False) -> None:
        # The event goes in as an argument, so that a % in it is only a %.
        self._logger.log(level, "%s", event, extra={"fields": fields}, exc_info=traceback, stacklevel=3)


@contextmanager
def bind(**fields: object) -> Iterator[None]:
    """Add fields to every line that is written inside; inner ones win over outer ones of the same name."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def bound() -> Mapping[str, object]:
    """Return the fields that are bound here, to bind them again in a thread of one's own."""
    return dict(_bound.get())


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Return the fields of a record: what is bound here, then its own."""
    return {**_bound.get(), **getattr(record, "fields", {})}


class JsonFormatter(logging.Formatter):
    """One object a line: at, level, event, logger, then the fields, and the traceback under ``error``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "at": _instant(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
        }
        for name, value in fields_of(record).items():
            # A field never hides what every line has.
            line[f"{name}_" if name in line else name] = value
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=_plain, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """A line for people: ``2026-12-03T09:30:00.120Z info     watermark recorded  run=4711 disk=system``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and below it the traceback if there is one."""
        fields = " ".join(f"{name}={_readable(value)}" for name, value in fields_of(record).items())
        line = f"{_instant(record)} {record.levelname.lower():8} {record.getMessage()}"
        if fields:
            line += f"  {fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure(log_format: LogFormat, level: LogLevel = LogLevel.INFO, stream: TextIO | None = None) -> None:
    """Send all logs of the process to a stream, in place of what was set up before.

    Args:
        log_format: How lines look.
        level: The least important lines that are written; libraries write warnings and errors only.
        stream: By default standard error.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.JSON else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for package in ("bootpoint_common", "bootpoint_producer", "bootpoint_worker", "bootpoint_ops"):
        logging.getLogger(package).setLevel(level.upper())
    # What pika meets is raised, and logged by us once, with its reason: not as pages of traceback at each attempt.
    logging.getLogger("pika").setLevel(logging.CRITICAL)


def silence() -> None:
    """Keep what libraries log off standard error, until `configure` says otherwise.

    For a process that says itself what it has to say, in the form that it was asked for. Where logging isn't set up,
    Python writes warnings to standard error; psycopg warns of each transaction that an interrupt cuts off.
    """
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())


def _instant(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: object) -> object:
    """Turn what JSON doesn't know into what it does."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return str(value)


def _readable(value: object) -> str:
    """Write a field's value on one line: bare where it is a word, else quoted as in JSON."""
    plain = value if isinstance(value, str | int | float | None) else _plain(value)
    found = str(plain)
    if found and found.isprintable() and not any(char in found for char in ' ="'):
        return found
    return json.dumps(found, ensure_ascii=False)
