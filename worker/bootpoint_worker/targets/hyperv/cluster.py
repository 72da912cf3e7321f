r"""The failover cluster of a Hyper-V host: sessions with its nodes, and a VM's role.

A cluster may move a VM to another node at any time, and its orders are taken there only; its files lie on a shared
volume, which every node sees below ``C:\ClusterStorage``.
"""

from __future__ import annotations

from bootpoint_worker.targets.host import Role
from bootpoint_worker.targets.hyperv.session import HyperVSession
from bootpoint_worker.targets.hyperv.way import node_access


class Nodes:
    """Sessions with the other nodes of a host's cluster, each made at its first use; not thread-safe.

    Args:
        session: The session with the host that bootpoint knows.
    """

    def __init__(self, session: HyperVSession) -> None:
        self._access = session.access
        self._others: dict[str, HyperVSession] = {}

    def of_node(self, node: str) -> HyperVSession:
        """Return the session with another node, by its name in the cluster."""
        key = node.lower()
        if key not in self._others:
            self._others[key] = HyperVSession(node_access(self._access, node))
        return self._others[key]

    def close(self) -> None:
        """End all of them; may be called twice."""
        for session in self._others.values():
            session.close()
        self._others.clear()


def set_role(session: HyperVSession, vm_id: str, *, add: bool) -> Role:
    """Give a VM its role in the cluster, or take it away; nothing is done where that is so already.

    Args:
        session: With the node that the VM is on.
        vm_id: Hyper-V's id of the VM.
        add: Whether it gets the role, else loses it.

    Returns:
        The role as it is then.

    Raises:
        FatalError: ``host_unsupported``: no cluster, or the VM's files are on no shared volume; ``host_permission``.
    """
    action = "add" if add else "remove"
    found = session.call("cluster_vm", {"vm_id": vm_id, "action": action})
    return Role(found["role"], found["node"], found["changed"])
