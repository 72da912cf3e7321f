"""What rows hold, as JSON: the values of the public contract."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID


def jsonable(value: Any) -> Any:
    """Turn what a row holds into JSON: instants as RFC 3339 in UTC, ids as text."""
    if isinstance(value, datetime):
        text = value.astimezone(UTC).isoformat(timespec="milliseconds" if value.microsecond else "seconds")
        return text.replace("+00:00", "Z")
    if isinstance(value, dict):
        return {name: jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, UUID):
        return str(value)
    return value
