"""The relay: publishes what the outbox holds. Any process may run one; none leads."""

from __future__ import annotations

from collections.abc import Callable

from bootpoint_common.store import outbox
from bootpoint_common.store.outbox import Task

from . import messenger
from .context import Context

SendTask = Callable[[Task], None]


def relay_once(context: Context, send_task: SendTask, connect: Callable[[], None] = lambda: None) -> int:
    """Publish one batch of what is due.

    Connections are made before the transaction begins: looking up a name can take longer than a transaction may be
    idle, and all that time its rows would be locked. Within it there are only publishes and their confirms.

    Args:
        context: What the process works with.
        send_task: Hands work to the pool's workers, with a confirm.
        connect: Connects what ``send_task`` uses, unless it is.

    Returns:
        How many rows were published.

    Raises:
        CarrierLost: The broker is away; all rows of the batch stay.
    """
    with context.database.transaction() as connection:
        if not outbox.is_due(connection):
            return 0
    context.carrier.reach()
    connect()
    with context.database.transaction() as connection:
        return outbox.relay(connection, send_task, lambda name, body: messenger.send(context, name, body))
