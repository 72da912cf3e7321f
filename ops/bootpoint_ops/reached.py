"""A boot point within reach of this process: a session with its host, and a reference that keeps the point as it is."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout

from bootpoint_common.errors import Code, error
from bootpoint_common.store import host as hosts
from bootpoint_common.store import reference
from bootpoint_common.store.database import Database, one
from bootpoint_ops import read
from bootpoint_ops.environment import Environment
from bootpoint_worker.context import access_with
from bootpoint_worker.preflight import require_login
from bootpoint_worker.replica import replica_of
from bootpoint_worker.targets import connect
from bootpoint_worker.targets.base import Target
from bootpoint_worker.targets.journal import JournalPoint
from bootpoint_worker.targets.replica import Replica
from bootpoint_worker.targets.share import Share

_log = logging.getLogger(__name__)

#: Seconds that a reference holds without a word from who holds it: as long as a machine may hang.
HOLD_SECONDS = 300.0

#: Seconds between two words.
RENEW_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Reached:
    """A committed point and the way to it.

    Attributes:
        target: A session with its host.
        replica: The replica.
        point: The point, as the host's journal has it.
        host: Name of the host.
        virt_type: How VMs run on it: ``kvm`` or ``qemu``.
    """

    target: Target
    replica: Replica
    point: JournalPoint
    host: str
    virt_type: str

    def share(self, slot: str) -> AbstractContextManager[Share]:
        """Share one of the point's disks with programs of this machine.

        Raises:
            FatalError: ``host_unsupported``: the host's driver can't.
        """
        return self.target.share(self.replica, self.point.point_id, slot)

    def slots(self, chosen: str | None) -> list[str]:
        """Return the point's disks, or the one that is named.

        Raises:
            NotFoundError: ``no_such_disk``.
        """
        known = [disk.slot for disk in self.point.disks]
        if chosen is None:
            return known
        if chosen not in known:
            raise error(
                Code.NO_SUCH_DISK,
                f"{self.point.name} of {self.replica.vm_name} has no disk {chosen}; there are: {', '.join(known)}",
                key="--disk",
                value=chosen,
                hint="`bootpoint point show` lists a point's disks",
                job=self.replica.job,
            )
        return [chosen]


@contextmanager
def reach_point(
    env: Environment, job: str, name: str, kind: reference.Kind, *, host: str | None, secrets: dict[str, str]
) -> Iterator[Reached]:
    """Open a session with a point's host, as a worker does, and refer to the point while the block lasts.

    Args:
        env: The installation.
        job: Name of the job.
        name: Name of the point, or ``latest``.
        kind: What for.
        host: Which target, when the job has several.
        secrets: Credentials to use instead of the saved ones; empty for those.

    Raises:
        NotFoundError: ``no_such_job``, ``no_such_host``, ``no_such_point``.
        RefusedError: ``credentials_not_saved``; ``point_in_use``: it is being merged into its successor.
    """
    with env.database.transaction() as connection:
        row = read.replica_of(connection, job, host)
        point_id = read.point_id(connection, row, name)
        on, replica = hosts.get(connection, row.host_id), replica_of(connection, row.id)
    if not secrets:
        require_login(on)
    # The installation's key is asked for only where it is needed.
    saved = {} if secrets or on.credentials is None else on.secrets(env.vault)
    target = connect(access_with(on, secrets or saved, nbd_tls=env.config.nbd_tls))
    try:
        with holding(env.database, point_id, kind, env.actor, job=row.job_name, host=row.host):
            journal = target.inspect(replica)
            point = journal.point(point_id) if journal is not None else None
            if point is None:
                raise error(
                    Code.NO_SUCH_POINT,
                    f"host {row.host} shows no committed boot point {name} of job {row.job_name}",
                    key="point",
                    value=name,
                    job=row.job_name,
                    host=row.host,
                )
            yield Reached(target, replica, point, row.host, on.settings.get("virt_type", "kvm"))
    finally:
        target.close()


@contextmanager
def holding(
    database: Database, point_id: UUID, kind: reference.Kind, holder: str, *, job: str, host: str
) -> Iterator[None]:
    """Refer to a point while the block lasts; a process that dies lets go after `HOLD_SECONDS`.

    Raises:
        RefusedError: ``point_in_use``: it isn't committed, or is being merged into its successor.
    """
    with database.transaction() as connection:
        found = reference.take(connection, point_id, kind, holder, seconds=HOLD_SECONDS)
        state = one(connection, "SELECT name, state FROM boot_point WHERE id = %s", point_id)
    if found is None:
        name = "the boot point" if state is None else f"boot point {state['name']}"
        what = "being merged into its successor" if state and state["state"] == "committed" else "not committed"
        hint = "choose a newer point"
        raise error(Code.POINT_IN_USE, f"{name} is {what}", job=job, host=host, hint=hint)
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(database, found, ended), name="reference", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        try:
            with database.transaction() as connection:
                reference.drop(connection, found)
        except (psycopg.Error, PoolTimeout) as problem:  # it runs out by itself
            _log.warning("the reference to a boot point was not dropped", extra={"problem": str(problem)})


def _renew(database: Database, found: UUID, ended: threading.Event) -> None:
    while not ended.wait(RENEW_SECONDS):
        try:
            with database.transaction() as connection:
                reference.renew(connection, found, seconds=HOLD_SECONDS)
        except (psycopg.Error, PoolTimeout) as problem:
            # It holds for some minutes more, and the next word may get through.
            _log.warning("the reference to a boot point was not renewed", extra={"problem": str(problem)})
