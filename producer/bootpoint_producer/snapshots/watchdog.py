"""Thaws what an agent froze, whatever becomes of the agent.

A program of its own, started before the first freeze and with nothing of the package in it: while a file
system is frozen it must not need a byte written, and it must outlive the agent.

It gets the open mount points as descriptors, and bytes on its standard input:

    0 … 119     this one is about to be frozen        128 … 247   this one was not frozen after all
    255         all are thawed, the work is done      end         the agent is dead

Arguments: seconds, then the descriptors.
"""

import contextlib
import fcntl
import os
import select
import signal
import sys
import time

#: linux/fs.h
FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
#: First byte that takes an announcement back.
UNDO = 128
#: Byte that ends the work.
DONE = 255
#: What it writes when it is ready.
READY = b"R"
#: Exit code when the time ran out.
TOO_LONG = 3
#: Seconds between two attempts to thaw after the time ran out: a freeze may be half-way, and can't be undone yet.
_AGAIN = 0.2


def main(arguments: list[str]) -> int:
    """Watch one freeze; returns the exit code."""
    timeout, descriptors = float(arguments[0]), [int(text) for text in arguments[1:]]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 - no imports
        file.write("-1000")
    os.write(1, READY)
    deadline = time.monotonic() + timeout
    frozen: set[int] = set()
    late = False
    while True:
        wait = _AGAIN if late else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([0], [], [], wait)
        said = os.read(0, 64) if ready else b""
        for byte in said:
            if byte < UNDO:
                frozen.add(byte)
            else:
                frozen.discard(byte - UNDO)
        if DONE in said:
            return TOO_LONG if late else 0
        late = late or time.monotonic() >= deadline
        gone = bool(ready) and not said
        if late or gone:
            for index in frozen:
                with contextlib.suppress(OSError):  # EINVAL: it isn't frozen
                    fcntl.ioctl(descriptors[index], FITHAW, 0)
        if gone:
            return TOO_LONG


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
