"""Which versions of vSphere are served."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from bootpoint_common.errors import Code, error
from bootpoint_worker.targets.certificate import LEGACY_SETTING
from bootpoint_worker.targets.host import HostAccess

if TYPE_CHECKING:
    from pyVmomi import vim

#: Where a host lists the versions of the API that it serves, without a login. Source: vSphere Web Services SDK
#: Programming Guide, "Identifying the API Versions Available on the Server".
VERSIONS = "/sdk/vimServiceVersions.xml"

#: Oldest version of vSphere: the first whose API has all that is used here.
OLDEST = (5, 1)

#: Oldest version that is served without being asked for: what is older ended in March 2022, and may speak TLS 1.0 only.
CURRENT = (6, 5)


def require_version(access: HostAccess, about: vim.AboutInfo) -> None:
    """Look at what a host says that it is, before anybody logs in.

    Raises:
        FatalError: ``host_unsupported``.
    """
    version = tuple(int(part) for part in re.findall(r"\d+", about.version or "")[:2])
    name, hint = f"host {access.name} is {about.fullName}", None
    if about.apiType not in ("HostAgent", "VirtualCenter"):
        text = f"{name}, neither an ESXi host nor a vCenter"
    elif version < OLDEST:
        text = f"{name}; bootpoint needs vSphere {OLDEST[0]}.{OLDEST[1]} or later"
        hint = "update the host"
    elif version < CURRENT and not access.settings.get(LEGACY_SETTING):
        text = f"{name}; vSphere before {CURRENT[0]}.{CURRENT[1]} is served only where it is asked for"
        hint = f"update the host, or say `bootpoint host set {access.name} --legacy-tls`: its TLS may be weak"
    else:
        return
    raise error(Code.HOST_UNSUPPORTED, text, key="version", value=about.version, hint=hint, host=access.name)


def newest_common(access: HostAccess, status: int, listed: bytes) -> str:
    """Return pyVmomi's name of the newest version of the API that a host serves and pyVmomi knows.

    pyVmomi's `SmartStubAdapter` finds the same, but asks without a time limit.

    Args:
        access: The host.
        status: Status of its answer to `VERSIONS`.
        listed: The answer.

    Raises:
        FatalError: ``host_unsupported``: there is none.
    """
    from pyVmomi import VmomiSupport

    try:
        served = {node.text for node in ET.fromstring(listed).iter("version")}  # noqa: S314 - of a host that is known
    except ET.ParseError:
        served = set()
    for name in VmomiSupport.GetServiceVersions("vim25"):
        if VmomiSupport.versionIdMap[name] in served:
            return str(name)
    raise error(
        Code.HOST_UNSUPPORTED,
        f"{access.address} port {access.port} serves no vSphere API (HTTP status {status})",
        key="address",
        value=access.address,
        hint="name an ESXi host or a vCenter, and the port of its API",
        host=access.name,
    )
