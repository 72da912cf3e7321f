"""``bootpoint tls``: a private authority, and the certificates of an installation.

It asks no database, so that it can be run on a machine that is connected to nothing; so the history doesn't know of it.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from bootpoint_common.store.shown import jsonable
from bootpoint_ops.cli.output import emit, output_option, table

#: Days before its end from which a certificate is renewed by ``--renew``, unless told otherwise.
_RENEW_DAYS = 30


@click.group()
def tls() -> None:
    """Certificates for broker, database, metrics, target hosts, processes and agents."""


@tls.command()
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--broker", multiple=True, metavar="NAMES", help="Names and addresses of RabbitMQ, with commas between.")
@click.option("--database", multiple=True, metavar="NAMES", help="Likewise of PostgreSQL.")
@click.option("--metrics", multiple=True, metavar="NAMES", help="Likewise of who serves metrics.")
@click.option("--host", multiple=True, metavar="NAME[=NAMES]", help="A target host, for NBD over TLS.")
@click.option("--client", multiple=True, metavar="NAME", help="A process of ours, such as worker or prometheus.")
@click.option("--agent", multiple=True, metavar="NAME", help="An agent.")
@click.option("--renew", is_flag=True, help="Renew what ends soon.")
@click.option(
    "--within", default=_RENEW_DAYS, show_default=True, type=click.IntRange(0, 3650), help="Days that count as soon."
)
@output_option
def init(directory: Path, *, renew: bool, within: int, **said: tuple[str, ...]) -> None:
    """Make an authority in DIR, and in it a folder with ca.pem, cert.pem and key.pem for each that is named.

    What is there is kept, and listed. Put DIR/authority away afterwards: it is needed for the next certificate only.
    """
    from bootpoint_ops.authority import Authority, wishes
    from bootpoint_ops.certificate import Purpose, Wish

    named = [wish for purpose in Purpose for wish in wishes(purpose, said[str(purpose)])]
    authority = Authority(directory.absolute())
    wanted: dict[str, Wish] = {wish.folder: wish for wish in (*authority.present(), *named)}
    limit = timedelta(days=within) if renew else None
    issued = [authority.require(wish, renew_within=limit) for _, wish in sorted(wanted.items())]
    items: list[dict[str, Any]] = [
        {
            "folder": str(each.folder),
            "state": str(each.state),
            "names": list(each.names),
            "expires_at": jsonable(each.expires_at),
        }
        for each in issued
    ]
    value = {"fingerprint": authority.fingerprint, "expires_at": jsonable(authority.expires_at), "items": items}
    lines = [(i["folder"], i["state"], ", ".join(i["names"]), i["expires_at"]) for i in items]
    emit(value, table(("FOLDER", "STATE", "NAMES", "EXPIRES"), lines, empty="no certificate yet: --help says of what"))
