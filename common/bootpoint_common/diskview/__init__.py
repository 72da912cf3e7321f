"""The disks of a machine for people: a table, and a drawing to scale; the same from the agent and from the database."""

from __future__ import annotations

from bootpoint_common.diskview.console import draw_option, paint, warn
from bootpoint_common.diskview.contract import public
from bootpoint_common.diskview.drawing import draw
from bootpoint_common.diskview.listing import COLUMNS, lines

__all__ = ["COLUMNS", "draw", "draw_option", "lines", "paint", "public", "warn"]
