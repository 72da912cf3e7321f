"""Leaving out what no file system on a disk uses.

::

    picture ─► table ─► places ─► what is there ─► its own superblock ─► partclone's map ─► whole free grains
     (still)   (sfdisk)  (and volumes)  (blkid)      (clean? known?)                          (the longest 4,096)

Everything is used but what is known to be free: tables, gaps, what isn't known, and every place that raises a doubt.
"""

from __future__ import annotations

from bootpoint_producer.usedblocks.choice import Choice, Everything, UsedBlocks
from bootpoint_producer.usedblocks.disk import LeftOut, left_out

__all__ = ["Choice", "Everything", "LeftOut", "UsedBlocks", "left_out"]
