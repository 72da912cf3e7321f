"""Compiles the agent's program for the kernel when bootpoint is built or installed; hatchling calls it.

It needs clang and libbpf's headers (Debian: clang, libbpf-dev), and no headers of any kernel: the program adjusts
itself to the one that it is loaded into. Without them ``BOOTPOINT_WITHOUT_BPF=1`` builds an agent that scans by hash.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SOURCE = Path("producer/bootpoint_producer/trackers/ebpf/writes.bpf.c")

#: Instruction set 2 is what Linux 5.10 takes; types are kept (-g), as the program is adjusted by them.
_COMMAND = ("clang", "-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v2")


class BpfBuildHook(BuildHookInterface[Any]):
    """Makes ``writes.bpf.o`` beside its source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
        """Compile; called before anything is packed.

        Args:
            version: ``standard`` or ``editable``.
            build_data: Not used.

        Raises:
            RuntimeError: clang is missing, or refuses the program.
        """
        if self.target_name != "wheel" or os.environ.get("BOOTPOINT_WITHOUT_BPF"):
            return
        source = Path(self.root) / _SOURCE
        made = source.with_suffix(".o")
        # Paths in the result are those of the source tree, wherever it lies.
        command = [*_COMMAND, f"-ffile-prefix-map={self.root}=.", "-c", str(_SOURCE), "-o", str(made)]
        try:
            subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True)
        except FileNotFoundError as missing:
            text = "clang is missing: install clang and libbpf-dev, or set BOOTPOINT_WITHOUT_BPF=1"
            raise RuntimeError(text) from missing
        except subprocess.CalledProcessError as refused:
            raise RuntimeError(f"clang refuses {_SOURCE}:\n{refused.stderr}") from refused
