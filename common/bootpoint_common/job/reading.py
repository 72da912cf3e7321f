"""From a job file, or the same as JSON, to a `Spec`: every key checked, every default filled in."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping

from bootpoint_common.job import secret, value
from bootpoint_common.job.calendar import read_schedule
from bootpoint_common.job.option import read_check, read_limits, read_notify, read_run, read_scripts
from bootpoint_common.job.placement import read_targets
from bootpoint_common.job.schedule import Schedule, longest_gap
from bootpoint_common.job.spec import (
    Check,
    Consistency,
    Disk,
    Group,
    Limits,
    Objective,
    Scripts,
    Skip,
    Source,
    SourceVm,
    Spec,
)
from bootpoint_common.job.table import BadValue, Problems, Table

#: Objectives are this many times the interval they follow from: one run may fail without an alert.
OBJECTIVE_FACTOR = 2

_NAME = value.matching("[a-z0-9][a-z0-9-]{0,62}", "a name: small letters, digits and -, at most 63")
_AGENT = value.matching("[A-Za-z0-9][A-Za-z0-9_-]{0,62}", "an agent's name: letters, digits, _ and -")
_HOST = value.matching("[A-Za-z0-9][A-Za-z0-9._-]{0,62}", "a host's name as in `bootpoint host list`")
_SLOT = value.matching("[a-z0-9][a-z0-9-]{0,30}", "a slot: small letters, digits and -, at most 31")
_WAIT = value.matching(
    "tcp:(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])",
    'a gate: write "tcp:PORT", such as "tcp:5432"',
)


def read_toml(text: str, origin: str = "job file") -> Spec:
    """Read a job file.

    Args:
        text: The file's content.
        origin: What the messages call the file, such as its path.

    Returns:
        The job with every default filled in.

    Raises:
        SpecError: `spec_invalid` or `secret_in_spec`, with every error of the file.
    """
    problems = Problems(origin)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        problems.add("", BadValue(f"is no TOML: {exc}", hint="correct the file at the place that the message names"))
    except RecursionError:
        problems.add("", BadValue("is nested too deeply", hint="a job file has at most four levels"))
    problems.close()
    # By itself and first: what is a secret must not be repeated by a message about something else.
    for path, problem in secret.find(values, text):
        problems.add(path, problem)
    problems.close()
    return _read(values, problems)


def read_json(obj: object, origin: str = "job") -> Spec:
    """Read a job from the JSON object that `as_json` makes; absent keys and nulls get their defaults.

    Raises:
        SpecError: As for `read_toml`.
    """
    problems = Problems(origin)
    if not isinstance(obj, Mapping):
        problems.add("", BadValue("must be an object with the keys of a job file"))
        problems.close()
        raise AssertionError("unreachable: close raises")
    return _read(obj, problems)


def limits_of(values: Mapping[str, object]) -> Limits:
    """Read the limits of a job alone, from the JSON that `as_json` makes of them.

    Raises:
        SpecError: ``spec_invalid``.
    """
    problems = Problems("job")
    limits = read_limits(Table(values, "limits", problems))
    problems.close()
    return limits


def scripts_of(values: Mapping[str, object]) -> Scripts:
    """Read the scripts of a job alone, from the JSON that `as_json` makes of them.

    Raises:
        SpecError: ``spec_invalid``.
    """
    problems = Problems("job")
    scripts = read_scripts(Table(values, "scripts", problems))
    problems.close()
    return scripts


def _read(values: Mapping[str, object], problems: Problems) -> Spec:
    table = Table(values, "", problems)
    name = table.require("name", _NAME, "job")
    zone = table.take("time_zone", value.time_zone, None)
    schedules = tuple(read_schedule(item) for item in table.tables("schedule"))
    check = read_check(table.table("check"))
    spec = Spec(
        name=name,
        enabled=table.take("enabled", value.boolean, True),
        time_zone=zone,
        objective=_objective(table.table("objective"), schedules, check),
        group=_group(table.table("group")) if table.has("group") else None,
        source=_source(table.table("source")),
        targets=read_targets(table, job=name, host_name=_HOST),
        schedules=schedules,
        run=read_run(table.table("run")),
        scripts=read_scripts(table.table("scripts")),
        limits=read_limits(table.table("limits")),
        check=check,
        notify=read_notify(table.table("notify")),
    )
    _check_together(table, spec)
    table.end()
    problems.close()
    return spec


def _check_together(table: Table, spec: Spec) -> None:
    """Check what no single table can."""
    timed = bool(spec.schedules) or any(rate.window for rate in spec.limits.network)
    if timed and not table.has("time_zone"):
        table.problem(
            "time_zone",
            "is missing: a schedule and limits by time of day need it",
            hint='add time_zone, such as time_zone = "Europe/Rome"',
        )
    disks = spec.source.disks
    for number, target in enumerate(spec.targets):
        if (disks is None or len(disks) > 1) and "{slot}" not in target.storage.disk_name:
            table.problem(
                f"target[{number}].storage.disk_name",
                "would give several disks the same file",
                hint='put {slot} into it, as in "{vm}-{slot}"',
                value=target.storage.disk_name,
            )


def _objective(table: Table, schedules: tuple[Schedule, ...], check: Check) -> Objective:
    gap = longest_gap(schedules)
    point = None if gap is None else gap * OBJECTIVE_FACTOR
    bootable = None if check.boot_seconds is None else check.boot_seconds * OBJECTIVE_FACTOR
    age = value.duration(60.0, value.LONGEST * OBJECTIVE_FACTOR)
    objective = Objective(
        point_seconds=table.take("point", age, point), bootable_seconds=table.take("bootable", age, bootable)
    )
    table.end()
    return objective


def _group(table: Table) -> Group:
    group = Group(
        name=table.require("name", _NAME, "group"),
        order=table.take("order", value.integer(0, 9999), 0),
        wait=table.take("wait", _WAIT, None),
        timeout_seconds=table.take("timeout", value.duration(1.0), 300.0),
    )
    table.end()
    return group


def _source(table: Table) -> Source:
    given = [kind for kind in ("agent", "vm", "image") if table.has(kind)]
    if len(given) != 1:
        table.problem(
            "",
            f"names {' and '.join(given) or 'nothing'} as the source",
            hint="write exactly one of agent, vm and image",
        )
    source = Source(
        agent=table.take("agent", _AGENT, None),
        vm=_source_vm(table.table("vm")) if "vm" in given else None,
        image=table.take("image", value.absolute_path, None),
        consistency=table.take("consistency", value.member(Consistency), Consistency.FS),
        disks=_disks(table),
        skip=tuple(sorted(table.items("skip", value.member(Skip), filled=False), key=list(Skip).index)),
    )
    table.end()
    return source


def _source_vm(table: Table) -> SourceVm:
    vm = SourceVm(host=table.require("host", _HOST, "host"), name=table.require("name", value.text, "vm"))
    table.end()
    return vm


def _disks(table: Table) -> tuple[Disk, ...] | None:
    if not table.has("disks") or table.take("disks", _all_or_list, None) is None:
        return None
    disks: list[Disk] = []
    for entry in table.tables("disks"):
        disk = Disk(entry.require("slot", _SLOT, ""), entry.require("id", value.disk_id, ""))
        entry.end()
        if disk.slot and disk.slot in [other.slot for other in disks]:
            entry.problem("slot", f"{disk.slot!r} is taken by another disk", hint="name each slot once")
        if disk.id and disk.id in [other.id for other in disks]:
            entry.problem("id", f"{disk.id!r} stands in another slot already", hint="name each disk once")
        disks.append(disk)
    if not disks:
        table.problem("disks", "names no disk", hint='name at least one, or write disks = "all"')
    return tuple(disks)


def _all_or_list(found: object) -> bool | None:
    if found == "all":
        return None
    if not isinstance(found, list):
        raise BadValue('must be "all" or a list such as [ { slot = "system", id = "serial:…" } ]')
    return True
