"""``bootpoint event``: logins for those who say what happens to sources."""

from __future__ import annotations

import click

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.store import agent as agents
from bootpoint_common.store import event as history
from bootpoint_ops.cli.output import emit, output_option, say, session
from bootpoint_ops.login import Login, Logins, Tag, check_name


@click.group()
def event() -> None:
    """Shutdowns and restarts of sources, said by others than their agents."""


@event.command()
@click.argument("name")
@click.option("--source", "sources", multiple=True, metavar="AGENT", help="A source it may speak of. [default: all]")
@click.option("--remove", is_flag=True, help="Take the login away.")
@output_option
def user(name: str, sources: tuple[str, ...], *, remove: bool) -> None:
    """Make a login of the broker that can say what happens to sources, and nothing else."""
    check_name(name, "a login")
    logins = Logins(
        session().env.config,
        purpose="others can say what happens only where there is a broker",
        hint="set it; without a broker `bootpoint-agent event` says it on the machine itself",
    )
    if remove:
        _remove(name, logins)
        return
    login = _make(name, sources, logins)
    if session().json:
        item = {"user": name, "url": login.url, "sources": list(sources) or None, "broker_commands": login.commands}
        emit(item, lambda _out: None)
        return
    for command in login.commands:
        click.echo(f"# on the broker: {command}", err=True)
    click.echo("# the sender publishes to the exchange bp.events with this URL:", err=True)
    click.echo(login.url)


def _make(name: str, sources: tuple[str, ...], logins: Logins) -> Login:
    from bootpoint_common.stream.rabbit import event_permissions

    here, rights = session(), event_permissions(sources)
    with here.env.database.transaction() as connection:
        for source in sources:
            agents.get(connection, source)
        if agents.find(connection, name) is not None:
            hint = "choose another name: the login of that name is the agent's"
            raise error(Code.SPEC_INVALID, f"{name} is an agent", key="name", value=name, hint=hint)
    try:
        logins.check(name, Tag.SENDER, rights)
        login = logins.make(name, Tag.SENDER, rights, known=False)
    except BootpointError as problem:
        _tell("event_user_failed", f"no login was made for {name}: {problem.message}", name, code=problem.code)
        raise
    text = f"a login was made that says what happens to {', '.join(sources) or 'any source'}"
    _tell("event_user_made", text, name, sources=list(sources))
    return login


def _remove(name: str, logins: Logins) -> None:
    from bootpoint_common.stream.rabbit import event_permissions

    try:
        commands = logins.remove(name, Tag.SENDER, event_permissions())
    except BootpointError as problem:
        _tell("event_user_failed", f"the login {name} was not removed: {problem.message}", name, code=problem.code)
        raise
    _tell("event_user_removed", f"the login {name} was {'to be ' if commands else ''}removed", name)
    for command in commands:
        click.echo(f"# on the broker: {command}", err=True)
    text = f"login {name} removed" if not commands else f"login {name} works until the command above was given"
    say(text, {"user": name, "broker_commands": commands})


def _tell(kind: str, text: str, name: str, *, sources: list[str] | None = None, code: Code | None = None) -> None:
    here = session().env
    details = {"user": name} if sources is None else {"user": name, "sources": sources}
    with here.database.transaction() as connection:
        history.record(
            connection, kind, text, actor=here.actor, code=None if code is None else str(code), details=details
        )
