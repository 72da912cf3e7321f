"""How a machine joins: it makes a key of its own, and sends it under the secret of an enrolment token.

::

    agent ── join {new key, machine} under HKDF(token's secret) ──► ingress of the home pool: token spent, key stored
          ◄──────────── welcome {incarnation}, under the new key ── which proves that both ends hold it

The key is kept before it is sent. So a join whose answer comes late (no worker ran) is finished by calling it again
with the same token, although that one is spent by then.
"""

from __future__ import annotations

import base64
import json
import os
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from bootpoint_common import message
from bootpoint_common.cipher import KEY_BYTES, AgentKey, Direction
from bootpoint_common.enrolment import Token
from bootpoint_common.envelope import open_envelope, seal_join
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.identity import new_id
from bootpoint_common.stream.carrier import AgentCarrier, CarrierLost
from bootpoint_producer.state import AgentState, Identity

#: Seconds until a broker that did not answer, or has no queue for this agent yet, is asked again.
AGAIN_SECONDS = 0.5

#: Seconds that the answer to an earlier, interrupted join is looked for before the join is sent once more.
EARLIER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """A join under way: what the answer must fit.

    Attributes:
        identity: What the agent will be.
        incarnation: Names this join; the answer repeats it.
        earlier: Whether it was begun by an earlier call.
    """

    identity: Identity
    incarnation: UUID
    earlier: bool


def join(
    state: AgentState, token: Token, carrier: AgentCarrier, machine: dict[str, Any], *, version: str, timeout: float
) -> Identity:
    """Join, and keep the identity.

    Args:
        state: The agent's directory.
        token: The enrolment token.
        carrier: Connections with the token's broker login.
        machine: This machine's identity, which the key is bound to.
        version: Version of this program.
        timeout: Seconds to wait for the answer.

    Returns:
        Who this agent is now.

    Raises:
        RetryableError: ``no_worker``: the broker can't be used, or nobody answered: the token is spent or has expired,
            or no worker runs.
    """
    attempt = _attempt(state, token, machine)
    deadline = time.monotonic() + timeout
    try:
        done = attempt.earlier and _answered(carrier, attempt, min(deadline, time.monotonic() + EARLIER_SECONDS))
        if not done:
            _send(carrier, token, attempt, version, deadline)
            done = _answered(carrier, attempt, deadline)
    except CarrierLost as lost:
        text = f"the broker in the token can't be used: {lost}"
        raise error(
            Code.NO_WORKER, text, key="token", hint="check the network to the broker, and the broker login"
        ) from lost
    if not done:
        causes = f"the token is spent or has expired, or no worker serves pool {token.pool}"
        hint = (
            "check that a worker runs, then try again with the same token;"
            f" else make a new one: `bootpoint agent enroll {token.agent}`"
        )
        raise error(Code.NO_WORKER, f"nobody answered within {timeout:g} s: {causes}", key="token", hint=hint)
    state.keep_identity(attempt.identity)
    (state.directory / "joining.json").unlink()
    return attempt.identity


def _attempt(state: AgentState, token: Token, machine: dict[str, Any]) -> Attempt:
    """Go on with an earlier call's join under the same token, or begin one with a new key."""
    file = state.directory / "joining.json"
    known = _read(file.read_bytes()) if file.exists() else None
    if known is not None and known["token"] == token.encode():
        incarnation, key = UUID(known["incarnation"]), AgentKey(known["key_id"], base64.b64decode(known["key"]))
        return Attempt(Identity(token.agent, token.pool, token.broker_url, key, machine), incarnation, earlier=True)
    before = state.identity()
    key = AgentKey(1 if before is None else before.key.key_id + 1, os.urandom(KEY_BYTES))
    incarnation = new_id()
    stored = {
        "token": token.encode(),
        "incarnation": str(incarnation),
        "key_id": key.key_id,
        "key": base64.b64encode(key.secret).decode(),
    }
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        json.dump(stored, stream)
        stream.flush()
        os.fsync(stream.fileno())
    return Attempt(Identity(token.agent, token.pool, token.broker_url, key, machine), incarnation, earlier=False)


def _read(data: bytes) -> dict[str, Any] | None:
    """Return an earlier call's notes; None where it was cut off while it wrote them: then it sent nothing."""
    try:
        found: dict[str, Any] = json.loads(data)
    except ValueError:
        return None
    return found


def _send(carrier: AgentCarrier, token: Token, attempt: Attempt, version: str, deadline: float) -> None:
    """Send the join; raises `CarrierLost` when the broker did not take it in time."""
    key = attempt.identity.key
    body = message.Join(
        protocol=message.PROTOCOL,
        version=version,
        key_id=key.key_id,
        key=key.secret,
        incarnation=attempt.incarnation,
        machine=attempt.identity.machine,
    )
    route = message.control_route(token.agent, token.pool)
    sealed = seal_join(token.secret, token.agent, route, message.encode_join(body))
    while True:
        try:
            carrier.send(token.pool, sealed)
        except CarrierLost:
            if time.monotonic() + AGAIN_SECONDS > deadline:
                raise
            time.sleep(AGAIN_SECONDS)
        else:
            return


def _answered(carrier: AgentCarrier, attempt: Attempt, deadline: float) -> bool:
    """Wait for the welcome; False when it does not come."""
    while time.monotonic() < deadline:
        try:
            consumer = carrier.inbox()
        except CarrierLost:
            # The agent's queue is made by whoever takes the join.
            time.sleep(AGAIN_SECONDS)
            continue
        try:
            while (left := deadline - time.monotonic()) > 0:
                delivery = consumer.get(left)
                if delivery is None:
                    return False
                if _is_welcome(delivery.body, attempt):
                    # Not acked: should this process die before it has kept the identity, the next call finds it again.
                    return True
                consumer.ack(delivery.tag)
        except CarrierLost:
            time.sleep(AGAIN_SECONDS)
        finally:
            consumer.close()
    return False


def _is_welcome(body: bytes, attempt: Attempt) -> bool:
    """Tell whether a message is the answer to this join; messages under an older key are none."""
    identity = attempt.identity
    try:
        envelope = open_envelope(
            {identity.key.key_id: identity.key.secret}, Direction.TO_AGENT, message.inbox_route(identity.name), body
        )
        heard = message.decode_to_agent(envelope.body)
    except (BootpointError, msgspec.MsgspecError):
        return False
    return isinstance(heard, message.Welcome) and heard.incarnation == attempt.incarnation
