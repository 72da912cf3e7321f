"""Answers about the VMs of a host: what there is, on which boot points they stand; started, stopped, reverted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from bootpoint_common.errors import BootpointError, Code, RefusedError, error
from bootpoint_common.store import event, reference
from bootpoint_common.store.database import one, rows
from bootpoint_common.store.host import Host
from bootpoint_common.store.request import Request
from bootpoint_worker import standing
from bootpoint_worker.asking import host_of, session
from bootpoint_worker.context import Context
from bootpoint_worker.hostinfo import (
    LATEST,
    journal_as_json,
    machines_as_json,
    point_of,
    start_point,
    started_as_json,
    started_vm,
    told_as_json,
    vm_as_json,
)
from bootpoint_worker.replica import from_json
from bootpoint_worker.targets.base import Clustered, StartRequest, Target, TellsAddresses
from bootpoint_worker.targets.journal import Journal
from bootpoint_worker.targets.replica import Replica

_log = logging.getLogger(__name__)

#: Seconds that the guest of a standby may take by default until it can be told its addresses: a Windows that finds new
#: hardware starts in a few minutes.
GUEST_SECONDS = 240.0


def _vm_list(context: Context, request: Request) -> dict[str, Any]:
    host = host_of(context, request)
    query = "SELECT definition FROM replica WHERE host_id = %s AND definition IS NOT NULL ORDER BY id"
    with context.database.transaction() as connection:
        found = rows(connection, query, host.id)
    with session(context, request, host) as target:
        journals = [_shown(target, from_json(row["definition"])) for row in found]
        machines = target.inspect_host().vms
    return {"items": machines_as_json(machines, [journal for journal in journals if journal is not None])}


def _shown(target: Target, replica: Replica) -> Journal | None:
    """Return a replica's journal; None where its place is somebody else's by now, whose VM is listed all the same."""
    try:
        return target.inspect(replica)
    except RefusedError:
        return None


@dataclass(frozen=True, slots=True)
class _Subject:
    """The standby that a question is about.

    Attributes:
        context: What the worker works with.
        request: The question.
        host: Its host.
        target: A session with that.
        replica: The replica.
        journal: What the host shows of it.
    """

    context: Context
    request: Request
    host: Host
    target: Target
    replica: Replica
    journal: Journal

    def refer(self, point_id: UUID, use: standing.Use) -> None:
        """Refer to a point before anything is put on it."""
        with self.context.database.transaction() as connection:
            standing.refer(connection, point_id, use, job=self.replica.job, host=self.host.name)

    def keep(self) -> None:
        """Write down what the host shows now; where it doesn't answer, the next commit does that."""
        with self.context.database.transaction() as connection:
            seen = standing.seen_now(connection)
        try:
            journal = self.target.inspect(self.replica)
        except BootpointError as problem:
            _log.warning("what stands on which point was not looked at", extra={"code": str(problem.code)})
            return
        if journal is not None:
            with self.context.database.transaction() as connection:
                standing.keep(connection, self.replica.replica_id, journal, seen)

    def record(self, kind: str, text: str, point: str | None = None) -> None:
        """Write what was done to the history."""
        actor = str(self.request.arguments.get("actor", "worker"))
        with self.context.database.transaction() as connection:
            event.record(
                connection, kind, text, actor=actor, job=self.replica.job, host=self.host.name, point=point
            )


@contextmanager
def _subject(context: Context, request: Request) -> Iterator[_Subject]:
    """Open a session with the host, and find the standby that the question names.

    Raises:
        NotFoundError: ``no_such_vm``.
    """
    host, vm = host_of(context, request), str(request.arguments["vm"])
    with session(context, request, host) as target:
        replica = _standby(context, target, host, vm)
        journal = target.inspect(replica)
        if journal is None:
            raise error(
                Code.NO_SUCH_VM, f"host {host.name} has no replica {vm} yet", key="vm", value=vm, host=host.name
            )
        yield _Subject(context, request, host, target, replica, journal)


def _standby(context: Context, target: Target, host: Host, vm: str) -> Replica:
    """Return the replica whose standby is a VM of that name, or of that id in the hypervisor."""
    name = vm
    if is_uuid(vm):
        name = next((known.name for known in target.inspect_host().vms if known.uuid == vm.lower()), vm)
    with context.database.transaction() as connection:
        row = one(
            connection,
            "SELECT definition FROM replica WHERE host_id = %s AND definition->>'vm_name' = %s"
            " ORDER BY state = 'detached', id DESC",
            host.id,
            name,
        )
    if row is None:
        text = f"host {host.name} has no standby {vm} of bootpoint"
        raise error(Code.NO_SUCH_VM, text, key="vm", value=vm, host=host.name)
    return from_json(row["definition"])


def is_uuid(text: str) -> bool:
    """Say whether a VM is named by the hypervisor's id of it."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def _vm_points(context: Context, request: Request) -> dict[str, Any]:
    with _subject(context, request) as subject:
        shown = journal_as_json(subject.journal)
    replica_id = subject.replica.replica_id
    with context.database.transaction() as connection:
        found = reference.of_replica(connection, replica_id)
        named = rows(connection, "SELECT id, name FROM boot_point WHERE replica_id = %s", replica_id)
    names = {row["id"]: row["name"] for row in named}
    items = {item["name"]: item["in_use_by"] for item in shown["items"]}
    for use in found:
        known = items.get(names.get(use.point_id))
        if known is not None and use.kind != "standby" and all(use.holder != other["holder"] for other in known):
            until = None if use.until is None else use.until.strftime("%Y-%m-%dT%H:%M:%SZ")
            known.append({"kind": use.kind, "holder": use.holder, "until": until})
    return shown


def _vm_start(context: Context, request: Request) -> dict[str, Any]:
    arguments = request.arguments
    test_id = arguments.get("test_id")
    with _subject(context, request) as subject:
        point = start_point(subject.journal, arguments.get("point"), test_id)
        subject.refer(point.point_id, ("test" if test_id else "standby", subject.replica.machine_name(test_id)))
        try:
            started = subject.target.start(
                subject.replica,
                StartRequest(
                    point_id=point.point_id,
                    test_id=test_id,
                    serial_log=arguments.get("serial_log"),
                    conversion=arguments.get("conversion") or "auto",
                ),
            )
            journal = subject.target.inspect(subject.replica)
        finally:
            subject.keep()
        subject.record("vm_started", f"{started.name} started from {point.name}", point.name)
        told = [] if test_id else _told(subject)
    answer = started_as_json(started, journal.profile if journal is not None else None)
    return {**answer, "point": point.name, "addresses": told}


def _told(subject: _Subject) -> list[dict[str, Any]]:
    """Tell the guest of the standby, which runs, its addresses, where its host can; what came of each card."""
    if not isinstance(subject.target, TellsAddresses):
        return []
    seconds = float(subject.request.arguments.get("guest_seconds", GUEST_SECONDS))
    told = subject.target.tell_addresses(subject.replica, seconds)
    if told:
        text = "; ".join(each.text for each in told)
        subject.record("vm_addresses", f"{subject.replica.vm_name}: {text}")
    return told_as_json(told)


def _vm_address(context: Context, request: Request) -> dict[str, Any]:
    with _subject(context, request) as subject:
        return {"name": subject.replica.vm_name, "addresses": _told(subject)}


def _vm_stop(context: Context, request: Request) -> dict[str, Any]:
    test_id = request.arguments.get("test_id")
    with _subject(context, request) as subject:
        name = started_vm(subject.journal, test_id)
        try:
            subject.target.stop(subject.replica, test_id)
        finally:
            subject.keep()
        subject.record("vm_stopped", f"{name} stopped")
    return {"name": name, "state": "off", "replica_id": str(subject.replica.replica_id)}


def _vm_revert(context: Context, request: Request) -> dict[str, Any]:
    name = str(request.arguments["point"])
    held = name != LATEST
    with _subject(context, request) as subject:
        point = point_of(subject.journal, name)
        if held:
            subject.refer(point.point_id, ("standby", subject.replica.vm_name))
        try:
            machine = subject.target.revert(subject.replica, point.point_id if held else None)
        finally:
            subject.keep()
        text = f"{machine.name} reverted to {point.name}" if held else f"{machine.name} follows the newest point again"
        subject.record("vm_reverted", text, point.name)
    return {**vm_as_json(machine), "point": point.name, "held": held}


def _vm_cluster(context: Context, request: Request) -> dict[str, Any]:
    add = bool(request.arguments["add"])
    with _subject(context, request) as subject:
        if not isinstance(subject.target, Clustered):
            name = subject.host.name
            text = f"host {name} is of kind {subject.host.kind}, whose hosts are in no failover cluster"
            hint = "only a Hyper-V host can be a node of one"
            raise error(Code.HOST_UNSUPPORTED, text, hint=hint, host=name)
        role = subject.target.set_role(subject.replica, add=add)
        vm = subject.replica.vm_name
        if role.changed:
            subject.record("vm_clustered", f"{vm} {'got its' if add else 'lost its'} role in the cluster")
    return {"name": vm, "role": role.name, "node": role.node, "changed": role.changed}


#: Kind of question -> what answers it.
ANSWERS: dict[str, Callable[[Context, Request], dict[str, Any]]] = {
    "vm_list": _vm_list,
    "vm_points": _vm_points,
    "vm_start": _vm_start,
    "vm_address": _vm_address,
    "vm_stop": _vm_stop,
    "vm_revert": _vm_revert,
    "vm_cluster": _vm_cluster,
}
