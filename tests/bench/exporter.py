"""How long a scrape of the exporter takes with 10,000 jobs, and what the exporter does for it meanwhile."""

from __future__ import annotations

import gzip
import os
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bootpoint_common.store import count, gauge
from bootpoint_common.store.database import Database
from bootpoint_ops.exposition import Picture
from tests.bench.rig import Rig
from tests.service import crowd
from tests.service.process import Server, free_port, wait_for

#: Scrapes of each way, spread over several pictures; the first isn't counted.
SCRAPES = 40

#: Seconds between two scrapes: they meet the exporter while it takes a picture, too.
BETWEEN = 0.3

#: Rounds of the other measurements; the first isn't counted.
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured.

    Attributes:
        scrapes: Milliseconds of each scrape, packed as Prometheus asks for it.
        pictures: Seconds of each picture.
        queries: Seconds of all queries of one.
        series: Lines that aren't comments.
        plain_bytes: Size of a scrape.
        packed_bytes: The same as gzip.
    """

    scrapes: list[float]
    pictures: list[float]
    queries: list[float]
    series: int
    plain_bytes: int
    packed_bytes: int


def measure(rig: Rig, directory: Path) -> Found:
    """Fill a database, and read the metrics of a real exporter."""
    name = rig.postgres.create_database()
    url = rig.postgres.url(name)
    began = time.monotonic()
    crowd.crowd(url, events=1000)
    print(f"  {crowd.JOBS} jobs made in {time.monotonic() - began:.0f} s", flush=True)
    database = Database(url, size=2)
    try:
        with database.snapshot() as connection:
            queries = _seconds(lambda: (gauge.read(connection), count.sums(connection)))
        pictures = _seconds(Picture(database).take)
        scrapes, packed = _scrapes(url, directory)
        plain = gzip.decompress(packed)
        series = sum(not line.startswith(b"#") for line in plain.splitlines())
        return Found(scrapes, pictures, queries, series, len(plain), len(packed))
    finally:
        database.close()
        rig.postgres.drop_database(name)


def _scrapes(url: str, directory: Path) -> tuple[list[float], bytes]:
    """Return the milliseconds of scrapes of an exporter, and what the last one got."""
    address = f"127.0.0.1:{free_port()}"
    environment = {**os.environ, "BOOTPOINT_DATABASE_URL": url, "BOOTPOINT_METRICS": address}
    log = directory / "exporter.log"
    server = Server([str(Path(sys.executable).with_name("bootpoint")), "exporter"], log=log, environment=environment)
    server.start(lambda: "exporter runs" in log.read_text(), "the exporter")
    request = urllib.request.Request(f"http://{address}/metrics", headers={"Accept-Encoding": "gzip"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    taken, body = [], b""
    try:
        wait_for(lambda: opener.open(request, timeout=60).read(), "the first picture")
        for _ in range(SCRAPES):
            time.sleep(BETWEEN)
            began = time.monotonic()
            with opener.open(request, timeout=60) as answer:
                body = answer.read()
            taken.append(1000 * (time.monotonic() - began))
    finally:
        server.stop()
    return taken[1:], body


def _seconds(work: Callable[[], object]) -> list[float]:
    taken = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        work()
        taken.append(time.monotonic() - began)
    return taken[1:]
