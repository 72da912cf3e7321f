"""``bootpoint agent``: the machines that are protected."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from bootpoint_common.config import Config
from bootpoint_common.crypto import Token
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.job.table import BadValue, Problems
from bootpoint_common.store import agent as agents
from bootpoint_common.store import event
from bootpoint_common.tls import CA_FILE, fingerprint, read_certificates
from bootpoint_ops import read
from bootpoint_ops.cli.output import emit, fields, output_option, say, session, table
from bootpoint_ops.login import Login, Logins, Tag, check_name

if TYPE_CHECKING:
    from bootpoint_common.stream.rabbit import Permissions

#: What a command says that needs a broker and finds none.
_NO_BROKER = {
    "purpose": "agents on other machines need a broker",
    "hint": "set it, or say --broker-url-file; this machine's own agent runs in `bootpoint up` without a token",
}


@click.group()
def agent() -> None:
    """Agents: the machines whose disks are protected."""


@agent.command()
@click.argument("name", required=False)
@click.option("--file", "file", type=click.File(), help="A file with a name on each line.")
@click.option("--pool", default="kvm", show_default=True, help="Home pool: where its messages go.")
@click.option(
    "--broker-url-file",
    type=click.File(),
    help="File with the AMQP URL with the agent's own login, - for standard input."
    " [default: made of BOOTPOINT_BROKER_URL, with a new password]",
)
@output_option
def enroll(name: str | None, file: IO[str] | None, pool: str, broker_url_file: IO[str] | None) -> None:
    """Make agents, or give them new tokens; each token joins one machine, once, within 24 hours."""
    names = _names(name, file)
    broker_url = None if broker_url_file is None else _given(broker_url_file)
    logins = None if broker_url is not None else Logins(session().env.config, **_NO_BROKER)
    if logins is not None:
        for each in names:
            with _told(each, "agent_not_enrolled", f"agent {each} was not enrolled"):
                logins.check(each, Tag.AGENT, _rights(each))
    items: list[dict[str, Any]] = []
    try:
        for each in names:
            items.append(_enroll(each, pool, logins, broker_url))
            if not session().json:
                _show(items[-1])
    finally:
        # What was made before something failed is good: its tokens must not be lost with the rest.
        if session().json and items:
            emit({"items": items}, lambda _out: None)


def _given(file: IO[str]) -> str:
    """Read the URL of a login that was made otherwise; what the file holds is never repeated.

    Raises:
        UsageError: ``spec_invalid``.
    """
    url = file.read().strip()
    if not url.startswith(("amqp://", "amqps://")) or not urlsplit(url).hostname:
        raise error(
            Code.SPEC_INVALID, "the file holds no AMQP URL", key="broker-url-file", value=file.name,
            hint="one line: amqp://USER:PASSWORD@HOST:5672/VHOST, or amqps://",
        )  # fmt: skip
    return url


def _names(name: str | None, file: IO[str] | None) -> list[str]:
    """Return the names, each checked before anything is done for the first.

    Raises:
        SpecError: ``spec_invalid``, with every line of the file that is none.
    """
    if name is not None:
        check_name(name, "an agent")
    names = [] if name is None else [name]
    if file is not None:
        names += _lines(file, set(names))
    if not names:
        raise click.UsageError("name an agent, or give a --file", click.get_current_context())
    return names


def _lines(file: Iterable[str], known: set[str]) -> list[str]:
    problems, found = Problems("names", hint="correct the file; nothing was enrolled"), []
    for number, line in enumerate(file, start=1):
        each = line.strip()
        if not each or each.startswith("#"):
            continue
        try:
            check_name(each, "an agent")
        except BootpointError as problem:
            problems.add(f"line {number}", BadValue(problem.message), each)
        else:
            if each in known:
                problems.add(f"line {number}", BadValue(f"{each} stands there twice"), each)
            known.add(each)
            found.append(each)
    problems.close()
    return found


def _enroll(name: str, pool: str, logins: Logins | None, broker_url: str | None) -> dict[str, Any]:
    here = session().env
    secret = secrets.token_bytes(32)
    with _told(name, "agent_not_enrolled", f"agent {name} was not enrolled"), here.database.transaction() as connection:
        before = agents.find(connection, name)
        # Whoever enrolls the same name at this moment waits here: password and secret of a token belong together.
        agents.enroll(connection, name, pool, here.vault.encrypt(agents.join_purpose(name), secret))
        if logins is None:
            login = Login(str(broker_url), [])
        else:
            known = before is not None and before.revoked_at is None
            login = logins.make(name, Tag.AGENT, _rights(name), known=known)
        made = "given" if logins is None else "to be made" if logins.by_hand else "made"
        event.record(
            connection, "agent_enrolled", f"a token for agent {name} was made", actor=here.actor, agent=name,
            details={"broker_login": made},
        )  # fmt: skip
    token = Token(name, pool, login.url, _authority(here.config, login.url), secret)
    return {"agent": name, "pool": pool, "token": token.encode(), "broker_commands": login.commands}


def _show(item: dict[str, Any]) -> None:
    for command in item["broker_commands"]:
        click.echo(f"# on the broker: {command}", err=True)
    click.echo(f"# on {item['agent']}: paste the next line into `bootpoint-agent join -`", err=True)
    click.echo(item["token"])


def _rights(name: str) -> Permissions:
    from bootpoint_common.stream.rabbit import agent_permissions

    return agent_permissions(name)


@contextmanager
def _told(name: str, kind: str, text: str) -> Iterator[None]:
    """Write an event for what fails in the block."""
    try:
        yield
    except BootpointError as problem:
        here = session().env
        with here.database.transaction() as connection:
            event.record(
                connection, kind, f"{text}: {problem.message}", actor=here.actor, agent=name, code=str(problem.code)
            )
        raise


def _authority(config: Config, broker_url: str) -> str:
    """Return the fingerprint of the authority that the agent is to believe; empty for the system's, or without TLS."""
    if config.broker_tls is None or not broker_url.startswith("amqps:"):
        return ""
    return fingerprint(read_certificates(config.broker_tls / CA_FILE)[0])


@agent.command("list")
@click.option("--outdated", is_flag=True, help="Only agents of another version than this program.")
@output_option
def list_(*, outdated: bool) -> None:
    """List the agents."""
    with session().env.database.transaction() as connection:
        items = read.agent_list(connection)
    if outdated:
        from importlib.metadata import version

        items = [item for item in items if item["version"] not in (None, version("bootpoint"))]
    lines = [(i["name"], i["state"], i["version"], i["pool"], i["last_seen_at"], ", ".join(i["jobs"])) for i in items]
    columns = ("NAME", "STATE", "VERSION", "POOL", "LAST SEEN", "JOBS")
    emit(
        {"items": items},
        table(columns, lines, empty="no agents" if outdated else "no agents yet: `bootpoint agent enroll NAME`"),
    )


@agent.command()
@click.argument("name")
@output_option
def show(name: str) -> None:
    """Show an agent."""
    with session().env.database.transaction() as connection:
        item = read.agent(connection, name)
    emit(
        item,
        fields(
            [
                (key.replace("_", " "), ", ".join(value) if isinstance(value, list) else value)
                for key, value in item.items()
            ]
        ),
    )


@agent.command()
@click.argument("name")
@output_option
def revoke(name: str) -> None:
    """Refuse an agent's key from now on, and end its login; `enroll` lets the machine join again."""
    here = session().env
    # The key first: whatever the broker says, nothing that the agent sends is taken any more.
    with here.database.transaction() as connection:
        agents.revoke(connection, agents.get(connection, name).id)
        event.record(connection, "agent_revoked", f"the key of agent {name} was revoked", actor=here.actor, agent=name)
    commands: list[str] = []
    if here.config.broker_url is not None:
        commands = _end_login(name, Logins(here.config, **_NO_BROKER))
    with here.database.transaction() as connection:
        item = {**read.agent(connection, name), "broker_commands": commands}
    if not session().json:
        for command in commands:
            click.echo(f"# on the broker: {command}", err=True)
    say(f"agent {name} revoked", item)


def _end_login(name: str, logins: Logins) -> list[str]:
    """Take an agent's login away, and return the commands that are left for a person to give."""
    here = session().env
    try:
        commands = logins.remove(name, Tag.AGENT, _rights(name))
    except BootpointError as problem:
        text = f"the key of agent {name} was revoked, but its login at the broker was not removed: {problem.message}"
        with here.database.transaction() as connection:
            event.record(connection, "agent_login_left", text, actor=here.actor, agent=name, code=str(problem.code))
        hint = f"{problem.hint}; `bootpoint agent revoke {name}` then does the rest"
        raise error(problem.code, text, key=problem.key, value=problem.value, hint=hint) from problem
    if not commands:
        text = f"the login of agent {name} at the broker was removed, and its connections ended"
        with here.database.transaction() as connection:
            event.record(connection, "agent_login_removed", text, actor=here.actor, agent=name)
    return commands
