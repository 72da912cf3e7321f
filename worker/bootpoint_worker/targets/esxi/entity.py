"""Ids of managed objects: pyVmomi compares them together with the session that they came by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def moref(entity: Any) -> str:
    """Return the id of a managed object: ``42``, ``vm-42``."""
    return str(entity._moId)  # noqa: SLF001 - pyVmomi has no public name for it


def among(entity: Any, others: Iterable[Any]) -> bool:
    """Tell whether a managed object is one of others."""
    return moref(entity) in {moref(other) for other in others}
