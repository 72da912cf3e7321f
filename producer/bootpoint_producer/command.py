"""The command line of the agent: `bootpoint-agent join | run | disks | status | event`."""

from __future__ import annotations

import json
import signal
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from bootpoint_common import allocator, diskview, log, machine
from bootpoint_common.config import AgentConfig
from bootpoint_common.enrolment import Token
from bootpoint_common.errors import Code, error
from bootpoint_common.stream import rabbit
from bootpoint_common.stream.carrier import AgentCarrier, CarrierLost
from bootpoint_common.systemd import Manager, manager_option
from bootpoint_producer import diskmap, event_command
from bootpoint_producer.agent import VERSION, Agent, refuse_copy
from bootpoint_producer.authority import first_trust, keep, known_trust
from bootpoint_producer.join import join as join_installation
from bootpoint_producer.occasion import Kind
from bootpoint_producer.place import identity_of, only_one, place_options, settings, state_of
from bootpoint_producer.state import AgentState, Identity
from bootpoint_producer.terminal import Root, output_option, show, table
from bootpoint_producer.trackers import providers

#: Seconds that `join` waits for an answer unless told otherwise: a worker takes well under one.
JOIN_TIMEOUT = 60.0


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="bootpoint-agent")
def main() -> None:
    """Send this machine's changed blocks to bootpoint."""


@main.command()
@click.argument("token", metavar="-")
@click.option(
    "--timeout",
    default=JOIN_TIMEOUT,
    show_default=True,
    type=click.FloatRange(1),
    help="Seconds to wait for an answer.",
)
@place_options
def join(token: str, timeout: float, config_file: Path | None, state_directory: Path | None) -> None:
    """Join an installation with the token on stdin, which `bootpoint agent enroll NAME` printed."""
    if token != "-":  # noqa: S105 - no secret, but the word for stdin
        raise error(
            Code.SPEC_INVALID,
            "a token is a secret: it is read from stdin only, where no process list and no shell history shows it",
            key="token",
            hint="`bootpoint-agent join -`, and paste the token, or pipe it in",
        )
    config = settings(config_file, state_directory)
    state = state_of(config)
    with only_one(state):
        found = _read_token()
        trust = first_trust(config, state, found)
        with closing(rabbit.connect_agent(found.broker_url, found.agent, trust)) as carrier:
            identity = join_installation(state, found, carrier, machine.identity(), version=VERSION, timeout=timeout)
        keep(state, trust)
    click.echo(f"joined as {identity.name}; start the agent with `bootpoint-agent run`")


def _read_token() -> Token:
    text = click.prompt("Token", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.read()
    try:
        return Token.decode(text)
    except ValueError as exc:
        hint = "copy the whole line that `bootpoint agent enroll NAME` printed"
        raise error(Code.SPEC_INVALID, str(exc), key="token", hint=hint) from None


@main.command()
@manager_option
@place_options
def run(manager: Manager, config_file: Path | None, state_directory: Path | None) -> None:
    """Serve runs in the foreground until SIGTERM."""
    allocator.reuse_buffers()
    config = settings(config_file, state_directory)
    log.configure(config.log_format, config.log_level)
    state = state_of(config)
    with only_one(state):
        identity = identity_of(state)
        refuse_copy(identity, machine.identity())
        _require_broker(identity)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: stop.set())
        agent = Agent(state, config, _carrier(identity, config, state))
        agent.start()
        click.echo(f"agent {identity.name} runs; SIGTERM ends it")
        manager.tell("READY=1")
        stop.wait()
        manager.tell("STOPPING=1")
        agent.stop()


def _carrier(identity: Identity, config: AgentConfig, state: AgentState) -> AgentCarrier:
    return rabbit.connect_agent(identity.broker_url, identity.name, known_trust(config, state))


def _require_broker(identity: Identity) -> None:
    if not identity.broker_url:
        raise error(
            Code.NO_SUCH_AGENT,
            f"agent {identity.name} belongs to `bootpoint up`, which runs it by itself",
            key="state_directory",
            hint="join with a token to run it on its own",
        )


@main.command()
@diskview.draw_option
@output_option
@place_options
def disks(drawn: bool | None, output: str, config_file: Path | None, state_directory: Path | None) -> None:
    """List this machine's disks, what is on them, and whether they can be protected."""
    config = settings(config_file, state_directory)
    identity = AgentState(config.state_directory).identity() if config.state_directory.is_dir() else None
    files = [Path(entry.removeprefix("file:")) for entry in config.files]
    name = None if identity is None else identity.name
    trackers = providers(str(config.tracker), directory=config.state_directory)
    found = diskmap.inventory(files, agent=name, trackers=trackers)
    diskview.warn(found)
    if output == "json":
        click.echo(json.dumps(diskview.public(found), ensure_ascii=False))
    elif not found["items"]:
        click.echo("no disks")
    elif drawn or (drawn is None and sys.stdout.isatty()):
        diskview.paint(Console(), found)
    else:
        _print_table(found)


def _print_table(found: dict[str, Any]) -> None:
    shown = table(header=True)
    for name in diskview.COLUMNS[:-1]:  # which jobs protect a disk is known to the database only
        shown.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    for cells in diskview.lines(found):
        shown.add_row(*(Text(cell) for cell in cells[:-1]))
    show(shown)


@main.command()
@output_option
@place_options
def status(output: str, config_file: Path | None, state_directory: Path | None) -> None:
    """Show who this agent is, which points it holds as bases, and whether the broker answers.

    Exits with 1 when the broker doesn't answer, and with 4 on a copy of the machine.
    """
    config = settings(config_file, state_directory)
    state = state_of(config)
    identity = identity_of(state)
    refuse_copy(identity, machine.identity())
    problem = _broker_problem(_carrier(identity, config, state)) if identity.broker_url else None
    bases = [{"replica": str(replica), "point": str(base.point_id)} for replica, base in state.bases()]
    value = {
        "agent": identity.name,
        "pool": identity.pool,
        "key_id": identity.key.key_id,
        "version": VERSION,
        "state_directory": str(state.directory),
        "broker": "embedded" if not identity.broker_url else "answers" if problem is None else "unreachable",
        "broker_problem": problem,
        "bases": bases,
    }
    if output == "json":
        click.echo(json.dumps(value, ensure_ascii=False))
    else:
        shown = table(header=False)
        for name in ("agent", "pool", "key_id", "version", "state_directory", "broker", "broker_problem"):
            if value[name] is not None:
                shown.add_row(Text(name.replace("_", " "), style="bold"), Text(str(value[name])))
        for base in bases:
            shown.add_row(Text("base", style="bold"), Text(f"point {base['point']} of replica {base['replica']}"))
        show(shown)
    if problem is not None:
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("kind", type=click.Choice(["shutdown", "restart"]))
@click.option("--origin", default="command line", show_default=True, help="Who says so, for the history.")
@click.option(
    "--timeout",
    "patience",
    type=click.FloatRange(1),
    help="Seconds to wait until somebody takes it. [default: 10; for a restart 600]",
)
@click.option("--once", is_flag=True, help="Do nothing where this start of the machine has been told already.")
@manager_option
@output_option
@place_options
def event(kind: str, config_file: Path | None, state_directory: Path | None, **said: Any) -> None:
    """Say that this machine is about to stop, or has started: runs of its jobs follow.

    A shutdown waits until everything is with the broker, or the deadline is over. Exits with 1 where it isn't.
    """
    directory = settings(config_file, state_directory).state_directory
    said["as_json"] = said.pop("output") == "json"
    if code := event_command.happen(directory, Kind(kind), **said):
        raise click.exceptions.Exit(code)


def _broker_problem(carrier: AgentCarrier) -> str | None:
    """Return why the broker can't be used; None when it answers."""
    with closing(carrier):
        try:
            carrier.publisher().close()
        except CarrierLost as lost:
            return str(lost)
    return None
