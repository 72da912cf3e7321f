"""``bootpoint event``: logins for those who say what happens to sources."""

from __future__ import annotations

import re
import secrets
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import click

from bootpoint_common.errors import Code, error
from bootpoint_common.store import agent as agents
from bootpoint_common.store import event as history
from bootpoint_ops.cli.output import emit, output_option, session

#: Names that fit the broker's users and routing keys.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


@click.group()
def event() -> None:
    """Shutdowns and restarts of sources, said by others than their agents."""


@event.command()
@click.argument("name")
@click.option("--source", "sources", multiple=True, metavar="AGENT", help="A source it may speak of. [default: all]")
@output_option
def user(name: str, sources: tuple[str, ...]) -> None:
    """Make a login of the broker that can say what happens to sources, and nothing else."""
    from bootpoint_common.stream.rabbit import event_permissions

    here = session()
    if _NAME.fullmatch(name) is None:
        hint = "use letters, digits, _ and -"
        raise error(Code.SPEC_INVALID, f"{name!r} is no name of a login", key="name", value=name, hint=hint)
    own = here.env.config.broker_url
    if own is None:
        raise error(
            Code.SPEC_INVALID,
            "others can say what happens only where there is a broker",
            key="BOOTPOINT_BROKER_URL",
            hint="set it; without a broker `bootpoint-agent event` says it on the machine itself",
        )
    parts, password = urlsplit(own), secrets.token_hex(24)
    vhost = unquote(parts.path.removeprefix("/")) or "/"
    url = urlunsplit(parts._replace(netloc=f"{quote(name)}:{password}@{parts.netloc.rpartition('@')[2]}"))
    text = f"a login was made that says what happens to {', '.join(sources) or 'any source'}"
    with here.env.database.transaction() as connection:
        for source in sources:
            agents.get(connection, source)
        if agents.find(connection, name) is not None:
            hint = "choose another name: the login of that name is the agent's"
            raise error(Code.SPEC_INVALID, f"{name} is an agent", key="name", value=name, hint=hint)
        history.record(
            connection, "event_user_made", text, actor=here.env.actor, details={"user": name, "sources": list(sources)}
        )  # fmt: skip
    commands = [f"rabbitmqctl add_user {name} {password}", *event_permissions(sources).commands(vhost, name)]
    item = {"user": name, "url": url, "sources": list(sources) or None, "broker_commands": commands}
    if session().json:
        emit(item, lambda _out: None)
        return
    for command in commands:
        click.echo(f"# on the broker: {command}", err=True)
    click.echo("# the sender publishes to the exchange bp.events with this URL:", err=True)
    click.echo(url)
