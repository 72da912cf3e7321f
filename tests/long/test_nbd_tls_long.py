"""NBD over TLS to a host behind SSH: the other certificates that must not be believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError
from bootpoint_ops.certificate import Purpose
from tests.integration.kvm.conftest import Bench, bench
from tests.integration.kvm.test_nbd_tls import Connect, connect, host, refused, worker
from tests.service.tls import EXPIRED, certificate

__all__ = ["bench", "connect", "host", "worker"]


def test_a_host_of_another_authority_is_refused(bench: Bench, connect: Connect, worker: Path, tmp_path: Path) -> None:
    other = certificate(tmp_path / "other", Purpose.HOST, "kvm1", "127.0.0.1")
    assert "of another authority than those in" in refused(bench, connect(other, worker))


def test_a_worker_of_another_authority_is_refused(bench: Bench, connect: Connect, host: Path, tmp_path: Path) -> None:
    other = certificate(tmp_path / "other", Purpose.CLIENT, "worker")
    (other / "ca.pem").write_bytes((host / "ca.pem").read_bytes())
    refused(bench, connect(host, other))


def test_a_worker_without_certificates_and_one_whose_have_expired(
    bench: Bench, connect: Connect, host: Path, tmp_path: Path
) -> None:
    assert "has no certificate for it" in refused(bench, connect(host, None))
    old = certificate(tmp_path / "tls", Purpose.CLIENT, "old", at=EXPIRED)
    tls = connect(host, old).host.tls()
    assert tls is not None
    with pytest.raises(BootpointError, match="expired at"):
        tls.words()
