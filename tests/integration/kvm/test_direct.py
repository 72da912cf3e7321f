"""``bootpoint vm … --direct`` on a KVM host: its own credentials, and neither database nor broker nor worker."""

from __future__ import annotations

import pytest

from bootpoint_common.units import GRAIN
from tests.integration.kvm.conftest import Bench
from tests.service.direct import moves_a_standby, reaching

#: As it was before there were other kinds.
REACH = ("--direct", "--address", "local", "--virt-type", "qemu")


@pytest.mark.timeout(300)
def test_a_standby_is_listed_reverted_started_and_stopped_with_the_host_alone(bench: Bench) -> None:
    """On the host itself, whose libvirt is found at its usual place there."""
    target, name = bench.connect(), bench.replica.vm_name
    target.create(bench.replica)
    first = bench.point(target, None, b"0" * GRAIN)
    second = bench.point(target, first, b"1" * GRAIN)
    target.close()
    enter = ("nsenter", "--target", str(bench.host.first_pid), "--mount", "--pid", "--")
    moves_a_standby(reaching(*REACH, enter=enter), name, first, second)
    assert [bench.start_of(target, point, GRAIN)[0][:1] for point in (first, second)] == [b"0", b"1"]
