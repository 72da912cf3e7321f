"""The way of an NBD connection to a qemu-nbd of a host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bootpoint_worker.targets.kvm.nbdtls import TCP, NbdTls
from bootpoint_worker.targets.kvm.session import Session
from bootpoint_worker.targets.nbdclient import CONNECT_TIMEOUT, Client

if TYPE_CHECKING:
    import nbd


def connected(
    session: Session, path: str, *, contexts: tuple[str, ...] = (), tls: NbdTls | None = None
) -> Client:
    """Connect to a server.

    Args:
        session: The way to the host.
        path: The server's socket there, or ``tcp:`` and its port.
        contexts: Metadata contexts to ask for.
        tls: How a server on a port is reached.

    Raises:
        RetryableError: ``host_unreachable``.
        FatalError: ``tls_refused``; ``host_unsupported``: this worker lacks libnbd's Python module.
    """

    def begin(handle: nbd.NBD) -> None:
        if tls is not None and path.startswith(TCP):
            tls.connect(handle, int(path.removeprefix(TCP)), CONNECT_TIMEOUT)
        else:
            handle.aio_connect_socket(session.dial(path).detach())

    return Client(
        host=session.host,
        begin=begin,
        server=path,
        contexts=contexts,
        refusal=lambda exc: tls.refusal(exc, session) if tls else None,
    )
