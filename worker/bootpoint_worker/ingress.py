"""What agents say, turned into rows: the only door through which they reach the control plane.

Everything that comes in is taken for hostile until its envelope opens with the key of the agent it names; then only
what that agent's own machine and runs allow is done. What is refused is counted, and written to the history.

Whose login sent a message stands in its routing key, by the broker's rights. An agent that poses as another one, or
says more than its share, is refused by that alone: it costs the others neither the database's time nor a place in the
history.
"""

from __future__ import annotations

import logging
from uuid import UUID

import msgspec
import psycopg

from bootpoint_common import message
from bootpoint_common.cipher import Direction, Reject
from bootpoint_common.envelope import JOIN_KEY_ID, Envelope, envelope_agent, open_envelope, open_join
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.machine import same_machine
from bootpoint_common.metric import REPLAYED
from bootpoint_common.store import agent, event, outbox
from bootpoint_common.store.agent import Agent
from bootpoint_common.store.database import Connection, one, present, run
from bootpoint_common.stream.carrier import Delivery

from . import heard, inventory
from .allowance import Allowances
from .context import Context

_log = logging.getLogger(__name__)

#: What a message raises whose values no row can hold, or that are of another form than they have to be.
_SENSELESS = (psycopg.DataError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class Ingress:
    """Takes the messages of one pool's ingress queue.

    Args:
        context: What the worker works with.
        pool: The pool, part of the routing key that every envelope is bound to.
    """

    def __init__(self, context: Context, pool: str) -> None:
        self._context = context
        self._pool = pool
        self._allowances = Allowances()

    def handle(self, delivery: Delivery) -> None:
        """Take one message; it may be acked when this returns.

        Raises:
            psycopg.Error: The database is away; the message is to be delivered again.
        """
        body, sender = delivery.body, delivery.route.partition(".")[0]
        try:
            if not self._allowances.take(sender, len(body)):
                raise error(Code.BUNDLE_REJECTED, f"{sender} says more than an agent may", value=Reject.FLOOD)
            name, key_id = envelope_agent(body)
            if name != sender:
                text = f"{sender} sends a control message in the name of {name!r}"
                raise error(Code.BUNDLE_REJECTED, text, value=Reject.AGENT)
            if key_id == JOIN_KEY_ID:
                self._join(name, body)
            else:
                self._take(name, body)
        except BootpointError as problem:
            self._refuse(sender, body, problem)
        except _SENSELESS as problem:
            # Delivered again it would fail again, for ever, and hold up every other agent of the pool.
            _log.exception("message makes no sense", extra={"pool": self._pool})
            text = f"a control message holds what can't be stored: {type(problem).__name__}"
            self._refuse(sender, body, error(Code.BUNDLE_REJECTED, text, value=Reject.MALFORMED))

    def _take(self, name: str, body: bytes) -> None:
        with self._context.database.transaction() as connection:
            found, envelope, content = self._open(connection, name, body)
            if not isinstance(content, message.Hello):
                self._hear(connection, found, envelope, content)
                return
        # The answer to a hello needs the agent's queue, and a transaction must not wait for the broker to make it.
        self._context.carrier.declare_agent(name)
        with self._context.database.transaction() as connection:
            self._hear(connection, *self._open(connection, name, body))

    def _open(self, connection: Connection, name: str, body: bytes) -> tuple[Agent, Envelope, message.FromAgent]:
        found = agent.find(connection, name, lock=True)
        keys = {} if found is None else found.keys(self._context.vault)
        envelope = open_envelope(keys, Direction.TO_WORKER, message.control_route(name, self._pool), body)
        if found is None:
            raise error(Code.BUNDLE_REJECTED, f"there is no agent {name}", value=Reject.KEY)
        return found, envelope, _decode(envelope.body)

    def _hear(self, connection: Connection, found: Agent, envelope: Envelope, content: message.FromAgent) -> None:
        newest = envelope.counter > found.counter or envelope.incarnation != found.incarnation
        is_hello = isinstance(content, message.Hello) and content.incarnation == envelope.incarnation
        if not agent.accept(connection, found, envelope.incarnation, envelope.counter, is_hello=is_hello):
            # Delivered twice, or by an incarnation that is gone: both happen without anybody's fault.
            self._context.tally.refused(REPLAYED)
            return
        self._dispatch(connection, found, envelope.incarnation, content, newest=newest)

    def _dispatch(
        self, connection: Connection, found: Agent, incarnation: UUID, content: message.FromAgent, *, newest: bool
    ) -> None:
        match content:
            case message.Hello():
                self._hello(connection, found, content, newest=newest)
            case message.Heartbeat():
                if newest:  # one that was overtaken tells what was before
                    heard.heartbeat(connection, found, content)
            case message.Offer():
                heard.offer(connection, found, incarnation, content, self._context.window_bytes)
            case message.Event():
                heard.happened(connection, found, content, self._context.refusals)
            case message.Answer():
                heard.answer(connection, found, content)
            case _:
                _hear_of_run(connection, found, content)

    def _hello(self, connection: Connection, found: Agent, content: message.Hello, *, newest: bool) -> None:
        if content.protocol not in (message.PROTOCOL, message.PROTOCOL - 1):
            raise error(
                Code.AGENT_TOO_OLD,
                f"agent {found.name} speaks protocol {content.protocol},"
                f" served are {message.PROTOCOL - 1} and {message.PROTOCOL}",
                key="agent",
                value=found.name,
            )
        if found.machine is not None and not same_machine(found.machine, content.machine):
            raise error(
                Code.AGENT_IS_A_COPY,
                f"agent {found.name} runs on another machine than it joined from",
                value=found.name,
            )
        if content.incarnation != found.incarnation:
            event.record(
                connection,
                "agent_started",
                f"agent {found.name} started",
                actor=f"agent {found.name}",
                agent=found.name,
            )
            inventory.ask_first(connection, found)
        run(connection, "UPDATE agent SET version = %s WHERE id = %s", content.version, found.id)
        if newest:
            agent.in_hand(connection, found.id, [{"run": str(uid)} for uid in content.runs])
        welcome = message.Welcome(incarnation=content.incarnation, now=present(connection))
        outbox.tell(connection, found.name, found.id, welcome)

    def _join(self, name: str, body: bytes) -> None:
        with self._context.database.transaction() as connection:
            self._open_join(connection, name, body)
        self._context.carrier.declare_agent(name)
        with self._context.database.transaction() as connection:
            found, join = self._open_join(connection, name, body)
            key = self._context.vault.encrypt(agent.key_purpose(name), join.key)
            agent.joined(connection, name, join.key_id, key, join.machine)
            event.record(
                connection,
                "agent_joined",
                f"agent {name} joined",
                actor=f"agent {name}",
                agent=name,
                details={"machine": join.machine},
            )
            welcome = message.Welcome(incarnation=join.incarnation, now=present(connection))
            outbox.tell(connection, name, found.id, welcome)

    def _open_join(self, connection: Connection, name: str, body: bytes) -> tuple[Agent, message.Join]:
        found = agent.find(connection, name, lock=True)
        if found is None or found.join_secret is None:
            raise error(Code.BUNDLE_REJECTED, f"agent {name} has no token to spend", value=Reject.KEY)
        fresh = one(connection, "SELECT join_expires_at > now() AS fresh FROM agent WHERE id = %s", found.id)
        if fresh is None or not fresh["fresh"]:
            raise error(Code.BUNDLE_REJECTED, f"the token of agent {name} has expired", value=Reject.KEY)
        secret = self._context.vault.decrypt(agent.join_purpose(name), found.join_secret)
        _, inner = open_join(secret, message.control_route(name, self._pool), body)
        try:
            return found, message.decode_join(inner)
        except msgspec.MsgspecError as problem:
            raise error(Code.BUNDLE_REJECTED, f"a join makes no sense: {problem}", value=Reject.MALFORMED) from problem

    def _refuse(self, sender: str, body: bytes, problem: BootpointError) -> None:
        reason = str(problem.value) if problem.code is Code.BUNDLE_REJECTED else str(problem.code)
        self._context.tally.refused(reason)
        left_out = self._context.refusals.admit(self._pool, sender, reason)
        if left_out is None:
            return
        _log.warning("message refused", extra={"reason": reason, "pool": self._pool, "sender": sender})
        with self._context.database.transaction() as connection:
            event.record(
                connection,
                "message_refused",
                problem.message,
                actor=f"login {sender}",
                origin=f"ingress of pool {self._pool}",
                code=str(problem.code),
                details={"reason": reason, "bytes": len(body), "left_out": left_out},
            )


def _hear_of_run(
    connection: Connection,
    found: Agent,
    content: message.More | message.CreditQuery | message.Failed | message.Report,
) -> None:
    """Take what an agent says of a run that it has in hand."""
    match content:
        case message.More():
            heard.more(connection, found, content)
        case message.CreditQuery():
            heard.credit_query(connection, found, content)
        case message.Failed():
            heard.failed(connection, found, content)
        case message.Report():
            heard.report(connection, found, content)


def _decode(body: bytes) -> message.FromAgent:
    try:
        return message.decode_from_agent(body)
    except msgspec.MsgspecError as problem:
        raise error(
            Code.BUNDLE_REJECTED, f"a control message makes no sense: {problem}", value=Reject.MALFORMED
        ) from problem
