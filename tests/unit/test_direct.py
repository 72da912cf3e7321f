"""``bootpoint vm … --direct`` in this process: how its host is stated, and what is done with the fake one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from bootpoint_ops.cli import main
from bootpoint_worker.targets.fake import FakeTarget, connect
from bootpoint_worker.targets.host import HostAccess
from tests.contract.drivers import FACTORIES, _FakeHooks
from tests.contract.test_target import Bench, _replica
from tests.service.direct import Call, done, error_in, moves_a_standby, refused, starts_a_test

#: Of no certificate.
FINGERPRINT = ":".join(["AB"] * 32)


def call(*words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``bootpoint vm`` in this process, where no installation is."""
    env = {"BOOTPOINT_STATE": "/nonexistent", "BOOTPOINT_DATABASE_URL": "", "BOOTPOINT_BROKER_URL": ""}
    said = CliRunner().invoke(main, ["vm", *words, "-o", "json"], env=env, input=text)
    return subprocess.CompletedProcess(words, said.exit_code, said.stdout, said.stderr)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with FACTORIES["fake"](tmp_path) as driver, closing(driver.connect()) as target:
        yield Bench(driver, target, _replica(driver, disks=1))


@pytest.fixture
def there(bench: Bench) -> Call:
    """What runs a command for the fake host."""
    hooks = bench.driver.hooks
    assert isinstance(hooks, _FakeHooks)
    return lambda *words: call(*words, "--direct", "--kind", "fake", "--address", hooks.host.name)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text("-----KEY")
    return file


def test_any_kind_of_host_is_worked_on(bench: Bench, there: Call) -> None:
    bench.target.create(bench.replica)
    first = bench.point(None, (0, b"0"))
    second = bench.point(first, (0, b"1"))
    moves_a_standby(there, bench.replica.vm_name, first, second)
    starts_a_test(there, bench.replica.vm_name, first)
    assert refused(there("export", bench.replica.vm_name, "--to", "/tmp", "--format", "raw")) == (1, "host_unsupported")


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[HostAccess]:
    """How each command reaches its host, in whose place the fake one answers."""
    seen: list[HostAccess] = []

    def keep(access: HostAccess) -> FakeTarget:
        seen.append(access)
        return connect(replace(access, address="direct", fingerprint=None))

    monkeypatch.setattr("bootpoint_ops.direct.connect", keep)
    return seen


def test_a_kvm_host_is_reached_as_it_was_before_there_were_other_kinds(reached: list[HostAccess], key: Path) -> None:
    words = ("--ssh-key", str(key), "--fingerprint", "SHA256:abc", "--virt-type", "qemu", "--virtio-win", "/w.iso")
    assert done(call("list", "--direct", "--address", "10.9.0.5", *words)) == {"items": []}
    settings = {"virt_type": "qemu", "virtio_win": "/w.iso"}
    assert reached == [
        HostAccess("10.9.0.5", "kvm", "10.9.0.5", 22, "root", "SHA256:abc", ssh_key="-----KEY", settings=settings)
    ]
    done(call("list", "--direct", "--address", "local"))
    assert reached[1] == HostAccess("local", "kvm", "local", 22, "root", settings={"virt_type": "kvm"})


def test_other_kinds_have_their_own_ports_accounts_and_settings(reached: list[HostAccess]) -> None:
    where = ("--direct", "--address", "a", "--fingerprint", FINGERPRINT.lower(), "--password-file", "-")
    done(call("list", *where, "--kind", "esxi", "--vddk-libdir", "/opt/vddk", "--legacy-tls", text="word\n"))
    done(call("list", *where, "--kind", "hyperv", "--smb", "signed", "--node", f"HV2={FINGERPRINT}", text="word\n"))
    esxi, hyperv = reached
    assert esxi == HostAccess(
        "a", "esxi", "a", 443, "root", FINGERPRINT, password="word",
        settings={"vddk_libdir": "/opt/vddk", "legacy_tls": True},
    )  # fmt: skip
    assert hyperv == HostAccess(
        "a", "hyperv", "a", 5986, "Administrator", FINGERPRINT, password="word",
        settings={"smb": "signed", "nodes": {"hv2": FINGERPRINT}},
    )  # fmt: skip


def test_certificates_for_nbd_come_from_where_workers_have_them(
    reached: list[HostAccess], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BOOTPOINT_NBD_TLS", str(tmp_path))
    done(call("list", "--direct", "--address", "local", "--nbd", "tls"))
    assert reached[0].nbd_tls == tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--direct",), "--direct needs --address"),
        (
            ("--direct", "--address", "a", "--smb", "signed"),
            "--smb is for hosts of kind hyperv; this one is of kind kvm",
        ),
        (
            ("--direct", "--address", "a", "--kind", "esxi", "--node", f"n={FINGERPRINT}"),
            "--node is for hosts of kind hyperv; this one is of kind esxi",
        ),
        (
            ("--direct", "--address", "a", "--kind", "hyperv", "--virt-type", "qemu"),
            "--virt-type is for hosts of kind kvm; this one is of kind hyperv",
        ),
        (("--direct", "--address", "a", "--kind", "hyperv", "--fingerprint", "SHA256:abc"), "fingerprint"),
        (("--direct", "--address", "a", "--kind", "vbox"), "'vbox' is not one of"),
        (("hv1", "--direct", "--address", "a"), "expected no words, got hv1"),
        (("hv1", "--kind", "hyperv"), "--kind is for --direct"),
        (("hv1", "--node", f"n={FINGERPRINT}"), "--node is for --direct"),
    ],
)
def test_what_does_not_fit_is_refused_before_anybody_is_asked(
    reached: list[HostAccess], words: tuple[str, ...], said: str
) -> None:
    result = call("list", *words)
    assert (result.returncode, reached) == (2, [])
    assert said in error_in(result)["message"]


def test_a_wrong_option_reads_no_password(reached: list[HostAccess], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # who read it would hang
    where = ("--direct", "--address", "a", "--kind", "esxi", "--password-file", str(pipe))
    assert call("list", *where, "--winrm", "tls").returncode == 2
    assert reached == []
