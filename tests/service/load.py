"""As much load as a run's limits let through."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from uuid import UUID, uuid4

from bootpoint_common.stream.memory import MemoryBroker
from bootpoint_common.stream.sender import StreamSender
from bootpoint_common.units import GRAIN
from bootpoint_producer.limit import Metered, ReadingOver, RunLimits
from bootpoint_producer.sources import open_source

#: More credit than any test uses.
ALL = 1 << 60


class Load:
    """Threads that read disks, and send and take streams, as fast as they can."""

    def __init__(self, run: RunLimits, disk: Path, *, disks: int, streams: int) -> None:
        self.run, self.disk, self.over = run, disk, threading.Event()
        broker = MemoryBroker()
        self.worker = broker.worker_carrier()
        self.sender = StreamSender(connect=broker.agent_carrier("erp").publisher)
        self.sender.start()
        self.read, self.taken = [0] * disks, [0] * streams
        self.threads = [threading.Thread(target=self.reads, args=(number,)) for number in range(disks)]
        for number in range(streams):
            stream = uuid4()
            self.worker.declare_stream("erp", stream, 1 << 30)
            self.threads += [
                threading.Thread(target=self.sends, args=(stream,)),
                threading.Thread(target=self.takes, args=(number, stream)),
            ]

    def measure(self, seconds: float) -> tuple[float, float]:
        """Return the bytes a second that were read, and those that came out of the streams."""
        began = time.monotonic()
        for thread in self.threads:
            thread.start()
        self.over.wait(seconds)
        took, read, taken = time.monotonic() - began, sum(self.read), sum(self.taken)
        self.over.set()
        self.run.reading.close()
        for thread in self.threads:
            thread.join()
        self.sender.close()
        return read / took, taken / took

    def reads(self, number: int) -> None:
        source = Metered(open_source(self.disk), self.run, self.over)
        with contextlib.suppress(ReadingOver):
            while True:
                self.read[number] += len(source.read(0, GRAIN))
        source.close()

    def sends(self, stream: UUID) -> None:
        outlet, body, end = self.sender.open(stream, pace=self.run), bytes(self.run.bundle_bytes()), 0
        outlet.allow(ALL)
        while not self.over.is_set():
            if outlet.offer(body, end + len(body), 0.1):
                end += len(body)

    def takes(self, number: int, stream: UUID) -> None:
        consumer = self.worker.consume(stream, 0)
        while not self.over.is_set():
            if (delivery := consumer.get(0.1)) is not None:
                self.taken[number] += len(delivery.body)
                consumer.ack(delivery.tag)
