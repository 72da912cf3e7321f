"""Commands of a failover cluster's nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast
from uuid import UUID

from tests.hyperv import fault
from tests.hyperv.cluster import MOUNT, Cluster
from tests.hyperv.command import command, many, text
from tests.hyperv.machine import Machine
from tests.hyperv.pwsh.cmdlet import Call
from tests.hyperv.pwsh.failure import Failure, failure
from tests.hyperv.pwsh.value import PSObject

if TYPE_CHECKING:
    from tests.hyperv.host import Host

#: The exception of the cluster's commands.
_CLUSTER = "Microsoft.FailoverClusters.PowerShell.ClusterCmdletException"


def _cluster(host: Host, call: Call) -> Cluster:
    """Return the host's cluster.

    Raises:
        Failure: There is none; or the login may not go on to the other nodes, as one by NTLM may not (Microsoft's
            clustering and high availability blog, 2009: "PowerShell for Failover Clustering: CredSSP and double hop").
    """
    if not host.trouble.second_hop:
        text_ = "You do not have administrative privileges on the cluster.\n    Access is denied"
        raise _failure(call, text_, "PermissionDenied")
    if host.cluster is None:
        raise _failure(call, "The cluster service is not running on this computer.", "ConnectionError")
    return host.cluster


def _failure(call: Call, message: str, category: str) -> Failure:
    identity = f"{call.command},Microsoft.FailoverClusters.PowerShell.{call.command.replace('-', '')}Command"
    return failure(_CLUSTER, message, identity, category)


def _node(host: Host) -> PSObject:
    return PSObject.of(Name=host.name, State="Up" if host.samba.server.alive else "Down")


@command("Get-Cluster")
def get_cluster(host: Host, call: Call) -> object:
    """Return the cluster."""
    return PSObject.of(Name=_cluster(host, call).name)


@command("Get-ClusterNode")
def get_cluster_node(host: Host, call: Call) -> object:
    """List its nodes."""
    cluster = _cluster(host, call)
    return [_node(each) for each in cluster.nodes]


@command("Get-ClusterSharedVolume")
def get_cluster_shared_volume(host: Host, call: Call) -> object:
    """List shared volumes, with where they are mounted and what is free."""
    cluster = _cluster(host, call)
    found = []
    for name, size in cluster.volumes.items():
        used = sum(each.stat().st_blocks * 512 for each in (cluster.directory / name).rglob("*") if each.is_file())
        partition = PSObject.of(Size=size, FreeSpace=max(0, size - used), UsedSpace=used)
        info = PSObject.of(FriendlyVolumeName=f"C:\\{MOUNT}\\{name}", Partition=partition)
        owner = _node(cluster.nodes[0])
        found.append(PSObject.of(Name=f"Cluster Disk {name}", OwnerNode=owner, SharedVolumeInfo=[info], State="Online"))
    return found


def _group(cluster: Cluster, machine: Machine) -> PSObject:
    owner = cluster.owners[machine.id]
    node = _node(owner)
    return PSObject.of(Name=machine.name, OwnerNode=node, GroupType="VirtualMachine", State="Offline", _machine=machine)


def _machine(cluster: Cluster, vm_id: object) -> Machine | None:
    every = (each for node in cluster.nodes for each in node.vmms.machines)
    return next((each for each in every if str(each.id) == str(vm_id)), None)


@command("Get-ClusterGroup")
def get_cluster_group(host: Host, call: Call) -> object:
    """Return roles: that of a VM, or all of VMs."""
    cluster = _cluster(host, call)
    machines = [each for node in cluster.nodes for each in node.vmms.machines if each.id in cluster.owners]
    if "VMId" in call:
        machines = [each for each in machines if str(each.id) == str(call["VMId"])]
        if not machines:
            text_ = f"There were no cluster groups found for the virtual machine with id '{call['VMId']}'."
            raise _failure(call, text_, "ObjectNotFound")
    names = [str(each).lower() for each in many(call.get("Name", None))]
    return [_group(cluster, each) for each in machines if not names or each.name.lower() in names]


@command("Add-ClusterVirtualMachineRole")
def add_cluster_virtual_machine_role(host: Host, call: Call) -> object:
    """Give a VM of this node a role; its files have to be on shared volumes."""
    cluster = _cluster(host, call)
    if "VMId" in call:
        machine = host.vmms.find(call["VMId"])
    else:
        named = text(call, "VMName") or text(call, "VirtualMachine")
        machine = next((each for each in host.vmms.machines if each.name.lower() == named.lower()), None)
    if machine is None:
        raise _failure(call, "The virtual machine wasn't found on this node.", "ObjectNotFound")
    if machine.id in cluster.owners:
        raise _failure(call, f"The virtual machine '{machine.name}' is clustered already.", "InvalidArgument")
    paths = [machine.path, *(drive.path for drive in machine._settings.drives)]
    if not all(each.lower().startswith(f"c:\\{MOUNT.lower()}\\") for each in paths):
        raise fault.refused(call.command, f"'{machine.name}' has files on storage that isn't the cluster's.")
    cluster.add_role(machine, host)
    return _group(cluster, machine)


@command("Remove-ClusterGroup")
def remove_cluster_group(host: Host, call: Call) -> object:
    """Take roles away; the VMs stay."""
    cluster = _cluster(host, call)
    if "VMId" in call:
        machines = [_machine(cluster, cast(UUID, call["VMId"]))]
    elif "InputObject" in call:
        machines = [cast(Machine, cast(PSObject, call["InputObject"])["_machine"])]
    else:
        names = [str(each).lower() for each in many(call.get("Name", None))]
        every = (each for node in cluster.nodes for each in node.vmms.machines if each.id in cluster.owners)
        machines = [each for each in every if each.name.lower() in names]
    for machine in machines:
        if machine is None or machine.id not in cluster.owners:
            raise _failure(call, "The cluster group was not found.", "ObjectNotFound")
        cluster.remove_role(machine)
    return None
