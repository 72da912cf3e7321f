"""How a Hyper-V host is reached: by which way commands and files go, as its settings say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bootpoint_worker.smb.session import PORT as SMB_PORT
from bootpoint_worker.smb.session import SmbAccess
from bootpoint_worker.targets.host import HostAccess

#: Setting: ``tls``, or ``http``, whose messages NTLM or Kerberos encrypts; by default the port decides.
WINRM_SETTING = "winrm"

#: Setting: ``ntlm`` (default) or ``kerberos``.
AUTH_SETTING = "auth"

#: Setting: whether the host is given the Kerberos ticket itself, by which it speaks to others as the account: a cluster
#: wants that. It could go anywhere with it, so it isn't by default.
DELEGATE_SETTING = "delegate"

#: Setting: ``encrypted`` (default), or ``signed``: bytes of disks can then be read on the way, and go faster.
SMB_SETTING = "smb"

#: Setting: TCP port of SMB where it is forwarded.
SMB_PORT_SETTING = "smb_port"

#: Setting: name of each other node of a cluster -> fingerprint of its certificate.
NODES_SETTING = "nodes"

#: TCP port of WinRM over plain HTTP.
HTTP_PORT = 5985


def by_tls(port: int, settings: Mapping[str, Any]) -> bool:
    """Tell whether commands go by TLS."""
    way = settings.get(WINRM_SETTING) or ("http" if port == HTTP_PORT else "tls")
    return str(way) == "tls"


def by_kerberos(access: HostAccess) -> bool:
    """Tell whether the login is by the Kerberos ticket of this machine."""
    return access.settings.get(AUTH_SETTING) == "kerberos"


def endpoint(access: HostAccess) -> str:
    """Return the URL of its WinRM service."""
    scheme = "https" if by_tls(access.port, access.settings) else "http"
    address = f"[{access.address}]" if ":" in access.address else access.address
    return f"{scheme}://{address}:{access.port}/wsman"


def smb_access(access: HostAccess) -> SmbAccess:
    """Return how its files are reached."""
    return SmbAccess(
        host=access.name,
        address=access.address,
        user=access.user,
        password=access.password,
        port=int(access.settings.get(SMB_PORT_SETTING) or SMB_PORT),
        encrypted=access.settings.get(SMB_SETTING) != "signed",
        kerberos=by_kerberos(access),
    )


def node_access(access: HostAccess, node: str) -> HostAccess:
    """Return how another node of a host's cluster is reached: by its name, and with its own certificate.

    Args:
        access: The host.
        node: Name of the node, as the cluster names it.
    """
    nodes = {name.lower(): fingerprint for name, fingerprint in (access.settings.get(NODES_SETTING) or {}).items()}
    return replace(access, address=node, fingerprint=nodes.get(node.lower()))
