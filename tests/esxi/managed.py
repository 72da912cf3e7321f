"""What all managed objects have in common: a type, an id, properties by name, and methods by name.

A property of the API such as ``environmentBrowser`` is the Python attribute ``environment_browser``; a method such as
``CreateSnapshot_Task`` the Python method ``create_snapshot``, marked by `operation`, or by `task` when it runs as a
task.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from pyVmomi import vmodl

from tests.esxi.wire import snake, typed

if TYPE_CHECKING:
    from tests.esxi.world import World

Function = TypeVar("Function", bound=Callable[..., Any])


def operation(function: Function) -> Function:
    """Let clients call a method; it only reads, or changes nothing but the client's own session."""
    function.operation = True  # type: ignore[attr-defined] # a mark
    return function


def writing(function: Function) -> Function:
    """Let clients call a method that changes the host: refused with the free licence, and on a managed host."""
    function.writing = True  # type: ignore[attr-defined] # a mark
    return operation(function)


def task(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let clients call a method that changes the host and runs as a task, which they are given."""

    @functools.wraps(function)
    def start(self: Managed, **arguments: Any) -> Any:
        return self.world.tasks.start(self, function, arguments).reference

    return writing(start)


class Managed:
    """A managed object.

    Attributes:
        kind: pyVmomi's type.
        moid: Its id.
        world: What it is part of.
    """

    kind: Any

    def __init__(self, world: World, moid: str) -> None:
        self.world = world
        self.moid = moid
        world.objects[moid] = self

    @property
    def reference(self) -> Any:
        """What the wire carries for it."""
        return self.kind(self.moid, None)

    def forget(self) -> None:
        """Let it be unknown from now on: ``ManagedObjectNotFound``."""
        self.world.objects.pop(self.moid, None)

    def get(self, path: str) -> Any:
        """Read a property, by a path such as ``config.hardware.device``.

        Returns:
            Its value, lists as the array type that the wire needs; None when it is unset, or something on the way is.

        Raises:
            vmodl.query.InvalidProperty: There is no such property.
        """
        name, _, rest = path.partition(".")
        info = _property(self.kind, name, path)
        value = getattr(self, snake(name), None)
        while rest and value is not None:
            name, _, rest = rest.partition(".")
            info = _property(type(value), name, path)
            value = getattr(value, name)
        return typed(info.type, value)

    def names(self) -> list[str]:
        """Return the names of all properties that it has a value for."""
        return [info.name for info in self.kind._GetPropertyList() if self.get(info.name) is not None]


def _property(kind: Any, name: str, path: str) -> Any:
    try:
        return kind._GetPropertyInfo(name)
    except AttributeError:
        raise vmodl.query.InvalidProperty(name=path, msg=f"{kind.__name__} has no property {path}") from None
