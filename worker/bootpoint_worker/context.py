"""What every actor works with: the database, the broker, the installation's key, and sessions to target hosts."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from bootpoint_common.errors import BootpointError
from bootpoint_common.notice import NoticeSettings
from bootpoint_common.store.database import Database
from bootpoint_common.store.host import Host
from bootpoint_common.store.point import WINDOW
from bootpoint_common.stream.carrier import WorkerCarrier
from bootpoint_common.tally import Tally
from bootpoint_common.vault import Vault

from .refusal import Refusals
from .targets import connect
from .targets.base import Target
from .targets.host import HostAccess

if TYPE_CHECKING:
    from .trace import Traces

#: Default TCP ports of the control service, by kind of host.
PORTS = {"kvm": 22, "esxi": 443, "hyperv": 5986, "fake": 0}


def access_of(host: Host, vault: Vault, *, nbd_tls: Path | None = None) -> HostAccess:
    """Return how a host is reached with its saved credentials; see `access_with`."""
    return access_with(host, host.secrets(vault), nbd_tls=nbd_tls)


def access_with(host: Host, secrets: dict[str, str], *, nbd_tls: Path | None = None) -> HostAccess:
    """Return how a host is reached.

    Args:
        host: Its row.
        secrets: ``ssh_key`` or ``password``, or neither.
        nbd_tls: This process's certificates for NBD; None for none.
    """
    return HostAccess(
        name=host.name,
        kind=host.kind,
        address=host.address,
        port=host.port,
        user=host.username,
        fingerprint=host.fingerprint,
        ssh_key=secrets.get("ssh_key"),
        password=secrets.get("password"),
        settings=host.settings,
        nbd_tls=nbd_tls,
    )


class Sessions:
    """Sessions to target hosts, kept between uses; each is in one thread's hands at a time.

    Args:
        vault: Decrypts the saved credentials.
        opener: Makes a session; by default the driver of the host's kind.
        nbd_tls: Certificates for NBD; None for none.

    Attributes:
        nbd_tls: Those certificates.
    """

    def __init__(
        self, vault: Vault, *, opener: Callable[[HostAccess], Target] = connect, nbd_tls: Path | None = None
    ) -> None:
        self.nbd_tls = nbd_tls
        self._vault = vault
        self._opener = opener
        self._lock = threading.Lock()
        self._idle: dict[tuple[UUID, HostAccess_key], list[Target]] = defaultdict(list)

    @contextmanager
    def use(self, host: Host) -> Iterator[Target]:
        """Lend a session; one that raised something other than a named, fatal error is closed, not kept."""
        access = access_of(host, self._vault, nbd_tls=self.nbd_tls)
        key = (host.id, _key(access))
        with self._lock:
            kept = self._idle[key]
            target = kept.pop() if kept else None
        if target is None:
            target = self._opener(access)
        try:
            yield target
        except BootpointError as problem:
            if problem.retryable:
                target.close()
            else:
                self._keep(key, target)
            raise
        except BaseException:
            target.close()
            raise
        self._keep(key, target)

    def _keep(self, key: tuple[UUID, HostAccess_key], target: Target) -> None:
        with self._lock:
            self._idle[key].append(target)

    def close(self) -> None:
        """Close all idle sessions."""
        with self._lock:
            targets = [target for kept in self._idle.values() for target in kept]
            self._idle.clear()
        for target in targets:
            target.close()


HostAccess_key = tuple[Any, ...]


def _key(access: HostAccess) -> HostAccess_key:
    return (
        access.kind,
        access.address,
        access.port,
        access.user,
        access.fingerprint,
        access.ssh_key,
        access.password,
        repr(access.settings),
    )


@dataclass(slots=True)
class Context:
    """What an actor works with.

    Attributes:
        database: The truth.
        carrier: The broker.
        vault: The installation's key.
        sessions: Sessions to target hosts.
        worker: Name of this process, as rows and logs show it.
        window_bytes: Credit window of a stream.
        idle_seconds: Seconds without a bundle after which a slice ends.
        renewing: Whether claims are renewed by threads (a test that steps by hand says no).
        tally: What this process has counted and not yet written down.
        served_at: Where its metrics are served, as ADDRESS:PORT; None where they aren't.
        traces: Where traces of runs go; None where nobody collects them.
        refusals: Which refusals the history gets.
        notices: How people are told.
        stopping: Set when the process is to end: slices stop at their next step.
    """

    database: Database
    carrier: WorkerCarrier
    vault: Vault
    sessions: Sessions
    worker: str
    window_bytes: int = WINDOW
    idle_seconds: float = 1.0
    renewing: bool = True
    tally: Tally = field(default_factory=Tally)
    served_at: str | None = None
    traces: Traces | None = None
    refusals: Refusals = field(default_factory=Refusals)
    notices: NoticeSettings = field(default_factory=NoticeSettings)
    stopping: threading.Event = field(default_factory=threading.Event)
