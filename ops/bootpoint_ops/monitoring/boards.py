"""The four boards, and the files that they make."""

from __future__ import annotations

import json
from collections.abc import Callable

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from bootpoint_ops.monitoring.agent_board import agent_board
from bootpoint_ops.monitoring.fleet_board import fleet_board
from bootpoint_ops.monitoring.job_board import job_board
from bootpoint_ops.monitoring.pool_board import pool_board

#: File name without its ending, and what makes the board.
BOARDS: dict[str, Callable[[], Dashboard]] = {
    "fleet": fleet_board,
    "job": job_board,
    "pool": pool_board,
    "agent": agent_board,
}


def board_text(name: str) -> str:
    """Return the content of a board's file."""
    return json.dumps(BOARDS[name]().build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
