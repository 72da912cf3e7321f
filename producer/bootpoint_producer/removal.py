"""Letting go of all that an agent holds on its machine, before its program is removed.

The package's prerm runs it (`python -m bootpoint_producer.removal`) when the agent has ended. Key and block maps stay:
they are files, and harm nobody.
"""

from __future__ import annotations

from pathlib import Path

from bootpoint_common.config import AgentConfig

from .snapshots import remove_leftovers
from .state import AgentState
from .trackers import release


def let_go(config: AgentConfig) -> None:
    """Remove snapshots that a dead agent left, and what trackers hold; programs follow no write any more.

    Args:
        config: The agent's.
    """
    release(directory=config.state_directory)
    if not config.state_directory.is_dir():
        return
    identity = AgentState(config.state_directory).identity()
    if identity is not None:
        remove_leftovers([Path(entry.removeprefix("file:")) for entry in config.files], identity.name)


if __name__ == "__main__":
    let_go(AgentConfig.read())
