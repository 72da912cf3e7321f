"""Live questions of the command line, and who did not answer them."""

from __future__ import annotations

import json
from typing import Any

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.store import agent as agents
from bootpoint_common.store import request
from bootpoint_common.store.database import Connection, one, run
from bootpoint_ops.environment import Environment
from bootpoint_worker.asking import secret_purpose

#: Seconds that an answer may take unless the command says otherwise.
TIMEOUT = 30.0


def ask_worker(
    env: Environment,
    pool: str,
    kind: str,
    arguments: dict[str, Any],
    *,
    timeout: float = TIMEOUT,
    secret: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Ask a pool's workers and wait for the answer.

    Args:
        env: The installation.
        pool: Whose workers.
        kind: The question, a key of the worker's answers.
        arguments: What it is about.
        timeout: Seconds to wait.
        secret: Credentials that are not saved; they travel encrypted and are deleted with the answer.

    Raises:
        RetryableError: ``no_worker`` or ``no_scheduler``: nobody answered.
        BootpointError: What was answered instead.
    """
    with env.database.transaction() as connection:
        asked = request.ask_worker(connection, pool, kind, arguments, requested_by=env.actor, seconds=timeout)
        if secret:
            hidden = env.vault.encrypt(secret_purpose(asked), json.dumps(secret).encode())
            run(connection, "UPDATE request SET secret = %s WHERE id = %s", hidden, asked)
        nobody = _nobody(connection, pool, timeout)
    return request.wait(env.database, asked, seconds=timeout, nobody=nobody)


def _nobody(connection: Connection, pool: str, timeout: float) -> BootpointError:
    alive = one(connection, "SELECT count(*) AS n FROM process WHERE seen_at > now() - interval '30 seconds'")
    if alive is None or not alive["n"]:
        return error(Code.NO_SCHEDULER, f"no process of bootpoint relayed the question within {timeout:g} s")
    return error(Code.NO_WORKER, f"no worker of pool {pool} answered within {timeout:g} s", key="pool", value=pool)


def ask_agent(
    env: Environment, name: str, kind: str, arguments: dict[str, Any], *, timeout: float = TIMEOUT
) -> dict[str, Any]:
    """Ask an agent and wait for the answer.

    Raises:
        RetryableError: ``agent_offline``: no answer came.
        BootpointError: What was answered instead.
    """
    with env.database.transaction() as connection:
        agents.get(connection, name)
        asked = request.ask_agent(connection, name, kind, arguments, requested_by=env.actor, seconds=timeout)
    nobody = error(Code.AGENT_OFFLINE, f"agent {name} did not answer within {timeout:g} s", key="agent", value=name)
    return request.wait(env.database, asked, seconds=timeout, nobody=nobody)
