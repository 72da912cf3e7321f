"""``bootpoint host`` and ``vm cluster`` for Hyper-V, from the command to the host and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result
from psycopg.types.json import Jsonb

from bootpoint_common.crypto import Vault, load_or_create_installation_key
from bootpoint_common.store.database import run
from bootpoint_common.units import MiB
from bootpoint_ops.cli import main
from bootpoint_worker.replica import as_json
from bootpoint_worker.targets.certificate import fetch_fingerprint, normalised
from bootpoint_worker.targets.hyperv import addresses, connect
from bootpoint_worker.targets.replica import Addressing, Nic, Replica, ReplicaDisk
from tests.contract.driver_hyperv import HyperVHooks, access_to
from tests.contract.drivers import Driver
from tests.contract.test_target import SIZE, Bench
from tests.hyperv.cluster import Cluster
from tests.hyperv.host import Host
from tests.service.commandline import answer_of, error_of
from tests.service.component import need
from tests.service.fleet import Fleet, fleet

Call = Callable[..., Result]


@pytest.fixture
def parts(database: str, tmp_path: Path) -> Iterator[Fleet]:
    """An installation with a worker for Hyper-V."""
    need("root", "samba")
    with fleet(database, tmp_path / "fleet") as made:
        made.vault = Vault(load_or_create_installation_key(tmp_path / "key"))
        made.add_worker("w", pools=("hyperv",), kind="up")
        yield made


@pytest.fixture
def call(parts: Fleet, database: str, tmp_path: Path) -> Call:
    env = {
        "BOOTPOINT_STATE": str(tmp_path / "state"),
        "BOOTPOINT_DATABASE_URL": database,
        "BOOTPOINT_INSTALLATION_KEY": str(tmp_path / "key"),
        "COLUMNS": "200",
    }

    def invoke(*words: str, stdin: str | None = None, form: str = "json") -> Result:
        return CliRunner().invoke(main, [*words, "-o", form], env=env, input=stdin)

    return invoke


def words(host: Host, *more: str) -> tuple[str, ...]:
    where = ("--address", host.address, "--port", str(host.winrm.port), "--smb-port", str(host.samba.port))
    return ("host", "add", "hv1", "--kind", "hyperv", *where, "--password-file", "-", *more)


def shown(call: Call) -> dict[str, Any]:
    return answer_of(call("host", "show", "hv1"))


def test_a_host_is_added_shown_and_known_again(call: Call, tmp_path: Path) -> None:
    with Host(tmp_path / "hv1", "2019", tls=True) as host:
        fingerprint = fetch_fingerprint(host.address, host.winrm.port)
        unconfirmed = call(*words(host), stdin=host.password)
        assert (unconfirmed.exit_code, error_of(unconfirmed)["value"]) == (4, fingerprint)
        assert "Cert:\\LocalMachine\\My" in error_of(unconfirmed)["hint"]

        added = answer_of(call(*words(host, "--yes"), stdin=host.password))
        assert (added["user"], added["fingerprint"], added["credentials"]) == ("Administrator", fingerprint, "saved")
        assert (added["state"], added["reason"], added["pool"]) == ("reachable", None, "hyperv")
        assert added["version"].startswith("Microsoft Windows Server 2019 Standard 10.0.17763")
        assert [each["name"] for each in added["storages"]] == ["C:", "D:"]
        assert added["networks"] == [{"name": "LAN", "kind": "bridge"}]
        assert (added["cluster"], added["point_limit"]) == (None, 30)

        host.winrm.renew_certificate()
        assert (shown(call)["state"], shown(call)["reason"]) == ("refused", "host_key_changed")
        answer_of(call("host", "set", "hv1", "--fingerprint", host.winrm.fingerprint))
        assert shown(call)["state"] == "reachable"
        host.winrm.renew_certificate(days=-1)
        answer_of(call("host", "set", "hv1", "--fingerprint", host.winrm.fingerprint))
        assert shown(call)["reason"] == "tls_refused"


def test_what_speaks_against_a_host_is_its_reason(call: Call, tmp_path: Path) -> None:
    with Host(tmp_path / "hv1", encrypt=True) as host:
        wrong = call(*words(host, "--winrm", "http"), stdin="wrong")
        assert (answer_of(wrong)["reason"], answer_of(wrong)["fingerprint"]) == ("host_auth", None)
        answer_of(call("host", "set", "hv1", "--password-file", "-", stdin=host.password))
        assert shown(call)["state"] == "reachable"
        host.trouble.filtered = True
        assert shown(call)["reason"] == "host_permission"
        host.trouble.filtered = False
        answer_of(call("host", "set", "hv1", "--forget-credentials"))
        assert shown(call)["reason"] == "credentials_not_saved"
        answer_of(call("host", "set", "hv1", "--auth", "kerberos"))
        assert shown(call)["reason"] == "host_unsupported"
    misplaced = call("host", "add", "k", "--kind", "kvm", "--address", "local", "--smb", "signed")
    assert misplaced.exit_code == 2


def test_nodes_are_added_one_by_one(call: Call, parts: Fleet, tmp_path: Path) -> None:
    with Host(tmp_path / "hv1") as host:
        answer_of(call(*words(host, "--winrm", "http", "--node", f"HV2={'ab' * 32}"), stdin=host.password))
        answer_of(call("host", "set", "hv1", "--node", f"hv3={'cd' * 20}"))
        assert call("host", "set", "hv1", "--node", "hv4").exit_code == 2
    (row,) = parts.rows("SELECT settings FROM host")
    assert row["settings"]["nodes"] == {"hv2": normalised("ab" * 32), "hv3": normalised("cd" * 20)}


@contextmanager
def standby(parts: Fleet, host: Host, storage: str, *nics: Nic) -> Iterator[Bench]:
    """Make a replica on a host, with its row, and lend a session of its own."""
    replica = Replica(
        replica_id=uuid4(), job="erp", vm_name="erp-standby", storage=storage, folder="", cpus=1,
        memory_bytes=512 * MiB, firmware="uefi", disks=(ReplicaDisk("system", SIZE, "erp-system"),), nics=nics,
    )  # fmt: skip
    access = replace(access_to(host), name="hv1")
    with closing(connect(access)) as target:
        target.create(replica)
        with parts.database.transaction() as connection:
            run(
                connection,
                "INSERT INTO replica (id, job_name, host_id, pool, definition)"
                " SELECT %s, 'erp', id, pool, %s FROM host",
                replica.replica_id,
                Jsonb(as_json(replica)),
            )
        hooks = HyperVHooks(host, access)
        yield Bench(Driver("hyperv", partial(connect, access), hooks, storage, "LAN"), target, replica)


def test_a_start_says_what_its_guest_was_told_and_can_be_followed_by_another_try(
    call: Call, parts: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine runs whatever comes of its addresses: the start succeeds, and the history has both."""
    monkeypatch.setattr(addresses, "TICK", 0.05)
    nic = Nic("LAN", "virtio", "00:15:5d:00:00:01", addressing=Addressing("static", addresses=("10.9.0.21/24",)))
    with Host(tmp_path / "hv1") as host:
        answer_of(call(*words(host, "--winrm", "http"), stdin=host.password))
        with standby(parts, host, "D:", nic) as bench:
            point = bench.point(None, (0, b"1" * 4096))
        host.trouble.silent_looks = 10_000
        start = ("vm", "start", "hv1", "erp-standby", "--yes", "--guest-timeout", "0")
        started = answer_of(call(*start))
        assert (started["state"], started["point"]) == ("running", point.name)
        (told,) = started["addresses"]
        assert (told["told"], told["mac"]) == (False, "00:15:5d:00:00:01")
        assert told["text"].endswith("`bootpoint vm address` tells it once they do; set them by hand: 10.9.0.21/24")
        read = call("vm", "address", "hv1", "erp-standby", "--guest-timeout", "0", form="table").stdout
        assert " ".join(read.split()) == f"problem: {told['text']}"
        host.machine("erp-standby")._silent_looks = 3
        (told,) = answer_of(call("vm", "address", "hv1", "erp-standby"))["addresses"]
        assert told["text"] == "network card 00:15:5d:00:00:01 was told its addresses: 10.9.0.21/24"
        assert host.machine("erp-standby")._told["00155D000001"].addresses == ("10.9.0.21/24",)
        tested = answer_of(call(*start, "--test", "t1"))
        assert (tested["name"], tested["addresses"]) == ("erp-standby-test-t1", [])
        assert host.machine("erp-standby-test-t1")._told == {}
    events = parts.rows("SELECT kind, text FROM event WHERE kind LIKE 'vm_%%' ORDER BY id")
    kinds = [row["kind"] for row in events]
    assert kinds == ["vm_started", "vm_addresses", "vm_addresses", "vm_addresses", "vm_started"]
    assert events[3]["text"] == f"erp-standby: {told['text']}"


def test_a_standby_gets_its_role_in_the_cluster(call: Call, parts: Fleet, tmp_path: Path) -> None:
    """The replica is made by its driver alone; its row is all that the command asks the database for."""
    with Host(tmp_path / "hv1", cluster=Cluster(tmp_path / "shared")) as host:
        answer_of(call(*words(host, "--winrm", "http"), stdin=host.password))
        assert shown(call)["cluster"] == {"name": "CL1", "node": "HV1", "nodes": [{"name": "HV1", "state": "up"}]}
        with standby(parts, host, "C:\\ClusterStorage\\Volume1"):
            pass
        found = answer_of(call("vm", "cluster", "hv1", "erp-standby", "--add"))
        assert found == {"name": "erp-standby", "role": "erp-standby", "node": "HV1", "changed": True}
        assert not answer_of(call("vm", "cluster", "hv1", "erp-standby", "--add"))["changed"]
        assert answer_of(call("vm", "cluster", "hv1", "erp-standby", "--remove"))["role"] is None
    events = parts.rows("SELECT kind FROM event WHERE kind = 'vm_clustered'")
    assert len(events) == 2
