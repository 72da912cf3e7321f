"""The property collector: many properties of many objects by one call, found by walking from object to object.

As "Property Collector" in the vSphere Web Services SDK Programming Guide has it: a filter names where to start, along
which properties to go on (`TraversalSpec`, which may name others and itself), and what to tell of the objects of
which types.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from tests.esxi.managed import Managed, operation

if TYPE_CHECKING:
    from tests.esxi.world import World

Query = vmodl.query.PropertyCollector


class PropertyCollector(Managed):
    """The one of a host."""

    kind = vmodl.query.PropertyCollector

    def __init__(self, world: World, moid: str) -> None:
        super().__init__(world, moid)
        self._waiting: dict[str, tuple[list[Any], int | None]] = {}

    @operation
    def retrieve_properties_ex(self, spec_set: list[Any], options: Any) -> Any:
        """Return what filters ask for, in pages when the client wants them."""
        return self._page(self._collect(spec_set), options.maxObjects)

    @operation
    def continue_retrieve_properties_ex(self, token: str) -> Any:
        """Return the next page."""
        if token not in self._waiting:
            raise vmodl.fault.InvalidArgument(invalidProperty="token", msg="no such token")
        return self._page(*self._waiting.pop(token))

    @operation
    def retrieve_properties(self, spec_set: list[Any]) -> list[Any]:
        """Return what filters ask for, all at once."""
        return self._collect(spec_set)

    def _page(self, found: list[Any], most: int | None) -> Any:
        if not found:
            return None
        size = most or len(found)
        token = None
        if len(found) > size:
            token = secrets.token_hex(8)
            self._waiting[token] = (found[size:], most)
        return Query.RetrieveResult(token=token, objects=found[:size])

    def _collect(self, spec_set: list[Any]) -> list[Any]:
        found: dict[str, Any] = {}
        for spec in spec_set:
            for start in spec.objectSet:
                for managed in _walk(self.world, start):
                    if content := self._tell(managed, spec.propSet):
                        found.setdefault(managed.moid, content)
        return list(found.values())

    def _tell(self, managed: Managed, wanted: list[Any]) -> Any:
        matching = [spec for spec in wanted if issubclass(managed.kind, spec.type)]
        if not matching:
            return None
        paths = [path for spec in matching for path in (managed.names() if spec.all else spec.pathSet)]
        values = ((path, managed.get(path)) for path in dict.fromkeys(paths))
        told = [vmodl.DynamicProperty(name=path, val=value) for path, value in values if value is not None]
        return Query.ObjectContent(obj=managed.reference, propSet=told)


def _walk(world: World, start: Any) -> Iterator[Managed]:
    named: dict[str, Any] = {}
    _learn(start.selectSet, named)
    seen: set[tuple[str, str]] = set()
    first = world.find(start.obj._moId, "")
    if not start.skip:
        yield first
    yield from _follow(world, first, start.selectSet, named, seen)


def _learn(specs: list[Any], named: dict[str, Any]) -> None:
    for spec in specs:
        if isinstance(spec, Query.TraversalSpec):
            if spec.name:
                named[spec.name] = spec
            _learn(spec.selectSet, named)


def _follow(
    world: World, managed: Managed, specs: list[Any], named: dict[str, Any], seen: set[tuple[str, str]]
) -> Iterator[Managed]:
    for given in specs:
        spec = given if isinstance(given, Query.TraversalSpec) else named[given.name]
        mark = (managed.moid, spec.name or f"{id(spec)}")
        if not issubclass(managed.kind, spec.type) or mark in seen:
            continue
        seen.add(mark)
        for reference in _references(managed.get(spec.path)):
            further = world.objects.get(reference._moId)
            if further is None:
                continue
            if not spec.skip:
                yield further
            yield from _follow(world, further, spec.selectSet, named, seen)


def _references(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


class ViewManager(Managed):
    """Makes views."""

    kind = vim.view.ViewManager

    @operation
    def create_container_view(self, container: Any, recursive: bool, type: list[Any] | None = None) -> Any:  # noqa: A002
        """Make a view of what is below a folder."""
        return ContainerView(
            self.world, f"session[{secrets.token_hex(8)}]", container._moId, type or [], recursive
        ).reference


class ContainerView(Managed):
    """What is below a container, of some types."""

    kind = vim.view.ContainerView

    def __init__(self, world: World, moid: str, container: str, types: list[Any], recursive: bool) -> None:
        super().__init__(world, moid)
        self._container, self._types, self._recursive = container, types, recursive

    @property
    def view(self) -> list[Any]:
        """The objects, at this moment."""
        below = self.world.below(self._container, recursive=self._recursive)
        return [each.reference for each in below if not self._types or issubclass(each.kind, tuple(self._types))]

    @operation
    def destroy_view(self) -> None:
        """Let it go."""
        self.forget()
