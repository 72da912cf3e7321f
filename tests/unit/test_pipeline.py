"""The pipeline keeps order, bounds what is on its way, hands errors on, and ends its threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from uuid import uuid4

import pytest

from bootpoint_common.bundle import Opener, Sealer
from bootpoint_common.crypto import AgentKey
from bootpoint_common.extent import Extent
from bootpoint_common.units import GRAIN, MiB
from bootpoint_producer.chunk import Chunk
from bootpoint_producer.pipeline import Pipeline, encode_chunk


def numbered(count: int) -> Iterator[Chunk]:
    for number in range(count):
        yield Chunk((Extent(number * GRAIN, GRAIN),), number.to_bytes(4, "big") * (GRAIN // 4))


def number_of(chunk: Chunk) -> bytes:
    return str(chunk.extents[0].offset // GRAIN).encode()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_bundles_come_in_order_and_open() -> None:
    key, point, point_disk = AgentKey(1, bytes(32)), uuid4(), uuid4()
    sealer = Sealer(key, point, point_disk)
    opener = Opener({1: key.secret}, point, point_disk, 100 * GRAIN)
    with Pipeline(numbered(100)) as pipeline:
        for number, encoded in enumerate(pipeline):
            opened = opener.open(sealer.seal(encoded.body))
            assert tuple(opened.extents) == encoded.chunk.extents == (Extent(number * GRAIN, GRAIN),)
            assert bytes(opened.payload) == encoded.chunk.payload


def test_order_stays_when_a_later_chunk_is_ready_first() -> None:
    second_done = threading.Event()

    def encode(chunk: Chunk) -> bytes:
        if chunk.extents[0].offset == 0:
            assert second_done.wait(10)
        else:
            second_done.set()
        return number_of(chunk)

    with Pipeline(numbered(5), encode=encode) as pipeline:
        assert [encoded.body for encoded in pipeline] == [b"0", b"1", b"2", b"3", b"4"]


def test_what_is_on_its_way_is_bounded() -> None:
    taken = 0
    most = 0

    def chunks() -> Iterator[Chunk]:
        nonlocal most
        for made, chunk in enumerate(numbered(200)):
            most = max(most, made - taken)
            yield chunk

    with Pipeline(chunks(), encode=number_of, in_flight_bytes=MiB) as pipeline:
        for _ in pipeline:
            taken += 1
    assert taken == 200
    assert most <= MiB // GRAIN + 2  # the one that waits for room, and the one that the caller holds


def test_a_chunk_larger_than_the_limit_still_passes() -> None:
    with Pipeline(numbered(3), encode=number_of, in_flight_bytes=1) as pipeline:
        assert len(list(pipeline)) == 3


def test_an_error_of_the_scan_comes_after_what_preceded_it() -> None:
    def chunks() -> Iterator[Chunk]:
        yield from numbered(3)
        raise OSError("the disk went away")

    seen: list[bytes] = []

    def take_all() -> None:
        with Pipeline(chunks(), encode=number_of) as pipeline:
            for encoded in pipeline:
                seen.append(encoded.body)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(OSError, match="went away"):
        take_all()
    assert seen == [b"0", b"1", b"2"]


def test_an_error_of_the_encoder_reaches_the_caller() -> None:
    def encode(chunk: Chunk) -> bytes:
        if chunk.extents[0].offset == 2 * GRAIN:
            raise ValueError("no such codec")
        return number_of(chunk)

    with Pipeline(numbered(1000), encode=encode) as pipeline, pytest.raises(ValueError, match="no such codec"):
        list(pipeline)


@pytest.mark.parametrize("after", [0, 1, 5])
def test_leaving_early_ends_the_threads_and_closes_the_scan(after: int) -> None:
    closed = threading.Event()

    def chunks() -> Iterator[Chunk]:
        try:
            yield from numbered(10_000)
        finally:
            closed.set()

    with Pipeline(chunks(), in_flight_bytes=4 * GRAIN, encode=encode_chunk) as pipeline:
        for _, _ in zip(range(after), pipeline, strict=False):
            pass
    assert closed.is_set()
