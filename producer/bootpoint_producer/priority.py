"""How a thread of this process stands back: its share of the CPU (nice), and of the disks (the I/O scheduler's class).

Linux keeps both for each thread: ``setpriority`` takes a thread's id (setpriority(2), "C library/kernel differences"),
and so does ``ioprio_set`` (ioprio_set(2)). Threads and programs that a thread starts inherit both.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import threading

_log = logging.getLogger(__name__)

#: Number of the system call ``ioprio_set``, for which the C library has no name, by machine.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}

#: linux/ioprio.h: what the second argument names, and how class and level are put together.
_WHO_PROCESS, _CLASS_SHIFT = 1, 13
_BEST_EFFORT, _IDLE = 2, 3

#: The nice value from which on the disks are read only while nobody else wants them.
IDLE_NICE = 19


def io_priority(nice: int) -> int:
    """Return the I/O priority for a nice value, as ``ioprio_set`` takes it.

    The level of the class "best effort" is the one that the kernel itself gives a thread of that nice value that has
    asked for none; 19 is the class "idle".
    """
    if nice >= IDLE_NICE:
        return _IDLE << _CLASS_SHIFT
    return _BEST_EFFORT << _CLASS_SHIFT | (nice + 20) // 5


class Priority:
    """The nice value of a run's threads; each takes it on itself, when it comes by.

    Args:
        nice: 0 to 19. A thread never gets ahead of the process that it belongs to.
    """

    def __init__(self, nice: int = 0) -> None:
        self.nice = nice
        self._least = os.getpriority(os.PRIO_PROCESS, os.getpid())
        self._local = threading.local()

    def heed(self) -> None:
        """Give the calling thread the priority, if it hasn't it already: it costs nothing then."""
        nice = max(self.nice, self._least)
        if getattr(self._local, "nice", None) == nice:
            return
        self._local.nice = nice  # once, whether it is granted or not
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
            _set_io_priority(io_priority(nice))
        except OSError as refused:
            # A limit is a courtesy; the copy is worth more. Only root may take a priority back.
            _log.warning("priority not set", extra={"nice": nice, "cause": str(refused)})


def _set_io_priority(value: int) -> None:
    number = _IOPRIO_SET.get(platform.machine())
    if number is None:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, _WHO_PROCESS, 0, value) != 0:  # 0: the calling thread
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
