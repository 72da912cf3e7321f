"""How a host is reached, as options of commands: address, account, secrets, its key, and what only one kind knows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from bootpoint_common.errors import Code, error
from bootpoint_ops import host as hosts

F = TypeVar("F", bound=Callable[..., Any])

#: Option that sets what only one kind of host knows -> that kind. Their names are those of the settings.
KINDS = {
    "virt_type": "kvm",
    "virtio_win": "kvm",
    "nbd": "kvm",
    "legacy_tls": "esxi",
    "vddk_libdir": "esxi",
    "vddk_plugin": "esxi",
    "winrm": "hyperv",
    "auth": "hyperv",
    "delegate": "hyperv",
    "smb": "hyperv",
    "smb_port": "hyperv",
    "nodes": "hyperv",
}

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

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def to_look_up(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Take a DNS name or an address; of what is neither, Python's look-up raises what nobody expects.

    Such as one with an empty label (RFC 3490, section 4).
    """
    if value is not None:
        try:
            value.encode("idna")
        except UnicodeError as exc:
            raise click.BadParameter(f"{value!r} is neither a DNS name nor an address") from exc
    return value


def reach_options(*, new: bool) -> Callable[[F], F]:
    """Add the options that say how a host is reached.

    Args:
        new: Whether the host is to be added; else what isn't said stays.
    """
    options = [
        click.option(
            "--address",
            required=new,
            callback=to_look_up,
            help="DNS name or address; 'local' is the machine that the workers run on.",
        ),
        click.option(
            "--port", type=click.IntRange(1, 65535), help="TCP port of its control service. [default: the kind's own]"
        ),
        click.option("--user", help="Account on the host. [default: root; Administrator on Hyper-V]"),
        click.option("--ssh-key", type=_FILE, help="File with the private key."),
        click.option(
            "--password-file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path, allow_dash=True),
            help="File with the password; - reads it from standard input.",
        ),
        click.option("--ask-password", is_flag=True, help="Ask for the password on the terminal."),
        click.option("--fingerprint", help="Fingerprint of the key (SHA256:…) or certificate (4F:0A:…) that it shows."),
        *_kind_options(),
        click.option("--pool", help="Workers that serve it. [default: the kind's pool]"),
    ]

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _kind_options() -> list[Callable[[F], F]]:
    return [
        click.option(
            "--virt-type",
            type=click.Choice(hosts.VIRT_TYPES),
            help="KVM: kvm is with hardware help; qemu is slow, on any machine.",
        ),
        click.option(
            "--virtio-win", metavar="PATH", help="KVM: ISO on the host with drivers for Windows, for conversions."
        ),
        click.option(
            "--nbd", type=click.Choice(["ssh", "tls"]), help="KVM: how data goes there: by SSH or TLS. [default: ssh]"
        ),
        click.option(
            "--legacy-tls/--no-legacy-tls",
            default=None,
            help="ESXi: accept vSphere 5.1 to 6.0, whose TLS may be weak. [default: no]",
        ),
        click.option(
            "--vddk-libdir",
            metavar="DIR",
            help="ESXi: where VMware's disk library lies on the workers' machines. [default: nbdkit's custom]",
        ),
        click.option(
            "--vddk-plugin", metavar="FILE", help="ESXi: nbdkit's vddk plugin, where it isn't installed as a package."
        ),
        *_hyperv_options(),
    ]


def _hyperv_options() -> list[Callable[[F], F]]:
    return [
        click.option(
            "--winrm",
            type=click.Choice(["tls", "http"]),
            help="Hyper-V: how orders go: by TLS, or by HTTP with messages encrypted. [default: http on port 5985]",
        ),
        click.option(
            "--auth",
            type=click.Choice(["ntlm", "kerberos"]),
            help="Hyper-V: login by password, or by the Kerberos ticket of the worker's machine. [default: ntlm]",
        ),
        click.option(
            "--delegate/--no-delegate",
            default=None,
            help="Hyper-V: give the host the Kerberos ticket, for commands of its cluster. [default: no]",
        ),
        click.option(
            "--smb",
            type=click.Choice(["encrypted", "signed"]),
            help="Hyper-V: how data goes there. Signed only is faster; others can read it. [default: encrypted]",
        ),
        click.option(
            "--smb-port", type=click.IntRange(1, 65535), help="Hyper-V: TCP port of SMB, where it is forwarded."
        ),
        click.option(
            "--node",
            "nodes",
            metavar="NAME=FP",
            multiple=True,
            callback=_nodes,
            help="Hyper-V: another node of its cluster, with the fingerprint of its certificate; may be repeated.",
        ),
    ]


def _nodes(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str] | None:
    """Read ``--node NAME=FP``, each; None where there is none."""
    from bootpoint_worker.targets.certificate import normalised

    found = {}
    for each in given:
        name, _, fingerprint = each.partition("=")
        if not name or not fingerprint:
            raise click.BadParameter(f"{each!r} is not NAME=FINGERPRINT", context, parameter)
        found[name.lower()] = normalised(fingerprint, key="--node")
    return found or None


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
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(
                f"{option} is for hosts of kind {KINDS[name]}; this one is of kind {kind}", click.get_current_context()
            )
    return used


def stated_fingerprint(kind: str, fingerprint: str | None) -> str | None:
    """Return a fingerprint that was typed, in the form in which it is recorded.

    Raises:
        UsageError: ``spec_invalid``: it is none.
    """
    if kind not in CERTIFIED or fingerprint is None:
        return fingerprint
    from bootpoint_worker.targets.certificate import normalised

    return normalised(fingerprint)


def confirm_fingerprint(kind: str, name: str, address: str, fingerprint: str, *, yes: bool) -> None:
    """Show a person the key that a host shows, and want it confirmed.

    Raises:
        RefusedError: ``host_key_changed``: it was not.
    """
    what = "certificate" if kind in CERTIFIED else "key"
    click.echo(f"host {name} at {address} shows the {what} {fingerprint}", err=True)
    if yes:
        return
    if sys.stdin.isatty() and click.confirm(f"Is that its {what}?", err=True):
        return
    raise error(
        Code.HOST_KEY_CHANGED,
        f"the {what} of host {name} was not confirmed",
        key="--fingerprint",
        value=fingerprint,
        host=name,
        hint=f"compare: {KEYS[kind]}; then say --fingerprint or --yes",
    )
