"""Answers of a worker to live questions: what a host has, its VMs and their points, and whether a job could run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.job import read_json
from bootpoint_common.store import event
from bootpoint_common.store import host as hosts
from bootpoint_common.store import job as jobs
from bootpoint_common.store import request as requests
from bootpoint_common.store.database import one, present
from bootpoint_common.store.host import Host
from bootpoint_common.store.job import ReplicaRow
from bootpoint_common.store.request import Request
from bootpoint_worker import rescan, trash, vm
from bootpoint_worker.asking import host_of, session
from bootpoint_worker.context import Context
from bootpoint_worker.hostinfo import info_as_json, unsupported
from bootpoint_worker.preflight import check
from bootpoint_worker.replica import from_json
from bootpoint_worker.selftest import selftest
from bootpoint_worker.targets import fetch_fingerprint


def answer(context: Context, request: Request) -> dict[str, Any]:
    """Answer a request.

    Args:
        context: Database, installation's key and sessions.
        request: Its row.

    Returns:
        The answer.

    Raises:
        BootpointError: What is answered instead.
    """
    found = _ANSWERS.get(request.kind)
    if found is None:
        raise error(Code.SPEC_INVALID, f"workers don't answer {request.kind!r}", key="kind", value=request.kind)
    return found(context, request)


def answer_request(context: Context, request_id: UUID) -> None:
    """The actor: answer a request that nobody has answered and that hasn't expired."""
    with context.database.transaction() as connection:
        found, now = requests.get(connection, request_id), present(connection)
    if found is None or found.state != "asked" or found.expires_at < now:
        return
    value, problem = None, None
    try:
        value = answer(context, found)
    except BootpointError as exc:
        problem = exc
    with context.database.transaction() as connection:
        requests.answer(connection, request_id, value, problem)


def _host_check(context: Context, request: Request) -> dict[str, Any]:
    """Ask the host how it is, and keep the answer; a host that doesn't answer is an answer too."""
    host = host_of(context, request)
    info, problem = None, None
    with context.database.transaction() as connection:
        used = hosts.storages(connection, host.id)
    try:
        with session(context, request, host) as target:
            found = target.inspect_host(used)
            info, problem = info_as_json(found, target), unsupported(host.name, found)
    except BootpointError as exc:
        problem = exc
    with context.database.transaction() as connection:
        hosts.checked(connection, host.id, info, problem)
    return {"info": info, "error": None if problem is None else problem.as_json()}


def _host_fingerprint(_context: Context, request: Request) -> dict[str, Any]:
    """Ask an address for the key that it shows, before anything is trusted or sent."""
    arguments = request.arguments
    where = arguments["kind"], arguments["address"], arguments["port"]
    return {"fingerprint": fetch_fingerprint(*where, arguments.get("settings") or {})}


def _preflight(context: Context, request: Request) -> dict[str, Any]:
    """Check one target of a job that may not be stored yet: ``spec``, ``host``, and ``replica`` if there is one."""
    arguments = request.arguments
    with context.database.transaction() as connection:
        host = hosts.by_name(connection, arguments["host"])
        known = None if arguments.get("replica") is None else jobs.replica(connection, UUID(arguments["replica"]))
        agent = one(connection, "SELECT id FROM agent WHERE name = %s", arguments["spec"]["source"]["agent"])
    if agent is None:
        name = arguments["spec"]["source"]["agent"]
        raise error(Code.NO_SUCH_AGENT, f"there is no agent {name}", key="source.agent", value=name)
    name = arguments["spec"]["name"]
    row = known or _unborn(request.id, name, host)
    plan = check(context, read_json(arguments["spec"]), agent["id"], row, fresh=True)
    standby = plan.replica
    return {
        **plan.as_json(),
        "line": plan.line,
        "vm": {
            "name": standby.vm_name,
            "cpus": standby.cpus,
            "memory_bytes": standby.memory_bytes,
            "firmware": standby.firmware,
            "networks": [nic.network for nic in standby.nics],
        },
        "disks": [{"slot": disk.slot, "id": disk.id, "size_bytes": disk.size_bytes} for disk in plan.disks],
    }


def _unborn(replica_id: UUID, job: str, host: Host) -> ReplicaRow:
    """Return the row of a replica that an apply would make."""
    return ReplicaRow(
        id=replica_id, job_id=None, job_name=job, host_id=host.id, host=host.name, pool=host.pool, state="ok", epoch=1,
        chain=1, head=None, definition=None, standby="off", drift=None,
    )  # fmt: skip


def _host_rescan(context: Context, request: Request) -> dict[str, Any]:
    """Compare what a host has of replicas with what the database has; with ``adopt``, begin to take over the rest."""
    host, actor = host_of(context, request), str(request.arguments.get("actor", "worker"))
    adopting = bool(request.arguments.get("adopt"))
    with session(context, request, host) as target:
        items = rescan.compare(context.database, target, host)
        if adopting:
            for item in items:
                trash.take_back(context, target, item, actor=actor)
    with context.database.transaction() as connection:
        rescan.mark(connection, host, items, actor=actor)
        begun = {i.replica_id: rescan.begin(connection, host, i, actor=actor) for i in items} if adopting else {}
    return {"host": host.name, "items": [item.as_json(begun.get(item.replica_id)) for item in items]}


def _may_be_deleted(context: Context, request: Request) -> dict[str, Any]:
    """Ask a replica's host whether anything speaks against its deletion; nothing is changed."""
    with context.database.transaction() as connection:
        row = jobs.replica(connection, UUID(request.arguments["replica"]))
        if row is None or row.definition is None:
            return {"on_host": False}
        host = hosts.get(connection, row.host_id)
    with session(context, request, host) as target:
        target.discard(from_json(row.definition), datetime.now(UTC), dry_run=True)
    return {"on_host": True}


def _selftest(context: Context, request: Request) -> dict[str, Any]:
    """Try a host out with a throw-away standby; what failed is part of the answer."""
    host, actor = host_of(context, request), str(request.arguments.get("actor", "worker"))
    with session(context, request, host) as target:
        found = selftest(target, host.name, host.kind, request.arguments.get("storage"))
    with context.database.transaction() as connection:
        ended = "passed" if found.passed else "failed"
        event.record(connection, "host_selftest", f"selftest of host {host.name} {ended}", actor=actor, host=host.name)
    return found.as_json()


_ANSWERS: dict[str, Callable[[Context, Request], dict[str, Any]]] = {
    "host_show": _host_check,
    "host_check": _host_check,
    "host_fingerprint": _host_fingerprint,
    "host_rescan": _host_rescan,
    "preflight": _preflight,
    "selftest": _selftest,
    "may_be_deleted": _may_be_deleted,
    **vm.ANSWERS,
}
