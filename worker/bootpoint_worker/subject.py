"""A test VM with all that a step of its needs, read in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from bootpoint_common.store import host, point
from bootpoint_common.store import trial as trials
from bootpoint_common.store.claim import Claim, check
from bootpoint_common.store.database import Connection, Database
from bootpoint_common.store.host import Host
from bootpoint_common.store.point import Point
from bootpoint_common.store.trial import Trial

from .replica import replica_of
from .targets.replica import Replica


@dataclass(frozen=True, slots=True)
class Subject:
    """A test VM and what it stands on.

    Attributes:
        trial: Its row.
        point: The boot point.
        replica: The standby.
        host: Where it runs.
        held: The claim on the row.
    """

    trial: Trial
    point: Point
    replica: Replica
    host: Host
    held: Claim

    def check(self, connection: Connection) -> None:
        """Lock the row for the rest of the transaction.

        Raises:
            Fenced: The claim is somebody else's now.
        """
        check(connection, "test_vm", self.trial.id, self.held.number)


def read(database: Database, held: Claim, trial_id: UUID) -> Subject | None:
    """Read a test VM that something is to be done about; None where nothing is.

    Raises:
        NotFoundError: The replica or the host is gone.
    """
    with database.transaction() as connection:
        found = trials.get(connection, trial_id)
        if found is None or found.state in ("waiting", "ended"):
            return None
        stands_on = point.get(connection, found.point_id)
        if stands_on is None:
            return None
        return Subject(
            found, stands_on, replica_of(connection, found.replica_id), host.get(connection, found.host_id), held
        )
