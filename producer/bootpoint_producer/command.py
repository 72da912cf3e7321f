"""The command line of the agent: `bootpoint-agent join | run | disks | status | event`."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bootpoint_common import allocator, diskview, log, machine
from bootpoint_common.config import AGENT_FILE, AGENT_STATE, AgentConfig
from bootpoint_common.enrolment import Token
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.stream import rabbit
from bootpoint_common.stream.carrier import AgentCarrier, CarrierLost
from bootpoint_common.systemd import Manager, manager_option
from bootpoint_producer import diskmap, event_command
from bootpoint_producer.agent import VERSION, Agent, refuse_copy
from bootpoint_producer.authority import first_trust, keep, known_trust
from bootpoint_producer.join import join as join_installation
from bootpoint_producer.occasion import Kind
from bootpoint_producer.state import AgentState, Identity
from bootpoint_producer.trackers import providers

F = TypeVar("F", bound=Callable[..., Any])

#: Seconds that `join` waits for an answer unless told otherwise: a worker takes well under one.
JOIN_TIMEOUT = 60.0

#: Exit code of what Ctrl-C ended.
_CANCELLED = 130

#: Width of a table that doesn't go to a terminal.
_PIPE_WIDTH = 1000


class Root(click.Group):
    """Turns errors into messages on stderr and exit codes: 1 failed, 2 usage, 3 not found, 4 refused, 130 cancelled."""

    def main(self, args: Sequence[str] | None = None, *positional: Any, **extra: Any) -> Any:
        """Run a call and end the process, or raise `SystemExit`."""
        words = list(sys.argv[1:] if args is None else args)
        extra.update(standalone_mode=False)
        try:
            code = super().main(words, *positional, **extra)
        except BootpointError as problem:
            _complain(problem, words)
            code = problem.exit_code
        except (click.Abort, KeyboardInterrupt):
            code = _CANCELLED
        except click.ClickException as wrong:
            _complain(
                error(Code.SPEC_INVALID, wrong.format_message(), hint="`bootpoint-agent --help` explains the commands"),
                words,
            )
            code = 2
        sys.exit(code if isinstance(code, int) else 0)


def _complain(problem: BootpointError, words: Sequence[str]) -> None:
    pairs = zip(words, [*words[1:], ""], strict=True)
    if any((one in ("-o", "--output") and two == "json") or one in ("-ojson", "--output=json") for one, two in pairs):
        click.echo(json.dumps(problem.as_json(), ensure_ascii=False), err=True)
        return
    lines = [f"error: {problem.message} ({problem.code})"]
    if problem.key:
        lines.append(f"  {problem.key}" + ("" if problem.value is None else f" = {problem.value}"))
    if problem.hint:
        lines.append(f"  {problem.hint}")
    click.echo("\n".join(lines), err=True)


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


def output_option(command: F) -> F:
    """Add ``-o table|json`` to a command."""
    return click.option(
        "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="How to print."
    )(command)


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


def _state(config: AgentConfig) -> AgentState:
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


def _identity(state: AgentState) -> Identity:
    identity = state.identity()
    if identity is None:
        raise error(
            Code.NO_SUCH_AGENT,
            "this agent has not joined yet",
            hint="make a token with `bootpoint agent enroll NAME`, and give it to `bootpoint-agent join -` on stdin",
        )
    return identity


@contextmanager
def _only_one(state: AgentState) -> Iterator[None]:
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
    state = _state(config)
    with _only_one(state):
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
    state = _state(config)
    with _only_one(state):
        identity = _identity(state)
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
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in diskview.COLUMNS[:-1]:  # which jobs protect a disk is known to the database only
        table.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    for cells in diskview.lines(found):
        table.add_row(*(Text(cell) for cell in cells[:-1]))
    _print(table)


@main.command()
@output_option
@place_options
def status(output: str, config_file: Path | None, state_directory: Path | None) -> None:
    """Show who this agent is, which points it holds as bases, and whether the broker answers.

    Exits with 1 when the broker doesn't answer, and with 4 on a copy of the machine.
    """
    config = settings(config_file, state_directory)
    state = _state(config)
    identity = _identity(state)
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
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        for name in ("agent", "pool", "key_id", "version", "state_directory", "broker", "broker_problem"):
            if value[name] is not None:
                table.add_row(Text(name.replace("_", " "), style="bold"), Text(str(value[name])))
        for base in bases:
            table.add_row(Text("base", style="bold"), Text(f"point {base['point']} of replica {base['replica']}"))
        _print(table)
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


def _print(what: Table | Text) -> None:
    terminal = sys.stdout.isatty()
    Console(width=None if terminal else _PIPE_WIDTH, highlight=False, soft_wrap=not terminal).print(what)
