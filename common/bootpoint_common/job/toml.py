"""Writes a job file for people: what differs from the defaults, the keys most often edited, and why they are there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bootpoint_common.job.reading import read_json
from bootpoint_common.job.spec import Spec
from bootpoint_common.job.writing import as_json

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")

#: Keys that are written even where they hold the default, because most people want to edit them.
_USEFUL = {
    "": ("name", "time_zone"),
    "source": ("consistency", "disks"),
    "target": ("host", "points", "vm", "storage"),
    "vm": ("name", "cpus", "memory", "firmware"),
    "storage": ("name",),
    "nic": ("network", "mac", "ip"),
    "ip": ("mode",),
    "check": ("verify", "boot"),
}

_COMMENTS = {
    "": "A job of bootpoint. `bootpoint job apply FILE` puts it into effect; docs/job.md explains every key.",
    "source": "What is protected. The first disk is the boot disk.",
    "target": "Where the standby VM is kept. What is left out is taken from the source or from the host.",
    "nic": "One for each network card of the source, in its order.",
    "schedule": "When a boot point is made; several schedules add up.",
    "run": "What starts a run besides the schedule, and what follows a failed or missed one.",
    "scripts": "Programs that run on the source machine.",
    "limits": "What a run may take of the source and of the network.",
    "check": 'How often the newest point is read back, and booted, to prove it; "never" is allowed.',
    "notify": "Who is told when a run ends.",
}

#: Stands where the file has no schedule yet.
_NO_SCHEDULE = """\
# When a boot point is made. Without a schedule only `bootpoint job run` and events make one.
# (needs time_zone = "Area/City" at the top)
# [[schedule]]
# weekly = ["mon", "tue", "wed", "thu", "fri"]
# window = ["07:00", "20:00"]
# every = "30m"
"""


def write_toml(spec: Spec) -> str:
    """Write a job file that `read_toml` reads as the same job."""
    values, defaults = as_json(spec), _defaults(spec)
    top = {key: item for key, item in values.items() if key not in _COMMENTS}
    parts = [_table("", top, defaults, header="")]
    parts.append(_table("source", values["source"], defaults["source"]))
    for target, default in zip(values["target"], defaults["target"], strict=True):
        parts.append(_table("target", {**target, "nic": None}, default, header="[[target]]"))
        parts += [_table("nic", nic, _NIC, header="[[target.nic]]") for nic in target["nic"]]
    parts += [_table("schedule", item, _SCHEDULE, header="[[schedule]]") for item in values["schedule"]]
    if not values["schedule"]:
        parts.append(_NO_SCHEDULE)
    for name in ("run", "scripts", "limits", "check", "notify"):
        parts.append(_table(name, values[name], defaults[name]))
    return "\n".join(_comment_once(part for part in parts if part))


def _defaults(spec: Spec) -> dict[str, Any]:
    """Return what a file with nothing but the required keys of this job would mean."""
    source = {"vm": {"host": "h", "name": "n"}} if spec.source.vm else {"agent": "a"}
    bare = read_json(
        {"name": spec.name, "source": source, "target": [{"host": target.host} for target in spec.targets]}
    )
    defaults = as_json(bare)
    # What the schedules and checks of this job make of the objective is a default too.
    defaults["objective"] = as_json(read_json(as_json(spec) | {"objective": None}))["objective"]
    for key in ("agent", "vm", "image"):
        defaults["source"][key] = None
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


def _table(name: str, values: Mapping[str, Any], defaults: Mapping[str, Any], header: str | None = None) -> str:
    """Write one table; nothing when all of it is default."""
    lines = [f"{_key(key)} = {_value(item, key)}" for key, item in _kept(name, values, defaults).items()]
    if header is None:
        header = f"[{name}]"
    if not lines and not header.startswith("[["):
        return ""
    comment = f"# {_COMMENTS[name]}"
    return "\n".join(line for line in (comment, header, *lines) if line) + "\n"


def _kept(name: str, values: Mapping[str, Any], defaults: Any) -> dict[str, Any]:
    """Leave out nulls and what is default and not worth a line."""
    known = defaults if isinstance(defaults, Mapping) else {}
    useful = _USEFUL.get(name, ())
    kept: dict[str, Any] = {}
    for key, item in values.items():
        if item is None or (item == known.get(key) and key not in useful):
            continue
        value = _kept(key, item, known.get(key)) if isinstance(item, Mapping) else item
        if value != {}:
            kept[key] = value
    return kept


def _comment_once(parts: Any) -> list[str]:
    """Drop a comment that stood above an earlier table of the same kind."""
    seen: set[str] = set()
    result = []
    for part in parts:
        comment, rest = part.split("\n", 1)
        result.append(rest if comment in seen else part)
        seen.add(comment)
    return result


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
