"""The libraries of the extra ``hyperv-kerberos``, apart from .venv, where tests have to do without them.

Those of Kerberos come as source and take minutes to compile: it is done once on a machine.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tomllib
from pathlib import Path

from tests.service.cached import cached
from tests.service.process import run

#: Root of the checkout.
CHECKOUT = Path(__file__).parents[2]

#: Seconds for compiling them, on a machine with other work.
PATIENCE = 1800.0


def kerberos_libraries() -> Path:
    """Return a directory with what the extra asks for, for ``PYTHONPATH``; made now when it isn't in the cache.

    Raises:
        RuntimeError: It can't be installed.
    """
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    wanted = [each for each in project["optional-dependencies"]["hyperv-kerberos"] if not each.startswith("bootpoint")]
    digest = hashlib.sha256(" ".join([sys.version, *wanted]).encode()).hexdigest()[:12]

    def install(directory: Path) -> None:
        # Speed is of no use in tests, and an optimising compiler takes several times as long.
        environment = {**os.environ, "CC": "clang", "CFLAGS": "-O0"}
        words = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--retries", "5"]
        run([*words, "--target", str(directory), *wanted], environment=environment, timeout=PATIENCE)

    return cached(f"kerberos-libraries-{digest}", install)
