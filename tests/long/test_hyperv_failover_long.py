"""A replica in a failover cluster whose VM is moved to another node, between two runs and in the midst of one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.errors import Code
from bootpoint_common.units import MiB
from bootpoint_worker.targets.hyperv import connect
from bootpoint_worker.targets.hyperv.target import HyperVTarget
from tests.contract.driver_hyperv import NETWORK, HyperVHooks, access_to
from tests.contract.drivers import Driver
from tests.contract.test_target import Bench, _bench
from tests.hyperv.cluster import Cluster
from tests.hyperv.host import Host
from tests.hyperv.plain import refused
from tests.service.component import need

#: Where the second node listens: on the ports of the first, as nodes do.
SECOND = "127.0.0.2"


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Host, Host]]:
    """Two nodes that see the same volume, each reached by its name."""
    need("root", "samba", "qemu-img", "nbdkit")
    ask = socket.getaddrinfo

    def resolve(host: Any, *arguments: Any, **more: Any) -> Any:
        return ask(SECOND if str(host).upper() == "HV2" else host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    cluster = Cluster(tmp_path / "shared")
    first = Host(tmp_path / "hv1", cluster=cluster)
    second = Host(tmp_path / "hv2", name="HV2", address=SECOND, cluster=cluster)
    second.winrm.port, second.samba.port = first.winrm.port, first.samba.port
    second.samba.password = first.password
    second.samba.create()
    second.set_password(first.password)
    with first, second:
        yield first, second


@pytest.fixture
def bench(nodes: tuple[Host, Host]) -> Iterator[Bench]:
    """A replica on the shared volume, whose standby has its role."""
    access = access_to(nodes[0])
    storage = "C:\\ClusterStorage\\Volume1"
    driver = Driver("hyperv", partial(connect, access), HyperVHooks(nodes[0], access), storage, NETWORK)
    yield from _bench(driver, 1)


def add_role(bench: Bench) -> None:
    assert isinstance(bench.target, HyperVTarget)
    assert bench.target.set_role(bench.replica, add=True).node == "HV1"


def move(bench: Bench, nodes: tuple[Host, Host]) -> None:
    first, second = nodes
    assert first.cluster is not None
    first.cluster.move(first.machine(bench.replica.vm_name), second)


def test_runs_go_on_where_the_vm_is(bench: Bench, nodes: tuple[Host, Host]) -> None:
    first = bench.point(None, (0, b"a" * MiB))
    add_role(bench)
    move(bench, nodes)
    second = bench.point(first, (0, b"b" * 4096))
    assert bench.read(second.point_id)[: 2 * 4096] == b"b" * 4096 + b"a" * 4096
    assert bench.read(first.point_id)[:MiB] == b"a" * MiB
    names = [each.name for each in nodes[1].machine(bench.replica.vm_name)._snapshots]
    assert names == [first.name, second.name]
    with closing(bench.driver.connect()) as other:
        assert other.inspect_host().cluster is not None
        assert [vm.name for vm in other.inspect_host().vms] == [bench.replica.vm_name]


def test_a_run_that_meets_a_vm_that_has_moved_is_gone_on_with(bench: Bench, nodes: tuple[Host, Host]) -> None:
    first = bench.point(None, (0, b"a" * MiB))
    add_role(bench)
    layers = bench.open(first)
    bench.write(layers["system"], (0, b"b" * 4096))
    move(bench, nodes)
    bench.write(layers["system"], (4096, b"c" * 4096), writer=2)
    second = bench.commit(layers)
    assert bench.read(second.point_id)[: 3 * 4096] == b"b" * 4096 + b"c" * 4096 + b"a" * 4096


def test_a_node_that_is_away_is_named(bench: Bench, nodes: tuple[Host, Host]) -> None:
    first = bench.point(None, (0, b"a" * MiB))
    add_role(bench)
    move(bench, nodes)
    nodes[1].winrm.stop()
    try:
        with closing(bench.driver.connect()) as target, refused(Code.HOST_UNREACHABLE):
            target.open(bench.replica, bench.opened(first))
    finally:
        nodes[1].winrm.start()
    bench.point(first, (0, b"b" * 4096))
