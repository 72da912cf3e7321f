"""How a host is reached, as options of commands: address, account, secrets, its key, and what only one kind knows.

What is made of their values: `stated`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bootpoint_ops import host as hosts
from bootpoint_worker.targets import DRIVERS

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


def kind_option(*, default: str | None = None) -> Callable[[F], F]:
    """Add ``--kind``, the hypervisor of a host: it has to be said unless there is a default."""
    text = "Its hypervisor." if default is None else f"With --direct: its hypervisor. [default: {default}]"
    return click.option("--kind", required=default is None, type=click.Choice(sorted(DRIVERS)), help=text)


def reach_options(*, new: bool) -> Callable[[F], F]:
    """Add the options that say how a host is reached by workers.

    Args:
        new: Whether the host is to be added; else what isn't said stays.
    """
    local = "'local' is the machine that the workers run on."
    pool = click.option("--pool", help="Workers that serve it. [default: the kind's pool]")
    return lambda command: login_options(local, required=new)(pool(command))


def login_options(local: str, *, required: bool) -> Callable[[F], F]:
    """Add the options that say how a host is reached, and by which account; `stated_host` takes their values.

    Args:
        local: A sentence: what the address ``local`` is.
        required: Whether the address has to be said.
    """
    options = [
        click.option("--address", required=required, callback=to_look_up, help=f"DNS name or address; {local}"),
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
            help="ESXi: where VMware's disk library lies, on the machine that logs in. [default: nbdkit's custom]",
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
            help="Hyper-V: login by password, or by a Kerberos ticket of the machine that logs in. [default: ntlm]",
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
