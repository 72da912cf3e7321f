"""NBD over TLS to a host behind SSH: real qemu-nbd and libnbd, and certificates that must not be believed."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_ops.certificate import Purpose
from bootpoint_worker.targets.kvm.nbdtls import NbdTls
from bootpoint_worker.targets.kvm.target import KvmTarget
from bootpoint_worker.targets.layer import Layer
from tests.integration.kvm.conftest import SIZE, Bench
from tests.service.sshd import SshServer
from tests.service.tls import certificate


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    return certificate(tmp_path / "tls", Purpose.CLIENT, "worker")


@pytest.fixture
def host(tmp_path: Path) -> Path:
    return certificate(tmp_path / "tls", Purpose.HOST, "kvm1", "127.0.0.1")


Connect = Callable[[Path, Path | None], KvmTarget]


@pytest.fixture
def connect(bench: Bench, sshd_server: SshServer) -> Connect:
    """Reach the host over SSH, and its NBD servers over TLS, for a replica whose one disk says as much as two."""
    bench.replica = replace(bench.replica, disks=bench.replica.disks[:1])

    def made(host_folder: Path, folder: Path | None) -> KvmTarget:
        settings: dict[str, Any] = {**bench.access.settings, "nbd": "tls", "nbd_tls_folder": str(host_folder)}
        return bench.connect(
            address="127.0.0.1", port=sshd_server.port, ssh_key=sshd_server.user_key,
            fingerprint=sshd_server.fingerprint, settings=settings, nbd_tls=folder,
        )  # fmt: skip

    return made


def opened(bench: Bench) -> Layer:
    """Open a point on the host itself, where SSH costs nothing, and return the layer of its disk."""
    local = bench.connect()
    local.create(bench.replica)
    return local.open(bench.replica, bench.opening(None))[0]


def test_points_are_written_and_read_over_tls(
    bench: Bench, connect: Connect, host: Path, worker: Path, rng: random.Random
) -> None:
    target = connect(host, worker)
    data = rng.randbytes(SIZE // 2)
    layer = opened(bench)
    with closing(target.open_writer(bench.replica, layer, 1)) as writer:
        # No server can be reached in another way.
        words = Path(f"/proc/{server_of(layer.identity)}/cmdline").read_text().split("\0")
        assert {"--tls-creds", "--tls-authz"} <= set(words)
        assert "-k" not in words
        writer.write(0, data)
        writer.flush()
    point = bench.connect().commit(bench.replica, bench.sealing((layer,)))
    assert bench.start_of(target, point, len(data)) == [data]


def server_of(identity: str) -> int:
    """Return the pid of the qemu-nbd that serves a layer."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_text().split("\0")
            if words[0] == "qemu-nbd" and words[-2].endswith(identity):
                return int(entry.name)
    raise AssertionError(identity)


def refused(bench: Bench, target: KvmTarget) -> str:
    """Require that no byte is written, and return why."""
    layer = opened(bench)
    with pytest.raises(BootpointError) as caught:
        target.open_writer(bench.replica, layer, 1)
    assert caught.value.code is Code.TLS_REFUSED
    assert caught.value.hint
    return caught.value.message


def test_the_certificate_of_another_host_is_refused(
    bench: Bench, connect: Connect, worker: Path, tmp_path: Path
) -> None:
    other = certificate(tmp_path / "tls", Purpose.HOST, "kvm2", "10.9.0.6")
    assert "has the names 10.9.0.6" in refused(bench, connect(other, worker))


@dataclass(frozen=True)
class Stranger(NbdTls):
    """Somebody who comes to a server that was started for another."""

    asked: tuple[str, ...] = ()

    def words(self) -> list[str]:
        return list(self.asked)


def test_only_the_worker_that_asked_for_a_server_may_use_it(
    bench: Bench, connect: Connect, host: Path, worker: Path, tmp_path: Path
) -> None:
    target = connect(host, worker)
    mine = target.host.tls()
    assert mine is not None
    prometheus = certificate(tmp_path / "tls", Purpose.CLIENT, "prometheus")
    strange = Stranger(mine.host, mine.address, prometheus, mine.host_folder, tuple(mine.words()))
    target.host = replace(target.host, tls=lambda: strange)
    refused(bench, target)


def test_a_host_on_this_machine_needs_no_tls(bench: Bench) -> None:
    target = bench.connect(settings={**bench.access.settings, "nbd": "tls"})
    assert target.host.tls() is None
