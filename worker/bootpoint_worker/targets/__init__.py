"""Drivers of target hosts: KVM, ESXi, Hyper-V, and a fake one; `connect` picks the one of a host's kind."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from bootpoint_common.errors import Code, error

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from bootpoint_worker.targets.base import Target
    from bootpoint_worker.targets.host import HostAccess

#: Kind of host -> module with ``connect(access) -> Target``; loaded only when a host of that kind is used.
DRIVERS = {
    "kvm": "bootpoint_worker.targets.kvm",
    "esxi": "bootpoint_worker.targets.esxi",
    "hyperv": "bootpoint_worker.targets.hyperv",
    "fake": "bootpoint_worker.targets.fake",
}


def connect(access: HostAccess) -> Target:
    """Make the driver of a host; the session itself opens with the first verb.

    Raises:
        FatalError: ``host_unsupported``: there is no driver for this kind of host.
    """
    module = DRIVERS.get(access.kind)
    if module is None:
        raise error(
            Code.HOST_UNSUPPORTED,
            f"host {access.name} is of kind {access.kind!r}; served are {', '.join(sorted(DRIVERS))}",
            key="kind",
            value=access.kind,
            host=access.name,
        )
    return cast("Target", import_module(module).connect(access))


def fetch_fingerprint(kind: str, address: str, port: int, settings: Mapping[str, Any]) -> str | None:
    """Ask an address for the key or the certificate that it shows, before anything is trusted or sent.

    Args:
        kind: Kind of host.
        address: DNS name or address; ``local`` for the machine that the worker runs on.
        port: TCP port of its control service.
        settings: What only its kind knows.

    Returns:
        The fingerprint, to be confirmed by a person; None where nothing is shown.

    Raises:
        RetryableError: ``host_unreachable``.
    """
    if address == "local":
        return None
    if kind == "kvm":
        from bootpoint_worker.targets.kvm import fingerprint

        return fingerprint.fetch_fingerprint(address, port)
    if kind == "esxi":
        from bootpoint_worker.targets import certificate

        return certificate.fetch_fingerprint(address, port, legacy=bool(settings.get(certificate.LEGACY_SETTING)))
    if kind == "hyperv":
        from bootpoint_worker.targets import certificate
        from bootpoint_worker.targets.hyperv.way import by_tls

        return certificate.fetch_fingerprint(address, port) if by_tls(port, settings) else None
    return None
