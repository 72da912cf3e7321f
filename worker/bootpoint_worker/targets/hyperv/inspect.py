"""What a Hyper-V host is and has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bootpoint_worker.targets.host import Cluster, HostInfo, Network, Node, Storage
from bootpoint_worker.targets.hyperv.session import HyperVSession
from bootpoint_worker.targets.hyperv.way import SMB_SETTING

#: Kind of a virtual switch -> what a VM on it reaches. On an internal one it is the host, which may route.
SWITCH_KINDS = {"External": "bridge", "Internal": "route", "Private": "isolated"}

#: First Windows build that has Secure Boot templates, and so a signed Linux: Windows Server 2016.
_TEMPLATES_BUILD = 14393


def inspect_host(session: HyperVSession) -> HostInfo:
    """Ask the host what it is and has, but for its VMs, and for what the driver makes of its hardware.

    Raises:
        RetryableError: ``host_unreachable``.
        FatalError: ``host_auth``, ``host_permission``, ``host_unsupported``: no Hyper-V, or too old a Windows.
    """
    facts = session.call("inspect_host", safe=True)
    cluster = facts["cluster"]
    shared = cluster["volumes"] if cluster else []
    return HostInfo(
        version=f"{facts['caption']} {facts['version']}, Hyper-V module {facts['module']},"
        f" PowerShell {facts['powershell']}",
        cpus=facts["cpus"],
        memory_bytes=facts["memory_bytes"],
        storages=tuple(
            Storage(each["name"], each["path"], each["size_bytes"], each["free_bytes"])
            for each in [*facts["volumes"], *shared]
        ),
        networks=tuple(Network(each["name"], SWITCH_KINDS.get(each["kind"], "bridge")) for each in facts["switches"]),
        buses=(),
        nic_models=(),
        vms=(),
        hints=tuple(_hints(session, facts)),
        cluster=_cluster(facts["name"], cluster) if cluster else None,
    )


def _cluster(own: str, cluster: Mapping[str, Any]) -> Cluster:
    nodes = tuple(Node(each["name"], each["state"].lower()) for each in cluster["nodes"])
    return Cluster(cluster["name"], own, nodes)


def _hints(session: HyperVSession, facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the host could have besides."""
    cluster = facts["cluster"]
    if cluster and cluster["problem"]:
        yield (
            f"it is a node of a cluster, which refuses this login ({cluster['problem']}): use Kerberos,"
            " --auth kerberos --delegate; docs/hyperv.md, Clusters"
        )
    if build_of(facts["version"]) < _TEMPLATES_BUILD:
        yield "machines with Secure Boot that don't run Windows start without it there: it takes Windows Server 2016"
    if session.access.settings.get(SMB_SETTING) == "signed":
        yield "what is written to disks there is signed, but not encrypted on the way: --smb encrypted"


def build_of(version: str) -> int:
    """Return the build of a Windows version: 14393 of ``10.0.14393``."""
    return int(version.split(".")[2])
