"""What is read of a host at a time: narrow sets of properties, of some objects or of all of a kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyVmomi import vmodl

#: Most objects in one answer; what is left over is fetched by its token.
PAGE = 500


@dataclass(frozen=True, slots=True)
class Query:
    """Arguments of ``RetrievePropertiesEx``.

    Attributes:
        specs: Which objects, and which of their properties.
        options: Most objects in one answer.
        optional: Paths that the account may have no right to read.
    """

    specs: list[vmodl.query.PropertyCollector.FilterSpec]
    options: vmodl.query.PropertyCollector.RetrieveOptions
    optional: Sequence[str]

    @classmethod
    def of_each(cls, entities: Sequence[Any], paths: Sequence[str], optional: Sequence[str]) -> Query:
        """Ask for properties of objects of one kind, at least one."""
        from pyVmomi import vmodl

        objects = [vmodl.query.PropertyCollector.ObjectSpec(obj=entity) for entity in entities]
        return cls._made(objects, type(entities[0]), paths, optional)

    @classmethod
    def of_view(cls, view: Any, kind: type, paths: Sequence[str], optional: Sequence[str]) -> Query:
        """Ask for properties of all objects in a view, which are of one kind."""
        from pyVmomi import vmodl

        collector = vmodl.query.PropertyCollector
        within = collector.TraversalSpec(name="view", type=type(view), path="view", skip=False)
        return cls._made([collector.ObjectSpec(obj=view, skip=True, selectSet=[within])], kind, paths, optional)

    @classmethod
    def _made(cls, objects: list[Any], kind: type, paths: Sequence[str], optional: Sequence[str]) -> Query:
        from pyVmomi import vmodl

        collector = vmodl.query.PropertyCollector
        wanted = collector.PropertySpec(type=kind, all=False, pathSet=[*paths, *optional])
        spec = collector.FilterSpec(objectSet=objects, propSet=[wanted])
        return cls([spec], collector.RetrieveOptions(maxObjects=PAGE), optional)

    def fetch(self, collector: vmodl.query.PropertyCollector) -> list[tuple[Any, dict[str, Any]]]:
        """Ask, page by page.

        Returns:
            Objects, each with path -> value; those without a value are left out.

        Raises:
            vmodl.MethodFault: Also for a property that isn't optional, and that may not be read.
        """
        page = collector.RetrievePropertiesEx(specSet=self.specs, options=self.options)
        found = []
        while page is not None:
            found += [(item.obj, self._values(item)) for item in page.objects]
            page = collector.ContinueRetrievePropertiesEx(token=page.token) if page.token else None
        return found

    def _values(self, item: vmodl.query.PropertyCollector.ObjectContent) -> dict[str, Any]:
        for missing in item.missingSet or ():
            # A session that was ended may show here only: all that is readable without one is there.
            if missing.path not in self.optional or _no_session(missing.fault):
                raise missing.fault
        return {value.name: _plain(value.val) for value in item.propSet or ()}


def _plain(value: Any) -> Any:
    """Return a number or a word in Python's own type: pyVmomi's types can't be encoded by others."""
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return str(value) if isinstance(value, str) else value


def _no_session(fault: vmodl.MethodFault) -> bool:
    from pyVmomi import vim

    return isinstance(fault, vim.fault.NotAuthenticated)
