"""Tasks: what a ``..._Task`` method starts and a client polls.

A task goes from ``queued`` by ``running`` to ``success`` or ``error`` (vSphere API, TaskInfo). What a method finds
wrong is the task's error; only what is wrong with the call itself (session, rights, licence, arguments) is the
call's.
"""

from __future__ import annotations

import itertools
import threading
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from tests.esxi.managed import Managed, operation

if TYPE_CHECKING:
    from tests.esxi.world import World


class Job(Managed):
    """One task.

    Attributes:
        info: As clients see it.
        ended: Set when it is over.
    """

    kind = vim.Task

    def __init__(self, world: World, moid: str, entity: Managed, name: str) -> None:
        super().__init__(world, moid)
        self.ended = threading.Event()
        is_entity = issubclass(entity.kind, vim.ManagedEntity)
        self.info = vim.TaskInfo(
            key=moid, task=self.reference, descriptionId=name, state="queued", cancelled=False, cancelable=False,
            entity=entity.reference if is_entity else None, entityName=getattr(entity, "name", None),
            reason=vim.TaskReasonUser(userName="root"), queueTime=datetime.now(UTC), eventChainId=1,
        )  # fmt: skip

    @operation
    def cancel_task(self) -> None:
        """Refuse: none of these can be cancelled."""
        raise vmodl.fault.NotSupported(msg="The task can't be cancelled.")

    def run(self, work: Callable[[], Any]) -> None:
        """Do it, and say how it came out."""
        self.info.startTime = datetime.now(UTC)
        self.info.state = "running"
        try:
            result = work()
        except vmodl.MethodFault as raised:
            self.info.error, state = raised, "error"
        except Exception as exc:  # noqa: BLE001 - a thread ends here, and the client is to hear of it
            text = f"{exc}\n{traceback.format_exc()}"
            self.info.error, state = vmodl.fault.SystemError(reason=str(exc), msg=text), "error"
        else:
            self.info.result, state = result, "success"
        self.info.completeTime = datetime.now(UTC)
        self.info.state = state
        self.ended.set()


class Jobs:
    """All tasks of a host."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._numbers = itertools.count(1)
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()

    def start(self, entity: Managed, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Job:
        """Start a method as a task."""
        name = f"{entity.kind.__name__.removeprefix('vim.')}.{function.__name__}"
        number = next(self._numbers)
        job = Job(self.world, self.world.names.task(entity, name, number), entity, name)
        thread = threading.Thread(
            target=job.run, args=(lambda: self._work(job, entity, function, arguments),), daemon=True
        )
        self._threads = [*(each for each in self._threads if each.is_alive()), thread]
        thread.start()
        return job

    def _work(self, job: Job, entity: Managed, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        with self.world.occupied(entity, job):
            if self._stopped.wait(self.world.trouble.slow_seconds):
                raise vmodl.fault.HostCommunication(msg="the host goes down")
            self.world.trouble.meet(function.__name__)
            return function(entity, **arguments)

    def stop(self) -> None:
        """Let none go on that waits, and return when all have ended."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
