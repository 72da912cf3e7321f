"""What an outlet keeps in memory once nobody needs it."""

from __future__ import annotations

from uuid import UUID

from bootpoint_common.stream.carrier import CarrierLost, StreamPublisher
from bootpoint_common.stream.sender import StreamSender

_STREAM = UUID(int=1)


def _nowhere() -> StreamPublisher:
    raise CarrierLost("no broker here")


def test_a_closed_outlet_lets_go_of_its_bundles() -> None:
    sender = StreamSender(connect=_nowhere)
    outlet = sender.open(_STREAM)
    outlet.allow(1 << 20)
    outlet.offer(bytes(1000), 1000)
    assert outlet.held_bytes == 1000
    outlet.close()
    assert outlet.held_bytes == 0
    # What comes late from the control plane finds nothing to do.
    outlet.allow(2 << 20)
    outlet.resend_from(0)
    assert outlet.starved_seconds == 0
