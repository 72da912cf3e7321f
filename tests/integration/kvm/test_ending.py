"""What a host still does when it looks as if it had ended: long operations, and servers in their last moments."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.identity import new_id
from bootpoint_common.units import MiB
from bootpoint_worker.targets.kvm import script
from bootpoint_worker.targets.kvm.session import LocalSession
from tests.integration.kvm.conftest import Bench, fill
from tests.service.component import need
from tests.service.process import wait_for

#: A program by the name of qemu-nbd whose first thread has ended, so that it has no command line, and whose second one
#: has a file open until standard input ends: what a server killed in the midst of a write looks like from outside.
DYING = """
import ctypes, sys, threading
def write():
    with open(sys.argv[1], "wb"):
        print("ready", flush=True)
        sys.stdin.read()
ctypes.CDLL(None).prctl(15, b"qemu-nbd", 0, 0, 0)
threading.Thread(target=write).start()
ctypes.CDLL(None).syscall(60, 0)
"""

#: The same in a guest's sandbox, for as long as the guest likes, and with nothing open.
POSING = """
import ctypes, os, sys, threading, time
def wait():
    os.closerange(0, 64)
    ctypes.CDLL(None).prctl(15, sys.argv[1].encode(), 0, 0, 0)
    time.sleep(60)
ctypes.CDLL(None).prctl(15, sys.argv[1].encode(), 0, 0, 0)
threading.Thread(target=wait).start()
ctypes.CDLL(None).syscall(60, 0)
"""


def test_an_operation_on_a_full_storage_is_begun_once(small: Bench, tmp_path: Path) -> None:
    target = small.connect()
    target.create(small.replica)
    begun = tmp_path / "begun"
    command = ("sh", "-c", 'echo begun >>"$1"; sleep 0.5', "work", str(begun))
    ballast = fill(small, left=MiB)
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    with pytest.raises(BootpointError) as caught:
        target.host.place(small.replica).operate("once", command, timeout=30, what="work")
    assert caught.value.code is Code.HOST_FULL
    assert begun.read_text() == "begun\n"
    ballast.unlink()


#: A flock that behaves as on NFS (flock(2)): an exclusive lock wants a descriptor that is open for writing.
NFS_FLOCK = """#!/bin/sh
for word; do last=$word; done
mode=$(sed -n 's/^flags:.*\\(.\\)$/\\1/p' "/proc/self/fdinfo/$last")
[ "$mode" != 0 ] || { echo "flock: Bad file descriptor" >&2; exit 1; }
exec /usr/bin/flock "$@"
"""


def test_an_operation_that_is_gone_is_seen_on_a_storage_by_nfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/flock").write_text(NFS_FLOCK)
    (tmp_path / "bin/flock").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/op-merge.lock").touch()
    polled = LocalSession(host="kvm1").run(script.script("operation_poll"), str(tmp_path), "merge")
    assert (polled.exit_code, polled.stderr) == (script.VANISHED, "")


def test_a_server_is_gone_only_with_its_last_thread(tmp_path: Path) -> None:
    layer = new_id().hex
    session = LocalSession(host="kvm1")
    ended: list[str] = []

    def hide(served: str) -> None:
        if session.run(script.script("hide"), served, "r1").exit_code == 0:
            ended.append(served)

    words = [sys.executable, "-c", DYING, str(tmp_path / f"disk.{layer}.qcow2")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        hide(new_id().hex)
        assert len(ended) == 1
        waiting = threading.Thread(target=hide, args=(layer,))
        waiting.start()
        waiting.join(1.0)
        assert waiting.is_alive()
        process.stdin.close()
        waiting.join(10.0)
        assert ended[1:] == [layer]


@pytest.mark.parametrize(("name", "work"), [("qemu-nbd", "hide"), ("sh", "convert_end")])
def test_a_guest_in_its_sandbox_holds_nobody_up(tmp_path: Path, name: str, work: str) -> None:
    """It can't be told from a server or a conversion in its last moments by what it calls itself."""
    need("root")
    sandbox = ["unshare", "--pid", "--fork", "--kill-child"] * 2
    with subprocess.Popen([*sandbox, sys.executable, "-c", POSING, name]) as process:
        try:
            wait_for(lambda: posing(name), "the guest to pose")
            began = time.monotonic()
            words = (new_id().hex, "r1") if work == "hide" else (str(tmp_path), "standby")
            assert LocalSession(host="kvm1").run(script.script(work), *words).exit_code == 0
            assert time.monotonic() - began < 10.0
        finally:
            process.kill()


def posing(name: str) -> bool:
    """Tell whether a program by this name has neither a command line nor open files, below two process namespaces."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "comm").read_text().strip() != name or (entry / "cmdline").read_bytes():
                continue
            files = [fd for task in (entry / "task").iterdir() for fd in (task / "fd").glob("*")]
            (line,) = (line for line in (entry / "status").read_text().splitlines() if line.startswith("NSpid:"))
            if not files and len(line.split()) == 4:
                return True
    return False
