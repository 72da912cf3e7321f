"""Whether an XFS log holds anything that its maps of free space don't show yet.

A frozen XFS is settled, and yet its log isn't empty: the freeze ends with a copy of the superblock in it, so that
the next mount looks for unlinked files. That is told from a log of lost work by what it holds.
"""

from __future__ import annotations

import re

from bootpoint_producer.probe import ask

_STATE = re.compile(r"^\s*log tail: \d+ head: \d+ state: <(\w+)>$")
#: What may be printed of a log that holds nothing but copies of the superblock (block 0, 512 bytes).
_HARMLESS = re.compile(
    r"xfs_logprint:|\s*data device: .*|\s*log device: .*|LOG REC AT LSN .*|=+|TRANS: tid:.*|BUF: cnt:.*"
    r"|\s*BUF:\s+#regs:\d+\s+start blkno:0x0\s+len:1\s.*|\s*SUPER Block Buffer:|"
)


def settled(device: str) -> bool:
    """Whether the maps of free space on an XFS are up to date.

    Args:
        device: The file system's own device.
    """
    text = ask("xfs_logprint", "-t", device)
    state: str | None = None
    for line in (text or "").splitlines():
        found = _STATE.match(line)
        if found is not None:
            state = found[1]
        elif not _HARMLESS.fullmatch(line.rstrip()):
            return False
    return state in ("CLEAN", "DIRTY")
