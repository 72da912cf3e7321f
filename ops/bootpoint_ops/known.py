"""What a job names against what there is: agents and their disks, hosts with their storages, networks and devices.

What the job had before isn't looked at again: a disk that is away today must not keep other jobs from being applied.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.job import Nic, Spec, Storage, Target
from bootpoint_common.near import did_you_mean, nearest
from bootpoint_common.store import trash
from bootpoint_common.store.database import Connection, Row, one, rows
from bootpoint_common.store.host import by_name
from bootpoint_worker.preflight import require_login

#: Most boot points of a replica, by kind of host (`Target.point_limit` of its driver).
POINT_LIMITS = {"kvm": 22, "esxi": 30, "hyperv": 30, "fake": 22}

#: Stands for a card that wasn't there before: nothing that one can have is like it.
_NO_CARD = Nic(network="", model="")

#: Likewise for the storage of a target that is new.
_NO_STORAGE = Storage(name="")


def problems(connection: Connection, spec: Spec, before: Spec | None) -> list[BootpointError]:
    """Return everything that speaks against a job, each with its key and its value.

    Args:
        connection: A transaction.
        spec: The job.
        before: The job as it is; None for a new one.
    """
    agent = _agent(connection, spec)
    if isinstance(agent, BootpointError):
        found = [agent]
        machine: Mapping[str, Any] = {}
    else:
        found = list(_disks(spec, before, agent["inventory"]))
        machine = (agent["inventory"] or {}).get("machine") or {}
    hosts = {row["name"]: row for row in rows(connection, "SELECT name, kind, info FROM host")}
    olds = {target.host: target for target in before.targets} if before is not None else {}
    for number, target in enumerate(spec.targets):
        row = hosts.get(target.host)
        if row is None:
            text = f"there is no host {target.host}{did_you_mean(target.host, hosts)}"
            against = [error(Code.NO_SUCH_HOST, text, key="host", value=target.host)]
        else:
            against = [*_host(connection, spec, target, row)]
            against += _offer(target, row["info"] or {}, olds.get(target.host), machine)
        for problem in against:
            problem.key = f"target[{number}].{problem.key}"
        found += against
    for problem in found:
        problem.job = spec.name
    return found


def runs_by_itself(spec: Spec) -> bool:
    """Tell whether anything starts a run of a job but a person: a schedule or an event."""
    return spec.enabled and bool(spec.schedules or spec.run.on_shutdown.enabled or spec.run.on_restart)


def warnings(spec: Spec, now: datetime) -> Iterator[str]:
    """Yield what is allowed and most likely a slip: schedules that are over.

    Args:
        spec: The job.
        now: The instant, aware.
    """
    here = now.astimezone(ZoneInfo(spec.time_zone or "UTC")).replace(tzinfo=None)
    for number, schedule in enumerate(spec.schedules):
        if schedule.once is not None and schedule.once < here:
            yield f"schedule[{number}].once = {schedule.once.isoformat()} is over: no run comes of it"
        elif schedule.effective is not None and schedule.effective[1] <= here:
            yield f"schedule[{number}].effective ended at {schedule.effective[1].isoformat()}: no run comes of it"


def in_trash(connection: Connection, spec: Spec) -> Iterator[str]:
    """Yield which boot points a job that was deleted could take back, before a run makes others."""
    for target in spec.targets:
        found = trash.returnable(connection, spec.name, target.host)
        if found is not None:
            count = f"{found.points} boot point{'' if found.points == 1 else 's'}"
            yield (
                f"the trash of {target.host} holds {count} of a deleted job of this name:"
                f" `bootpoint host rescan {target.host} --adopt` takes them back, but not after the first run"
            )


def _agent(connection: Connection, spec: Spec) -> Row | BootpointError:
    name = spec.source.agent
    if name is None:
        key = "source.vm" if spec.source.vm is not None else "source.image"
        hint = "run an agent on the machine: source.agent"
        return error(Code.SOURCE_INELIGIBLE, f"{key} is not served yet", key=key, hint=hint)
    found = one(connection, "SELECT inventory FROM agent WHERE name = %s", name)
    if found is not None:
        return found
    known = [row["name"] for row in rows(connection, "SELECT name FROM agent")]
    return error(
        Code.NO_SUCH_AGENT,
        f"there is no agent {name}{did_you_mean(name, known)}",
        key="source.agent",
        value=name,
        hint=f"`bootpoint agent enroll {name}` makes it; `bootpoint agent list` lists them",
    )


def _disks(spec: Spec, before: Spec | None, inventory: Mapping[str, Any] | None) -> Iterator[BootpointError]:
    if inventory is None or spec.source.disks is None:
        return
    items = {item["id"]: item for item in inventory["items"]}
    had = set(before.source.disks or ()) if before is not None else set()
    agent = spec.source.agent
    for number, disk in enumerate(spec.source.disks):
        item = items.get(disk.id)
        if disk in had or (item is not None and (item["eligible"] or item["reason"] == "offline")):
            continue
        key = f"source.disks[{number}].id"
        if item is None:
            text = f"agent {agent} has no disk {disk.id}{did_you_mean(disk.id, items)}"
            hint = f"`bootpoint disk list {agent}` lists its disks: {', '.join(sorted(items)) or 'none'}"
            yield error(Code.DISK_MISSING, text, key=key, value=disk.id, hint=hint)
        else:
            text = f"disk {disk.id} of agent {agent} can't be protected: {item['reason']}"
            yield error(Code.SOURCE_INELIGIBLE, text, key=key, value=disk.id)


def _host(connection: Connection, spec: Spec, target: Target, row: Row) -> Iterator[BootpointError]:
    """Yield what the kind of a host and its credentials say against a target; keys are below the target."""
    limit = POINT_LIMITS.get(row["kind"])
    if limit is not None and target.points > limit:
        yield error(
            Code.SPEC_INVALID,
            f"a host of kind {row['kind']} keeps at most {limit} points",
            key="points",
            value=target.points,
            hint=f"write {limit} or less",
        )
    if runs_by_itself(spec):
        try:
            require_login(by_name(connection, target.host))
        except BootpointError as problem:
            problem.message += ", so no schedule or event can use it"
            problem.key, problem.value = "host", target.host
            yield problem


def _offer(
    target: Target, info: Mapping[str, Any], old: Target | None, machine: Mapping[str, Any]
) -> Iterator[BootpointError]:
    """Yield what a target wants of its host and that doesn't have, as far as it told; keys are below the target."""
    storage, was = target.storage, old.storage if old is not None else _NO_STORAGE
    names = [each["name"] for each in info.get("storages") or ()]
    if names and not posixpath.isabs(storage.name) and storage.name not in (*names, was.name):
        yield _unknown(Code.STORAGE_UNKNOWN, target.host, "storage", storage.name, names, key="storage.name")
    buses = info.get("buses") or ()
    if buses and storage.bus is not None and storage.bus not in (*buses, was.bus):
        yield _unknown(Code.HOST_UNSUPPORTED, target.host, "disk bus", storage.bus, buses, key="storage.bus")
    pools = info.get("resource_pools") or ()
    if pools and storage.resource_pool and storage.resource_pool not in (*pools, was.resource_pool):
        key, pool = "storage.resource_pool", storage.resource_pool
        yield _unknown(Code.HOST_UNSUPPORTED, target.host, "resource pool", pool, pools, key=key)
    yield from _cards(target, info, old, machine)


def _cards(
    target: Target, info: Mapping[str, Any], old: Target | None, machine: Mapping[str, Any]
) -> Iterator[BootpointError]:
    networks = [each["name"] for each in info.get("networks") or ()]
    models = info.get("nic_models") or ()
    had = old.nics if old is not None else ()
    if len(networks) > 1 and not target.nics and machine.get("nics") and old is None:
        yield _choose(target.host, networks, "nic")
    for number, nic in enumerate(target.nics):
        was = had[number] if number < len(had) else _NO_CARD
        key = f"nic[{number}]"
        if nic.network is None and len(networks) > 1 and was.network is not None:
            yield _choose(target.host, networks, f"{key}.network")
        if nic.network is not None and networks and nic.network not in (*networks, was.network):
            yield _unknown(Code.NETWORK_UNKNOWN, target.host, "network", nic.network, networks, key=f"{key}.network")
        if nic.model is not None and models and nic.model not in (*models, was.model):
            yield _unknown(Code.HOST_UNSUPPORTED, target.host, "network card", nic.model, models, key=f"{key}.model")


def _choose(host: str, networks: Iterable[str], key: str) -> BootpointError:
    listed = ", ".join(networks)
    return error(
        Code.NETWORK_UNKNOWN,
        f"host {host} has several networks ({listed}): say which one the standby is on",
        key=key,
        host=host,
        hint='name it with [[target.nic]] network = "…"',
    )


def _unknown(code: Code, host: str, what: str, value: str, known: Iterable[str], *, key: str) -> BootpointError:
    listed, near = ", ".join(sorted(known)), nearest(value, known)
    text = f"host {host} has no {what} {value!r}; it has: {listed}{did_you_mean(value, known)}"
    hint = f'write "{near}"' if near else f"write one of {listed}"
    return error(code, text, key=key, value=value, host=host, hint=hint)
