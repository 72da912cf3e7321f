"""``bootpoint history``: everything that happened, who did it, and what was refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bootpoint_common.diskview.text import printable
from bootpoint_common.store import history as store
from bootpoint_common.store.history import Question, Sort
from bootpoint_common.store.shown import jsonable
from bootpoint_ops.cli.output import Session, emit, fields, output_option, say, session, table
from bootpoint_ops.cli.period import exact, local, period
from bootpoint_ops.textfile import replacing

#: Which way a column is sorted unless it is said: newest first, everything else from its smallest value on.
_DESCENDING = (Sort.TIME, Sort.ID)

#: Cells from which on a table has room for where events came from; `history show` has it anywhere.
_WIDE = 140


def _take_sort(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[Sort, bool]:
    """Read ``kind``, ``kind:asc`` or ``kind:desc``."""
    name, _, way = value.partition(":")
    if name not in set(Sort) or way not in ("", "asc", "desc"):
        raise click.BadParameter(f"{value!r} is none of {', '.join(Sort)}, with :asc or :desc behind it if need be")
    return Sort(name), (way == "desc" if way else Sort(name) in _DESCENDING)


@click.group(invoke_without_command=True)
@click.option("--job", metavar="J", help="Only events of this job, which may be gone.")
@click.option("--days", metavar="N", type=click.IntRange(1, 36500), help="Only the last N days; 1 is today.")
@click.option("--from", "since", metavar="D", help="From this day or instant on (2026-12-03, 2026-12-03T09:30:00Z).")
@click.option("--to", "until", metavar="D", help="Up to the end of this day, or up to an instant.")
@click.option(
    "--sort", default="time", show_default=True, metavar="COL", callback=_take_sort,
    help=f"Sort by {', '.join(Sort)}; :asc or :desc behind it says which way.",
)  # fmt: skip
@click.option("--page", "number", default=1, show_default=True, metavar="N", type=click.IntRange(1), help="Which page.")
@click.option(
    "--save", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write all of it to a text file; with -o json as JSON lines.",
)  # fmt: skip
@output_option
def history(number: int, save: Path | None, **which: Any) -> None:
    """Show what happened, 50 events to a page, the newest first; days are those of this machine's time zone."""
    if click.get_current_context().invoked_subcommand is not None:
        return
    asked = _question(**which)
    if save is not None:
        _save(session(), asked, save)
        return
    with session().env.database.snapshot() as connection:
        found = store.page(connection, asked, number)
    items = [jsonable(item) for item in found.items]
    value = {"page": found.number, "pages": found.pages, "total": found.total, "items": items}
    emit(value, lambda out: _show(out, found, items))


def _question(
    *, job: str | None, days: int | None, since: str | None, until: str | None, sort: tuple[Sort, bool]
) -> Question:
    span = period(days, since, until, now=datetime.now(UTC))
    return Question(job=job, since=span.since, until=span.until, sort=sort[0], descending=sort[1])


def _show(out: Console, found: store.Page, items: list[dict[str, Any]]) -> None:
    origin = out.width >= _WIDE
    lines = [
        (
            item["id"], local(item["at"]), item["actor"], *([item["origin"]] if origin else []), item["job"],
            item["run"], item["kind"], printable(item["text"]) + (f" ({item['code']})" if item["code"] else ""),
        )
        for item in items
    ]  # fmt: skip
    columns = (">ID", "TIME", "ACTOR", *(["ORIGIN"] if origin else []), "JOB", ">RUN", "KIND", "TEXT")
    table(columns, lines, empty="nothing happened")(out)
    if found.pages > 1:
        out.print(f"page {found.number} of {found.pages}, {found.total} events", markup=False)


def _save(here: Session, asked: Question, path: Path) -> None:
    """Write all events to a file, in the order asked for."""
    write = _json_line if here.json else _text_line
    count = 0
    with here.env.database.snapshot() as connection, replacing(path) as file:
        for item in store.every(connection, asked):
            file.write(write(jsonable(item)) + "\n")
            count += 1
    say(f"{count} events written to {path}", {"file": str(path), "events": count})


def _json_line(item: dict[str, Any]) -> str:
    return json.dumps(item, ensure_ascii=False)


def _text_line(item: dict[str, Any]) -> str:
    """Return an event as one line, whatever its text holds: when, number, kind, text, then all else that it has."""
    rest = {name: item[name] for name in ("code", "job", "run", "point", "host", "agent") if item[name] is not None}
    words = [f"{name}={printable(value)}" for name, value in rest.items()]
    words += [f"actor={printable(item['actor'])}"]
    words += [f"origin={printable(item['origin'])}"] if item["origin"] is not None else []
    words += [f"details={json.dumps(item['details'], ensure_ascii=True)}"] if item["details"] is not None else []
    return f"{exact(item['at'])}  {item['id']}  {item['kind']}: {printable(item['text'])}  [{'; '.join(words)}]"


@history.command()
@click.argument("number", metavar="ID", type=int)
@output_option
def show(number: int) -> None:
    """Show an event with all its details."""
    with session().env.database.transaction() as connection:
        item = jsonable(store.get(connection, number))
    details = item["details"] or {}
    pairs = [
        *(("event", item["id"]), ("time", f"{local(item['at'])} (UTC {item['at']})"), ("kind", item["kind"])),
        ("what", printable(item["text"])),
        *((name, item[name]) for name in ("code", "actor", "origin", "job", "run", "point", "host", "agent")),
        *((name, _detail(value)) for name, value in details.items()),
    ]
    emit(item, fields([(name, value) for name, value in pairs if value is not None]))


def _detail(value: object) -> str:
    return printable(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
