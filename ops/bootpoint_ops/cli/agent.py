"""``bootpoint agent``: the machines that are protected."""

from __future__ import annotations

import re
import secrets
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import click

from bootpoint_common.crypto import Token
from bootpoint_common.errors import Code, error
from bootpoint_common.store import agent as agents
from bootpoint_common.store import event
from bootpoint_common.store.database import run
from bootpoint_ops import read
from bootpoint_ops.cli.output import emit, fields, output_option, say, session, table

#: Names that fit routing keys and permissions of the broker.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


@click.group()
def agent() -> None:
    """Agents: the machines whose disks are protected."""


@agent.command()
@click.argument("name", required=False)
@click.option("--file", "file", type=click.File(), help="A file with a name on each line.")
@click.option("--pool", default="kvm", show_default=True, help="Home pool: where its messages go.")
@click.option(
    "--broker-url",
    help="AMQP URL with the agent's own login. [default: made of BOOTPOINT_BROKER_URL, with a new password]",
)
@output_option
def enroll(name: str | None, file: IO[str] | None, pool: str, broker_url: str | None) -> None:
    """Make agents, or give them new tokens; each token joins one machine, once, within 24 hours."""
    names = [name] if name else []
    if file is not None:
        names += [line.strip() for line in file if line.strip() and not line.startswith("#")]
    if not names:
        raise click.UsageError("name an agent, or give a --file", click.get_current_context())
    items = [_enroll(each, pool, broker_url) for each in names]
    if session().json:
        emit({"items": items}, lambda _out: None)
        return
    for item in items:
        for command in item["broker_commands"]:
            click.echo(f"# on the broker: {command}", err=True)
        click.echo(f"# on {item['agent']}: paste the next line into `bootpoint-agent join -`", err=True)
        click.echo(item["token"])


def _enroll(name: str, pool: str, broker_url: str | None) -> dict[str, Any]:
    from bootpoint_common.stream.rabbit import agent_permissions

    here = session()
    if _NAME.fullmatch(name) is None:
        raise error(
            Code.SPEC_INVALID,
            f"{name!r} is no name of an agent",
            key="name",
            value=name,
            hint="use letters, digits, _ and -",
        )
    commands: list[str] = []
    if broker_url is None:
        own = here.env.config.broker_url
        if own is None:
            raise error(
                Code.SPEC_INVALID,
                "agents on other machines need a broker",
                key="BOOTPOINT_BROKER_URL",
                hint="set it, or say --broker-url; this machine's own agent runs in `bootpoint up` without a token",
            )
        # The agent gets a login of its own: with ours it could read and write everything.
        parts, password = urlsplit(own), secrets.token_hex(24)
        broker_url = urlunsplit(parts._replace(netloc=f"{quote(name)}:{password}@{parts.netloc.rpartition('@')[2]}"))
        vhost = unquote(parts.path.removeprefix("/")) or "/"
        commands = [f"rabbitmqctl add_user {name} {password}", *agent_permissions(name).commands(vhost, name)]
    secret = secrets.token_bytes(32)
    with here.env.database.transaction() as connection:
        agents.enroll(connection, name, pool, here.env.vault.encrypt(agents.join_purpose(name), secret))
        event.record(
            connection, "agent_enrolled", f"a token for agent {name} was made", actor=here.env.actor, agent=name
        )
    token = Token(name, pool, broker_url, "", secret)
    return {"agent": name, "pool": pool, "token": token.encode(), "broker_commands": commands}


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
    """Refuse an agent's key from now on; `enroll` lets the machine join again."""
    here = session()
    with here.env.database.transaction() as connection:
        found = agents.get(connection, name)
        run(
            connection,
            "UPDATE agent SET revoked_at = coalesce(revoked_at, now()), join_secret = NULL WHERE id = %s",
            found.id,
        )
        event.record(
            connection, "agent_revoked", f"the key of agent {name} was revoked", actor=here.env.actor, agent=name
        )
        item = read.agent(connection, name)
    say(f"agent {name} revoked", item)
