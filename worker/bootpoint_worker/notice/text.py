"""The texts of mail, by templates: shipped ones, or those of the installation in their place.

A template's first line is ``Subject: …``, then follow an empty line and the text. Whatever is put into it becomes one
line without control characters, so that no name and no message can add a header or a line of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import (
    BaseLoader,
    ChoiceLoader,
    Environment,
    FileSystemLoader,
    PackageLoader,
    StrictUndefined,
    TemplateError,
)

from bootpoint_common.alert import ALERTS
from bootpoint_common.diskview.text import printable
from bootpoint_common.errors import CODES, Code, error
from bootpoint_common.store.notice import Kind
from bootpoint_common.units import format_duration, format_size

_log = logging.getLogger(__name__)

#: Longest subject, in characters: what mail programs show of one, and more.
_SUBJECT = 200

#: What is tried at start, so that an error in a template is met there.
NAMES = ("run.txt", "alert.txt", "together.txt", "digest.txt")


class Texts:
    """Writes subjects and texts.

    Args:
        directory: Where templates of the installation lie; one that isn't there is bootpoint's own.
    """

    def __init__(self, directory: Path | None = None) -> None:
        own: BaseLoader = PackageLoader("bootpoint_worker.notice")
        self._own = _environment(own)
        self._environment = self._own if directory is None else _environment(
            ChoiceLoader([FileSystemLoader(directory), own])
        )  # fmt: skip

    def check(self) -> None:
        """Read every template.

        Raises:
            UsageError: ``spec_invalid``: one can't be read.
        """
        for name in NAMES:
            try:
                self._environment.get_template(name)
            except (TemplateError, OSError, UnicodeDecodeError) as exc:
                raise error(
                    Code.SPEC_INVALID, f"the template {name} can't be used: {exc}", key="BOOTPOINT_MAIL_TEMPLATES",
                    value=name, hint="correct it, or remove it: then bootpoint's own text is sent",
                ) from exc  # fmt: skip

    def write(self, kind: str, facts: Mapping[str, Any]) -> tuple[str, str]:
        """Return subject and text of a notice.

        A template of the installation that fails with these facts is passed over: the news matters more than its words.
        """
        name = "run.txt" if facts["run"] else "alert.txt"
        if kind == Kind.DIGEST:
            name = "digest.txt"
        elif "others" in facts:
            name = "together.txt"
        values = {**facts, **_about(facts)}
        try:
            whole = self._environment.get_template(name).render(values)
        except Exception as exc:  # noqa: BLE001 - a template may do whatever Python can; bootpoint's own takes its place
            _log.warning("template failed", extra={"fields": {"template": name, "cause": str(exc)}})
            whole = self._own.get_template(name).render(values)
        first, _, text = whole.partition("\n")
        return _one_line(first.removeprefix("Subject:"))[:_SUBJECT], text.strip("\n") + "\n"


def _environment(loader: BaseLoader) -> Environment:
    # Nothing is escaped for HTML: this is plain text.
    made = Environment(  # noqa: S701
        loader=loader, undefined=StrictUndefined, finalize=_one_line, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    made.filters |= {"size": format_size, "duration": format_duration, "instant": _instant, "total": _total}
    made.filters["took"] = _took
    return made


def _one_line(value: object) -> str:
    return "-" if value is None else printable(" ".join(str(value).split()))


def _instant(value: str | None) -> str | None:
    """Write an instant for people: ``2026-12-03 10:00:04 UTC``."""
    return None if value is None else f"{datetime.fromisoformat(value):%Y-%m-%d %H:%M:%S} UTC"


def _took(run: Mapping[str, Any]) -> float | None:
    if run["started_at"] is None or run["ended_at"] is None:
        return None
    return (datetime.fromisoformat(run["ended_at"]) - datetime.fromisoformat(run["started_at"])).total_seconds()


def _total(disks: list[Mapping[str, Any]], key: str) -> int | None:
    known = [disk[key] for disk in disks if disk[key] is not None]
    return sum(known) if known else None


def _about(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what templates know beside the facts: what an alert is called, and what to do."""
    event = facts["event"]
    if event is None:
        return {"title": None, "hint": None}
    known = ALERTS.get(event["kind"])
    if known is None:
        code = event["code"] if event["code"] in set(CODES) else None
        return {"title": event["kind"], "hint": None if code is None else CODES[Code(code)].hint}
    places = {"job": event["job"], "host": event["host"] or "the host", "point": event["point"] or "P"}
    return {"title": known.title, "hint": known.hint.format_map(places)}
