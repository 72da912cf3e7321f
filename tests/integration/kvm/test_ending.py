"""What a host still does when it looks as if it had ended: long operations, and servers in their last moments."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.identity import new_id
from bootpoint_common.units import MiB
from bootpoint_worker.targets.kvm import script
from bootpoint_worker.targets.kvm.session import LocalSession
from tests.integration.kvm.conftest import Bench, fill

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
