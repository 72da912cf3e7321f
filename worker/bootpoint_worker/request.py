"""Answers of a worker to live questions: what a host has, its VMs and their points, and whether a job could run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.job import read_json
from bootpoint_common.store import event
from bootpoint_common.store import host as hosts
from bootpoint_common.store import job as jobs
from bootpoint_common.store import request as requests
from bootpoint_common.store.database import one, run
from bootpoint_common.store.host import Host
from bootpoint_common.store.job import ReplicaRow
from bootpoint_common.store.request import Request
from bootpoint_worker import rescan
from bootpoint_worker.context import Context, access_of
from bootpoint_worker.hostinfo import info_as_json, unsupported, vm_as_json
from bootpoint_worker.preflight import check, require_login
from bootpoint_worker.replica import from_json, replica_of
from bootpoint_worker.targets import connect
from bootpoint_worker.targets.base import Journal, Replica, StartRequest, Target

#: A password that is not saved travels in the request's secret as a JSON object of these fields.
SECRET_FIELDS = ("ssh_key", "password")


def secret_purpose(request_id: UUID) -> str:
    """Return what a request's secret is bound to when the installation's key encrypts it."""
    return f"request {request_id}"


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
        found = requests.get(connection, request_id)
    if found is None or found.state != "asked" or found.expires_at < datetime.now(UTC):
        return
    value, problem = None, None
    try:
        value = answer(context, found)
    except BootpointError as exc:
        problem = exc
    with context.database.transaction() as connection:
        requests.answer(connection, request_id, value, problem)


@contextmanager
def _session(context: Context, request: Request, host: Host) -> Iterator[Target]:
    """Lend a session: a kept one, or one of its own when the request brings credentials that are not saved."""
    if request.secret is None:
        require_login(host)
        with context.sessions.use(host) as target:
            yield target
        return
    fields = json.loads(context.vault.decrypt(secret_purpose(request.id), request.secret))
    target = connect(access_of(host, context.vault, {name: fields[name] for name in SECRET_FIELDS if fields.get(name)}))
    try:
        yield target
    finally:
        target.close()


def _host(context: Context, request: Request) -> Host:
    with context.database.transaction() as connection:
        return hosts.by_name(connection, request.arguments["host"])


def _host_check(context: Context, request: Request) -> dict[str, Any]:
    """Ask the host how it is, and keep the answer; a host that doesn't answer is an answer too."""
    host = _host(context, request)
    info, problem = None, None
    try:
        with _session(context, request, host) as target:
            found = target.inspect_host()
            info, problem = info_as_json(found, target), unsupported(host.name, found)
    except BootpointError as exc:
        problem = exc
    with context.database.transaction() as connection:
        hosts.checked(connection, host.id, info, problem)
    return {"info": info, "error": None if problem is None else problem.as_json()}


def _host_fingerprint(_context: Context, request: Request) -> dict[str, Any]:
    """Ask an address for the key that it shows, before anything is trusted or sent."""
    kind, address = request.arguments["kind"], request.arguments["address"]
    if kind != "kvm" or address == "local":
        return {"fingerprint": None}
    from bootpoint_worker.targets.kvm.fingerprint import fetch_fingerprint

    return {"fingerprint": fetch_fingerprint(address, request.arguments["port"])}


def _vm_list(context: Context, request: Request) -> dict[str, Any]:
    with _session(context, request, _host(context, request)) as target:
        return {"items": [vm_as_json(machine) for machine in target.inspect_host().vms]}


def _standby(context: Context, host: Host, vm: str) -> Replica:
    """Return the replica whose standby is a VM of that name.

    Raises:
        NotFoundError: ``no_such_vm``.
    """
    with context.database.transaction() as connection:
        row = one(
            connection,
            "SELECT definition FROM replica WHERE host_id = %s AND definition->>'vm_name' = %s"
            " ORDER BY state = 'detached', id DESC",
            host.id,
            vm,
        )
    if row is None:
        raise error(
            Code.NO_SUCH_VM, f"host {host.name} has no standby {vm} of bootpoint", key="vm", value=vm, host=host.name
        )
    return from_json(row["definition"])


def _journal(target: Target, replica: Replica, host: Host) -> Journal:
    found = target.inspect(replica)
    if found is None:
        raise error(
            Code.NO_SUCH_VM,
            f"host {host.name} has no replica {replica.vm_name} yet",
            key="vm",
            value=replica.vm_name,
            host=host.name,
        )
    return found


def _vm_points(context: Context, request: Request) -> dict[str, Any]:
    host = _host(context, request)
    replica = _standby(context, host, request.arguments["vm"])
    with _session(context, request, host) as target:
        return {"items": journal_points(_journal(target, replica, host))}


def journal_points(journal: Journal) -> list[dict[str, Any]]:
    """Return what a host itself knows of a replica's points, oldest first."""
    return [
        {
            "name": point.name,
            "kind": point.kind,
            "consistency": point.consistency,
            "instant": point.instant.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "epoch": point.epoch,
            "stored_bytes": sum(disk.stored_bytes for disk in point.disks),
            "disks": [
                {
                    "slot": disk.slot,
                    "size_bytes": disk.size_bytes,
                    "identity": disk.identity,
                    "read_digest": f"b3:{disk.root}",
                }
                for disk in point.disks
            ],
        }
        for point in journal.points
    ]


def point_id_of(journal: Journal, name: str | None) -> UUID:
    """Return the id of a point by its name, or of the head where none is named.

    Raises:
        NotFoundError: ``no_such_point``.
    """
    for point in reversed(journal.points):
        if name in (None, point.name):
            return point.point_id
    text = f"{journal.vm_name} has no boot point {name}" if name else f"{journal.vm_name} has no boot point yet"
    raise error(Code.NO_SUCH_POINT, text, key="point", value=name)


def _vm_start(context: Context, request: Request) -> dict[str, Any]:
    host, arguments = _host(context, request), request.arguments
    replica = _standby(context, host, arguments["vm"])
    test_id = arguments.get("test_id")
    with _session(context, request, host) as target:
        point_id = point_id_of(_journal(target, replica, host), arguments.get("point"))
        started = target.start(
            replica, StartRequest(point_id=point_id, test_id=test_id, serial_log=arguments.get("serial_log"))
        )
    with context.database.transaction() as connection:
        state = "test" if test_id else "running"
        run(connection, "UPDATE replica SET standby = %s WHERE id = %s", state, replica.replica_id)
        text = f"{started.name} started from {arguments.get('point') or 'the newest boot point'}"
        event.record(
            connection,
            "vm_started",
            text,
            actor=str(arguments.get("actor", "worker")),
            job=replica.job,
            host=host.name,
            point=arguments.get("point"),
        )
    return vm_as_json(started)


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
    vm = plan.replica
    return {
        **plan.as_json(),
        "vm": {
            "name": vm.vm_name,
            "cpus": vm.cpus,
            "memory_bytes": vm.memory_bytes,
            "firmware": vm.firmware,
            "networks": [nic.network for nic in vm.nics],
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
    host, actor = _host(context, request), str(request.arguments.get("actor", "worker"))
    with _session(context, request, host) as target:
        items = rescan.compare(context.database, target, host)
    with context.database.transaction() as connection:
        rescan.mark(connection, host, items, actor=actor)
        adopting = bool(request.arguments.get("adopt"))
        begun = {i.replica_id: rescan.begin(connection, host, i, actor=actor) for i in items} if adopting else {}
    return {"host": host.name, "items": [item.as_json(begun.get(item.replica_id)) for item in items]}


def _delete_replica(context: Context, request: Request) -> dict[str, Any]:
    """Remove a replica with all its points from its host; its row is the asker's to delete."""
    with context.database.transaction() as connection:
        row = jobs.replica(connection, UUID(request.arguments["replica"]))
        if row is None or row.definition is None:
            return {"removed": False}
        host = hosts.get(connection, row.host_id)
        replica = replica_of(connection, row.id)
    with _session(context, request, host) as target:
        target.remove(replica)
    return {"removed": True}


_ANSWERS: dict[str, Callable[[Context, Request], dict[str, Any]]] = {
    "host_show": _host_check,
    "host_check": _host_check,
    "host_fingerprint": _host_fingerprint,
    "host_rescan": _host_rescan,
    "vm_list": _vm_list,
    "vm_points": _vm_points,
    "vm_start": _vm_start,
    "preflight": _preflight,
    "delete_replica": _delete_replica,
}
