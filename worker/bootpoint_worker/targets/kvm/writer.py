"""Why the server of a layer ended."""

from __future__ import annotations

from typing import NoReturn

from bootpoint_common.errors import Code, Fenced, error
from bootpoint_worker.targets.kvm import script
from bootpoint_worker.targets.kvm.session import Session


def explain(session: Session, directory: str, identity: str, layer: str, writer: int) -> NoReturn:
    """Find out why a writer's server ended, and raise it.

    Args:
        session: The way to the host.
        directory: The replica's directory.
        identity: Name of the layer's file.
        layer: The layer's id.
        writer: The claim's number.

    Raises:
        Fenced: A later claim took over, or the point was committed or aborted.
        RetryableError: ``layer_lost``, ``target_write_error``, ``host_unreachable``.
    """
    result = session.run(script.script("fence"), directory, identity, layer)
    fence = result.text.strip()
    if fence in ("closed", "ended") or (fence.isdigit() and int(fence) > writer):
        raise Fenced(f"layer {identity} was taken from writer {writer}")
    if result.exit_code == script.GONE:
        raise error(Code.LAYER_LOST, f"the layer {identity} on host {session.host} is gone", host=session.host)
    raise error(
        Code.TARGET_WRITE_ERROR,
        f"the server of layer {identity} on host {session.host} ended or stopped answering",
        host=session.host,
    )
