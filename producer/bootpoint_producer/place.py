"""Where an agent's settings and its state are, as its commands are told; and that only one process works there."""

from __future__ import annotations

import dataclasses
import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from bootpoint_common.config import AGENT_FILE, AGENT_STATE, AgentConfig
from bootpoint_common.errors import Code, error
from bootpoint_producer.state import AgentState, Identity

F = TypeVar("F", bound=Callable[..., Any])


def place_options(command: F) -> F:
    """Add ``--config`` and ``--state`` to a command."""
    config = click.option(
        "--config",
        "config_file",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="BOOTPOINT_AGENT_CONFIG",
        help=f"The agent's configuration. [env: BOOTPOINT_AGENT_CONFIG; default: {AGENT_FILE}]",
    )
    state = click.option(
        "--state",
        "state_directory",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="BOOTPOINT_AGENT_STATE",
        help=f"Where it keeps key and maps. [env: BOOTPOINT_AGENT_STATE; default: as configured, or {AGENT_STATE}]",
    )
    return config(state(command))


def settings(config_file: Path | None, state_directory: Path | None) -> AgentConfig:
    """Read the settings.

    Raises:
        UsageError: ``spec_invalid``: the file that was named isn't there, or has errors.
    """
    if config_file is not None and not config_file.is_file():
        raise error(
            Code.SPEC_INVALID,
            f"there is no file {config_file}",
            key="--config",
            value=str(config_file),
            hint="name an existing file",
        )
    config = AgentConfig.read(config_file) if config_file is not None else AgentConfig.read()
    return (
        config if state_directory is None else dataclasses.replace(config, state_directory=state_directory.absolute())
    )


def state_of(config: AgentConfig) -> AgentState:
    """Return the agent's state, whose directory is made where it isn't there.

    Raises:
        UsageError: ``spec_invalid``: it can't be used.
    """
    try:
        return AgentState(config.state_directory)
    except OSError as exc:
        raise error(
            Code.SPEC_INVALID,
            f"the state directory can't be used: {exc}",
            key="state_directory",
            value=str(config.state_directory),
            hint="run the agent as root, or name another directory with --state",
        ) from exc


def identity_of(state: AgentState) -> Identity:
    """Return who the agent is.

    Raises:
        NotFoundError: ``no_such_agent``: it hasn't joined yet.
    """
    identity = state.identity()
    if identity is None:
        raise error(
            Code.NO_SUCH_AGENT,
            "this agent has not joined yet",
            hint="make a token with `bootpoint agent enroll NAME`, and give it to `bootpoint-agent join -` on stdin",
        )
    return identity


@contextmanager
def only_one(state: AgentState) -> Iterator[None]:
    """Be the one process that speaks as this agent.

    Raises:
        RetryableError: ``busy``: another one does.
    """
    with (state.directory / "agent.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = f"an agent runs already over {state.directory}"
            raise error(
                Code.BUSY, text, key="state_directory", value=str(state.directory), hint="stop it first"
            ) from None
        yield
