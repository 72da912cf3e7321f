"""The relay: publishes what the outbox holds. Any process may run one; none leads."""

from __future__ import annotations

from collections.abc import Callable

from bootpoint_common.store import outbox
from bootpoint_common.store.outbox import Task

from . import messenger
from .context import Context

SendTask = Callable[[Task], None]


def relay_once(context: Context, send_task: SendTask) -> int:
    """Publish one batch of what is due.

    Args:
        context: What the process works with.
        send_task: Hands work to the pool's workers, with a confirm.

    Returns:
        How many rows were published.

    Raises:
        CarrierLost: The broker is away; all rows of the batch stay.
    """
    with context.database.transaction() as connection:
        return outbox.relay(connection, send_task, lambda name, body: messenger.send(context, name, body))
