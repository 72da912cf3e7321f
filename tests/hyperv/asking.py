"""What a worker does at a host, in a process of its own, which has the libraries of Kerberos and a cache of tickets.

``python -m tests.hyperv.asking`` reads how the host is reached, and what is to be written there, as JSON from standard
input; it writes what came of it as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bootpoint_common.errors import BootpointError
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.hyperv.inspect import inspect_host
from bootpoint_worker.targets.hyperv.session import HyperVSession
from bootpoint_worker.targets.hyperv.winrm import opened
from tests.service.process import run, wait_for


def ask(
    access: HostAccess,
    environment: Mapping[str, str],
    *,
    write: Mapping[str, Path] | None = None,
    orders: bool = False,
    after: Path | None = None,
) -> dict[str, Any]:
    """Inspect a host, by a session of its own in another process.

    Args:
        access: How it is reached.
        environment: Of the process: where its tickets and its libraries are.
        write: Files here whose content is written to paths there, and read again.
        orders: Whether only a shell of WinRM is opened, and no file is touched.
        after: A file whose coming is waited for between writing and inspecting, in the same session.

    Returns:
        What was found: ``version``, ``hints``, ``cluster``, ``read`` (whether what was read is what was written); or an
        ``error`` with ``code`` and ``text``, which is the message with its hint.
    """
    told = {
        "access": asdict(access),
        "orders": orders,
        "after": str(after) if after else None,
        "write": {there: str(here) for there, here in (write or {}).items()},
    }
    found: dict[str, Any] = json.loads(
        run([sys.executable, "-m", "tests.hyperv.asking"], environment=environment, text=json.dumps(told))
    )
    return found


def _asked(told: Mapping[str, Any]) -> dict[str, Any]:
    access = HostAccess(**told["access"])
    try:
        if told["orders"]:
            with opened(access, timeout=20):
                return {}
        with closing(HyperVSession(access)) as session:
            read = True
            for there, here in told["write"].items():
                content = Path(here).read_bytes()
                session.files.write(there, content)
                read &= session.files.read(there) == content
            if told["after"]:
                wait_for(Path(told["after"]).exists, "leave to go on")
            found = inspect_host(session)
            cluster = found.cluster and found.cluster.name
            return {"version": found.version, "hints": found.hints, "cluster": cluster, "read": read}
    except BootpointError as problem:
        return {"error": {"code": problem.code, "text": f"{problem.message}; {problem.hint}"}}


if __name__ == "__main__":
    print(json.dumps(_asked(json.loads(sys.stdin.read()))))  # noqa: T201 - that is its answer
