"""``bootpoint vm … --direct`` on ESXi and Hyper-V hosts: their own credentials, and neither database nor broker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bootpoint_worker.targets.certificate import fetch_fingerprint
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.journal import JournalPoint
from bootpoint_worker.targets.replica import Addressing, Nic
from tests.contract.driver_esxi import EsxiHooks, esxi
from tests.contract.driver_hyperv import NETWORK, HyperVHooks, hyperv
from tests.contract.test_target import SIZE, Bench, _pattern, _replica
from tests.hyperv.host import Host
from tests.service.direct import Call, done, error_in, moves_a_standby, reaching, refused, run, starts_a_test

pytestmark = pytest.mark.long

#: How the host is reached: a kind, a release, and for Hyper-V whether orders go by TLS.
WAYS = ("esxi 8.0", "esxi vcenter", "hyperv 2022 tls", "hyperv 2012r2 http")


@dataclass(frozen=True, slots=True)
class Alone:
    """A host with a standby of two points, and what works on it from outside.

    Attributes:
        bench: The standby.
        access: How the host is reached.
        reach: The options that say so, but for its fingerprint.
        points: Both points, with other bytes each.
    """

    bench: Bench
    access: HostAccess
    reach: tuple[str, ...]
    points: tuple[JournalPoint, JournalPoint]

    @property
    def vm(self) -> str:
        """The standby's name."""
        return self.bench.replica.vm_name

    @property
    def call(self) -> Call:
        """What runs a command for the host."""
        stated = () if self.access.fingerprint is None else ("--fingerprint", self.access.fingerprint)
        return reaching(*self.reach, *stated)


def reach_of(access: HostAccess, password_file: Path) -> tuple[str, ...]:
    """Return the options that say how a host is reached; the account is that of its kind."""
    password_file.write_text(f"{access.password}\n")
    settings = [(f"--{name.replace('_', '-')}", str(value)) for name, value in access.settings.items()]
    where = (("--kind", access.kind), ("--address", access.address), ("--port", str(access.port)), *settings)
    return ("--direct", *(word for pair in where for word in pair), "--password-file", str(password_file))


@pytest.fixture(params=WAYS)
def alone(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Alone]:
    kind, guise, *way = request.param.split()
    with ExitStack() as stack:
        opened = esxi(tmp_path, guise) if kind == "esxi" else hyperv(tmp_path, guise, tls=way == ["tls"])
        driver = stack.enter_context(opened)
        assert isinstance(driver.hooks, EsxiHooks | HyperVHooks)
        target = stack.enter_context(closing(driver.connect()))
        bench = Bench(driver, target, _replica(driver, disks=2))
        target.create(bench.replica)
        first = bench.point(None, (0, _pattern(1, SIZE)))
        second = bench.point(first, (0, _pattern(2, SIZE)))
        access = driver.hooks.access
        yield Alone(bench, access, reach_of(access, tmp_path / "password"), (first, second))


@pytest.mark.timeout(600)
def test_a_host_alone_is_enough(alone: Alone, tmp_path: Path) -> None:
    """The standby is listed, reverted, started and stopped, a test beside it too, and a point is exported."""
    first, second = alone.points
    moves_a_standby(alone.call, alone.vm, first, second)
    starts_a_test(alone.call, alone.vm, first)
    export = ("export", alone.vm, first.name, "--to", str(tmp_path), "--format", "raw")
    files = {item["slot"]: Path(item["path"]) for item in done(alone.call(*export))["items"]}
    assert {slot: file.read_bytes() for slot, file in files.items()} == {
        "system": _pattern(1, SIZE), "data": _pattern(1, SIZE)
    }  # fmt: skip
    assert alone.bench.read(second.point_id) == _pattern(2, SIZE)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("alone", ["esxi 8.0", "hyperv 2022 tls"], indirect=True)
def test_a_certificate_that_nobody_confirmed_gets_no_password(alone: Alone) -> None:
    shown = fetch_fingerprint(alone.access.address, alone.access.port)
    unconfirmed = run("list", *alone.reach)
    assert refused(unconfirmed) == (4, "host_key_changed")
    assert error_in(unconfirmed)["value"] == shown
    assert error_in(unconfirmed)["hint"].endswith("; then say --fingerprint")  # a start's --yes is for the start
    assert refused(run("start", alone.vm, "--yes", *alone.reach)) == (4, "host_key_changed")
    another = run("list", *alone.reach, "--fingerprint", ":".join(["AB"] * 32))
    assert refused(another) == (4, "host_key_changed")
    assert error_in(another)["message"] != error_in(unconfirmed)["message"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("alone", ["esxi 8.0", "hyperv 2022 http"], indirect=True)
def test_a_wrong_password_is_named(alone: Alone, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("wrong")
    assert refused(alone.call("list")) == (1, "host_auth")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("alone", ["hyperv 2022 http"], indirect=True)
def test_a_guest_on_hyper_v_is_told_its_addresses(alone: Alone) -> None:
    """By a start that no conversion changes, and once more by `vm address`; a start succeeds whatever comes of it."""
    hooks, bench = alone.bench.driver.hooks, alone.bench
    assert isinstance(hooks, HyperVHooks)
    host: Host = hooks.host
    nic = Nic(NETWORK, "virtio", "00:15:5d:00:00:01", addressing=Addressing("static", addresses=("10.9.0.21/24",)))
    bench.replica = replace(bench.replica, nics=(nic,))
    bench.target.create(bench.replica)
    host.trouble.silent_looks = 10_000
    (told,) = done(alone.call("start", alone.vm, "--yes", "--guest-timeout", "0"))["addresses"]
    assert (told["mac"], told["told"]) == ("00:15:5d:00:00:01", False)
    assert "`bootpoint vm address` tells it once they do" in told["text"]
    host.machine(alone.vm)._silent_looks = 1
    (told,) = done(alone.call("address", alone.vm))["addresses"]
    assert told["text"] == "network card 00:15:5d:00:00:01 was told its addresses: 10.9.0.21/24"
    assert host.machine(alone.vm)._told["00155D000001"].addresses == ("10.9.0.21/24",)
