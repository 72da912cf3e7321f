"""Control messages: what travels as bits, and what an older side makes of what it doesn't know."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bootpoint_common import message
from bootpoint_common.identity import new_id


class _OldDisk(msgspec.Struct):
    """A disk of `Ready` as it was before anybody spoke of damage."""

    slot: str
    may_send_until: int


class _OldReady(msgspec.Struct, tag_field="type", tag="ready"):
    """Likewise."""

    disks: list[_OldDisk]


@given(st.frozensets(st.integers(0, 100_000), max_size=50))
def test_segments_travel_as_bits(numbers: frozenset[int]) -> None:
    bits = message.segment_bits(numbers)
    assert message.segment_numbers(bits) == numbers
    assert len(bits or b"") == (max(numbers) // 8 + 1 if numbers else 0)


def test_an_agent_that_knows_no_damage_reads_its_ready_all_the_same() -> None:
    disk = message.ReadyDisk(slot="system", point_disk_id=new_id(), may_send_until=7, resend=b"\x01")
    told = message.Ready(run=new_id(), replica_id=new_id(), point_id=new_id(), name="V", head=None, disks=[disk])
    read = msgspec.msgpack.decode(message.encode(told), type=_OldReady)
    assert [(old.slot, old.may_send_until) for old in read.disks] == [("system", 7)]


def test_a_word_of_damage_is_left_out_where_there_is_none() -> None:
    disk = message.ReadyDisk(slot="system", point_disk_id=new_id(), may_send_until=7)
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(disk), type=message.ReadyDisk)
    assert (decoded.resend, message.segment_numbers(decoded.resend)) == (None, frozenset())
