"""`bootpoint demo`: the main job on this machine, from a bootable disk to VMs that boot from two of its points.

Start reading at `flow`.
"""

from __future__ import annotations

from bootpoint_ops.demo.flow import Options, main

__all__ = ["Options", "main"]
