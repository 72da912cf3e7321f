"""A host as the options of `access` state it: secrets read, what belongs to other kinds refused, its key confirmed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bootpoint_common.errors import Code, error
from bootpoint_ops import host as hosts
from bootpoint_ops.cli.access import KINDS

#: Kinds of hosts that show a certificate by TLS, and no key of SSH.
CERTIFIED = ("esxi", "hyperv")

#: Account on a host where none is named, by kind; ``root`` for the others.
USERS = {"hyperv": "Administrator"}

#: Kinds of hosts that show a key at the first contact -> how their owner reads it on the host itself.
KEYS = {
    "kvm": "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the host",
    "esxi": "`openssl x509 -in /etc/vmware/ssl/rui.crt -noout -fingerprint -sha256` on the host"
    " (on a vCenter /etc/vmware-vpx/ssl/rui.crt)",
    "hyperv": "`Get-ChildItem Cert:\\LocalMachine\\My | ForEach-Object { $_.Subject; [BitConverter]::ToString("
    "[Security.Cryptography.SHA256]::Create().ComputeHash($_.RawData)) }` on the host",
}


def secrets_of(ssh_key: Path | None, password_file: Path | None, *, ask: bool = False) -> dict[str, str]:
    """Read credentials from files or from the terminal; they are never arguments, which every user can see."""
    found = {}
    if ssh_key is not None:
        found["ssh_key"] = ssh_key.read_text()
    if password_file is not None:
        text = sys.stdin.read() if str(password_file) == "-" else password_file.read_text()
        found["password"] = text.rstrip("\n")
    if ask:
        found["password"] = click.prompt("Password", hide_input=True, err=True)
    return found


def settings_of(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was said of a host that only its kind knows.

    Args:
        kind: The host's kind.
        given: Values of the options in `KINDS`; None where one wasn't used.

    Raises:
        click.UsageError: An option belongs to another kind.
    """
    used = {name: value for name, value in given.items() if value is not None}
    for name in used:
        if KINDS[name] != kind:
            text = f"{option_of(name)} is for hosts of kind {KINDS[name]}; this one is of kind {kind}"
            raise click.UsageError(text, click.get_current_context())
    return used


def option_of(name: str) -> str:
    """Return an option of the command at hand as people type it, by the name of its value."""
    return next(each.opts[0] for each in click.get_current_context().command.params if each.name == name)


def stated_host(
    name: str,
    kind: str,
    *,
    address: str,
    port: int | None,
    user: str | None,
    ssh_key: Path | None,
    password_file: Path | None,
    ask_password: bool,
    fingerprint: str | None,
    pool: str | None = None,
    **given: Any,
) -> hosts.NewHost:
    """Return a host as the options of `login_options` state it, with what its kind has by default.

    Raises:
        click.UsageError: An option belongs to another kind.
        UsageError: ``spec_invalid``: the fingerprint is none.
    """
    settings = settings_of(kind, given)
    return hosts.NewHost(
        name=name, kind=kind, address=address, port=port, user=user or USERS.get(kind, "root"), pool=pool,
        fingerprint=stated_fingerprint(kind, fingerprint),
        secrets=secrets_of(ssh_key, password_file, ask=ask_password),
        settings={"virt_type": "kvm", **settings} if kind == "kvm" else settings,
    )  # fmt: skip


def stated_fingerprint(kind: str, fingerprint: str | None) -> str | None:
    """Return a fingerprint that was typed, in the form in which it is recorded.

    Raises:
        UsageError: ``spec_invalid``: it is none.
    """
    if kind not in CERTIFIED or fingerprint is None:
        return fingerprint
    from bootpoint_worker.targets.certificate import normalised

    return normalised(fingerprint)


def confirmed(
    host: hosts.NewHost, fetch: Callable[[hosts.NewHost], str | None], *, yes: bool | None
) -> hosts.NewHost:
    """Return a host with the key that it must show: the stated one, else the one it shows, which a person confirms.

    Args:
        host: The host as it was stated.
        fetch: Asks it for its key; None where it shows none.
        yes: Whether the key is accepted unseen; None where that can't be said.

    Raises:
        RefusedError: ``host_key_changed``: nobody confirmed it.
    """
    shown = fetch(host) if host.fingerprint is None else None
    if shown is None:
        return host
    what = "certificate" if host.kind in CERTIFIED else "key"
    where = "" if host.name == host.address else f" at {host.address}"
    click.echo(f"host {host.name}{where} shows the {what} {shown}", err=True)
    if not yes and not (sys.stdin.isatty() and click.confirm(f"Is that its {what}?", err=True)):
        raise error(
            Code.HOST_KEY_CHANGED,
            f"the {what} of host {host.name} was not confirmed",
            key="--fingerprint",
            value=shown,
            host=host.name,
            hint=f"compare: {KEYS[host.kind]}; then say --fingerprint{'' if yes is None else ' or --yes'}",
        )
    return replace(host, fingerprint=shown)
