"""From a call on the wire to a method of a managed object, past all that a real host asks first."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from pyVmomi import vim, vmodl

from tests.esxi.managed import Managed
from tests.esxi.wire import Call, snake

if TYPE_CHECKING:
    from tests.esxi.session import Session
    from tests.esxi.world import World

#: What may be called without a session: "every operation but RetrieveServiceContent and Login needs one" (vSphere Web
#: Services SDK Programming Guide, "Establishing a session with a vSphere server").
OPEN = {"RetrieveServiceContent", "Login"}

#: The message of RestrictedVersion, as hosts with the free licence send it (vmware/pyvmomi issue 625).
RESTRICTED = "Current license or ESXi version prohibits execution of the requested operation."

#: The message that clients see on a managed host ("HostAccessRestrictedToManagementServer", vSphere API).
MANAGED = "The operation is not allowed in the current state: the host is managed by vCenter Server {}."


def answer(world: World, call: Call, session: Session | None) -> Any:
    """Carry out a call.

    Args:
        world: What is there.
        call: What is asked.
        session: Who asks, if the request had the cookie of a session that lives.

    Raises:
        vmodl.MethodFault: What the client is to hear instead.
        LostError: Nothing is to be heard.
    """
    if session is None and call.method not in OPEN and not _public(call):
        raise vim.fault.NotAuthenticated(
            object=vim.ServiceInstance("ServiceInstance", None), privilegeId="System.View",
            msg="The session is not authenticated.",
        )  # fmt: skip
    with world.asking(session):
        entity = world.find(call.moid, call.kind)
        if call.method == "Fetch":
            return entity.get(call.arguments["prop"])
        return _method(world, call, entity, session)(**_named(call))


def _method(world: World, call: Call, entity: Managed, session: Session | None) -> Callable[..., Any]:
    """Return what carries a call out, when the asker may have it."""
    method: Any = getattr(entity, snake(call.method), None)
    if not getattr(method, "operation", False):
        raise vmodl.fault.MethodNotFound(receiver=entity.reference, method=call.method, msg=f"no {call.method} here")
    _permit(world, call, entity, session)
    if getattr(method, "writing", False):
        _writable(world)
    if not call.method.endswith("_Task"):
        world.trouble.meet(call.method)
    return cast("Callable[..., Any]", method)


def _public(call: Call) -> bool:
    return call.moid == "ServiceInstance" and call.method in {"Fetch", "RetrievePropertiesEx", "RetrieveProperties"}


def _named(call: Call) -> dict[str, Any]:
    return {snake(name): value for name, value in call.arguments.items()}


def _writable(world: World) -> None:
    if world.trouble.free_licence:
        raise vim.fault.RestrictedVersion(msg=RESTRICTED)
    if address := world.trouble.managed_by:
        raise vim.fault.HostAccessRestrictedToManagementServer(managementServer=address, msg=MANAGED.format(address))


def _permit(world: World, call: Call, entity: Managed, session: Session | None) -> None:
    if session is None:
        return
    wanted = [call.definition.privId, *(parameter.privId for parameter in call.definition.params)]
    for privilege in (*wanted, *world.rights.further(call, entity)):
        if privilege and not session.user.may(privilege):
            raise vim.fault.NoPermission(
                object=entity.reference, privilegeId=privilege, msg="Permission to perform this operation was denied."
            )
