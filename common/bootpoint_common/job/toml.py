"""Writes a complete job file for people: every key, those that hold their default or nothing as comments.

A key that isn't set stands behind a ``#`` without a space, so that taking it away sets the key; all other comments
have the space.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from bootpoint_common.job.key import SECTIONS, Key
from bootpoint_common.job.reading import read_json
from bootpoint_common.job.spec import Spec
from bootpoint_common.job.writing import as_json

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")

#: Column of the comments beside keys, and the longest line with one.
_COLUMN, _WIDTH = 44, 120

#: Keys of a schedule of which one excludes the others.
_RULES = ("weekly", "monthly", "once")

#: What a comment says besides `Key.comment`, by the key's path.
Notes = Mapping[str, str]


def write_toml(spec: Spec, notes: Notes | None = None) -> str:
    """Write a job file that `read_toml` reads as the same job.

    Args:
        spec: The job.
        notes: What stands beside a key in place of the usual comment, by its path: ``target[0].nic[0].network``; for
            an entry of ``source.disks`` beside that, for ``source`` above the table.
    """
    values, defaults = as_json(spec), _defaults(spec)
    writer = _Writer(notes or {})
    for path in ("", "objective", "group", "source"):
        writer.section(path, values[path] if path else values, defaults[path] if path else defaults)
    for number, target in enumerate(values["target"]):
        _target(writer, f"target[{number}]", target, defaults["target"][number])
    _schedules(writer, values["schedule"])
    writer.section("run", values["run"], defaults["run"])
    for name in ("on_shutdown", "retry"):
        writer.section(f"run.{name}", values["run"][name], defaults["run"][name])
    for name in ("before_snapshot", "after_snapshot", "after_point"):
        writer.section(f"scripts.{name}", values["scripts"][name], {})
    for name in ("limits", "check"):
        writer.section(name, values[name], defaults[name])
    for name in ("mail", "webhook"):
        writer.section(f"notify.{name}", values["notify"][name], {})
    return writer.text()


def _target(writer: _Writer, place: str, target: Mapping[str, Any], default: Mapping[str, Any]) -> None:
    writer.section("target", target, default, place=place)
    for name in ("vm", "storage"):
        writer.section(f"target.{name}", target[name], default[name], place=f"{place}.{name}")
    for number, nic in enumerate(target["nic"] or [None]):
        at = f"{place}.nic[{number}]"
        writer.section("target.nic", nic, _NIC, place=at)
        writer.section("target.nic.ip", nic and nic["ip"], _NIC["ip"], place=f"{at}.ip")


def _schedules(writer: _Writer, schedules: Sequence[Mapping[str, Any]]) -> None:
    for number, schedule in enumerate(schedules):
        kept = {name for name in _RULES if schedule[name] is not None}
        hidden = set(_RULES) - kept | ({"window", "every", "effective"} if "once" in kept else set())
        writer.section("schedule", schedule, _SCHEDULE, place=f"schedule[{number}]", hidden=hidden)
    if not schedules:
        writer.section("schedule", None, _SCHEDULE, hidden={"monthly", "once"})
        writer.section("schedule", None, _SCHEDULE, hidden={"weekly", "once", "every", "effective"})
        writer.section("schedule", None, _SCHEDULE, hidden={"weekly", "monthly", "window", "every", "effective"})


def _defaults(spec: Spec) -> dict[str, Any]:
    """Return what a file with nothing but the required keys of this job would mean."""
    source = {"vm": {"host": "h", "name": "n"}} if spec.source.vm else {"agent": "a"}
    bare = read_json(
        {"name": spec.name, "source": source, "target": [{"host": target.host} for target in spec.targets]}
    )
    defaults = as_json(bare)
    # What the schedules and checks of this job make of the objective is a default too.
    defaults["objective"] = as_json(read_json(as_json(spec) | {"objective": None}))["objective"]
    defaults["group"] = {}
    defaults["source"] |= dict.fromkeys(("agent", "vm", "image"))
    return defaults


_BARE = as_json(
    read_json(
        {
            "name": "n",
            "time_zone": "UTC",
            "source": {"agent": "a"},
            "target": [{"host": "h", "nic": [{}]}],
            "schedule": [{"weekly": ["mon"]}],
        }
    )
)
_NIC: dict[str, Any] = _BARE["target"][0]["nic"][0]
_SCHEDULE: dict[str, Any] = _BARE["schedule"][0] | {"weekly": None}


class _Writer:
    """Puts the file together table by table.

    Args:
        notes: As in `write_toml`.
    """

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._parts: list[str] = []
        self._said: set[str] = set()

    def text(self) -> str:
        """Return the file."""
        return "\n".join(self._parts)

    def section(
        self,
        path: str,
        values: Mapping[str, Any] | None,
        defaults: Mapping[str, Any],
        *,
        place: str | None = None,
        hidden: set[str] | None = None,
    ) -> None:
        """Write one table; as comments where the job has none.

        Args:
            path: Its path in `SECTIONS`.
            values: The job's, None where it has none.
            defaults: What each key means where it is left out.
            place: Its path in this file, by default ``path``.
            hidden: Keys that are left out.
        """
        section = SECTIONS[path]
        lines = self._comments(section.comment, self._notes.get(path if place is None else place))
        if path:
            header = f"[[{path}]]" if section.repeated else f"[{path}]"
            lines.append(header if values is not None else f"#{header}")
        for key in section.keys:
            if key.name not in (hidden or ()):
                at = f"{path if place is None else place}.{key.name}".lstrip(".")
                lines.extend(self._key(key, values, defaults, at))
        self._parts.append("\n".join(lines) + "\n")

    def _comments(self, comment: str, note: str | None) -> list[str]:
        """Return what stands above a table; the usual comment only above the first of its kind."""
        said = "" if comment in self._said else comment
        self._said.add(comment)
        return [f"# {line}" for text in (said, note or "") for line in text.splitlines()]

    def _key(self, key: Key, values: Mapping[str, Any] | None, defaults: Mapping[str, Any], at: str) -> Iterator[str]:
        value, default = None if values is None else values[key.name], defaults.get(key.name)
        is_set = value is not None and (key.live or key.name not in defaults or value != default)
        if key.other and not is_set:
            yield from _beside(f"# {_pair(key.name, key.example)}", self._notes.get(at, key.comment))
        elif is_set and key.name == "disks" and isinstance(value, list):
            yield from self._disks(value, at, key.comment)
        else:
            # A list that is empty by default says nothing of its form.
            shown = next((each for each in (value, default) if each not in (None, [])), key.example)
            yield from _beside(("" if is_set else "#") + _pair(key.name, shown), self._notes.get(at, key.comment))

    def _disks(self, disks: Sequence[Mapping[str, Any]], at: str, comment: str) -> Iterator[str]:
        yield from _beside("disks = [", self._notes.get(at, comment))
        for number, disk in enumerate(disks):
            yield from _beside(f"  {_value(disk)},", self._notes.get(f"{at}[{number}]", ""))
        yield "]"


def _beside(line: str, comment: str) -> Iterator[str]:
    """Yield a line with its comment beside it; above it where both are too long."""
    if not comment:
        yield line
        return
    together = f"{line:<{_COLUMN}}  # {comment}"
    if len(together) > _WIDTH:
        yield f"# {comment}"
        yield line
    else:
        yield together


def _pair(key: str, value: Any) -> str:
    return f"{key} = {_value(value, key)}"


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _text(key)


def _value(value: Any, key: str = "") -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        # Instants are the only values that TOML knows better than JSON.
        return datetime.fromisoformat(value).isoformat() if key in ("once", "effective") else _text(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(name)} = {_value(item)}" for name, item in value.items() if item is not None)
        return f"{{ {inner} }}"
    return "[" + ", ".join(_value(item, key) for item in value) + "]"


def _text(value: str) -> str:
    """Write a basic string; JSON's escapes are TOML's, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
