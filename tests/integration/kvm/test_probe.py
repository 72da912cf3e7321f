"""What the script that looks at a host says of its networks."""

from __future__ import annotations

import os
import subprocess

import pytest

from bootpoint_worker.targets.kvm import script
from tests.service.component import absent

#: Bridges that an administrator made, and those of container engines: Docker's two kinds, Podman's, the CNI plugin's.
OURS = ("br-dr", "docker-net", "br-0123456789a")
THEIRS = ("docker0", "br-0123456789ab", "podman1", "cni-podman0", "cni0")


@pytest.fixture
def said() -> str:
    """Look at a network namespace that has all of these."""
    if os.geteuid() != 0:
        absent("network namespaces need root")
    made = "".join(f"ip link add {name} type bridge\n" for name in (*OURS, *THEIRS))
    scene = f"set -e\nmount -t sysfs none /sys\n{made}exec sh -s <<'PROBE'\n{script.script('probe')}\nPROBE\n"
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", scene], capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout


def test_bridges_that_container_engines_made_are_no_networks_for_standbys(said: str) -> None:
    assert {line for line in said.splitlines() if line.startswith("bridge ")} == {f"bridge {name}" for name in OURS}
