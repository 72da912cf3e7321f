"""The process that holds a mount: ``python -m bootpoint_ops.mounting``, started by ``bootpoint point mount``.

It reads an order from its standard input, answers once, and ends when the directory is unmounted, when it is told to
(SIGTERM), or when the VM that shows the files ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from bootpoint_common.config import Config
from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_ops.appliance import Appliance, appliance, kvm_works, mount_all
from bootpoint_ops.environment import open_environment
from bootpoint_ops.mount import Answer, Order, Record, born, mounted_by_fuse, record_path, unmount
from bootpoint_ops.reached import Reached, reach_point

_log = logging.getLogger(__name__)

#: How the mount is to be: nothing on it runs, or is a device.
OPTIONS = "remount,bind,ro,nosuid,nodev,noexec"


def main() -> None:
    """Hold one mount from its order to its end."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    try:
        _hold(order)
    except BootpointError as problem:
        _log.warning("ended: %s", problem)
        _answer(Answer(problem=problem.as_json()))
    except KeyboardInterrupt:
        _log.info("ended by a signal")


def _hold(order: Order) -> None:
    config = Config.from_environment()
    env = open_environment(config)
    try:
        way = reach_point(env, order.job, order.point, "mount", host=order.host, secrets=order.secrets)
        with way as reached, contextlib.ExitStack() as stack:
            slots = reached.slots(order.slot)
            shares = [stack.enter_context(reached.share(slot)) for slot in slots]
            emulated = reached.virt_type == "qemu" or not kvm_works()
            started = stack.enter_context(appliance([share.socket for share in shares], emulated=emulated))
            found = mount_all(started, slots)
            if not found:
                raise error(
                    Code.HOST_UNSUPPORTED,
                    f"{reached.point.name} has no file system that libguestfs can read",
                    hint="export it with `bootpoint point export`",
                    job=reached.replica.job,
                )
            _show(config.state_directory, order, reached, started, found)
    finally:
        env.close()


def _show(
    state: Path, order: Order, reached: Reached, started: Appliance, found: list[tuple[str, str]]
) -> None:
    """Let the files be seen until somebody unmounts the directory."""
    path = record_path(state, order.directory)
    record = Record(
        directory=order.directory,
        pid=os.getpid(),
        born=born(os.getpid()) or 0,
        job=reached.replica.job,
        point=reached.point.name,
        host=reached.host,
    )
    path.write_bytes(msgspec.json.encode(record))
    try:
        started.serve(Path(order.directory))
        _seal(order.directory)
        _answer(Answer(point=reached.point.name, mounted=tuple(found)))
        started.wait()
    finally:
        if mounted_by_fuse(order.directory):
            unmount(order.directory, lazily=True)
        path.unlink(missing_ok=True)
    _log.info("unmounted")


def _seal(directory: str) -> None:
    """Take from the mount what a hostile guest could use: without following links nothing leads out of it."""
    for links in (",nosymfollow", ""):  # Linux 5.10 and util-linux 2.38 know it
        words = ["mount", "-o", OPTIONS + links, directory]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        _log.warning("%s: %s", " ".join(words), done.stderr.strip())


def _answer(answer: Answer) -> None:
    """Answer whoever started this process, once; from then on its standard output leads nowhere."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
        sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    main()
