"""``bootpoint host`` for an ESXi host, from the command to the host and back; the host is VMware's own simulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bootpoint_common.crypto import Vault, load_or_create_installation_key
from bootpoint_ops.cli import main
from bootpoint_worker.targets.certificate import fetch_fingerprint
from tests.esxi.vcsim import PASSWORD, Vcsim, vcsim
from tests.service.commandline import answer_of, error_of
from tests.service.fleet import fleet

Call = Callable[..., Result]


@pytest.fixture
def call(database: str, tmp_path: Path) -> Iterator[Call]:
    """Run a command in an installation with a worker for ESXi."""
    key = tmp_path / "key"
    env = {
        "BOOTPOINT_STATE": str(tmp_path / "state"),
        "BOOTPOINT_DATABASE_URL": database,
        "BOOTPOINT_INSTALLATION_KEY": str(key),
        "COLUMNS": "200",
    }

    def invoke(*words: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(main, [*words, "-o", "json"], env=env, input=stdin)

    with fleet(database, tmp_path / "fleet") as parts:
        parts.vault = Vault(load_or_create_installation_key(key))
        parts.add_worker("w", pools=("esxi",), kind="up")
        yield invoke


def words(simulator: Vcsim, *more: str) -> tuple[str, ...]:
    where = ("--address", "127.0.0.1", "--port", str(simulator.port), "--password-file", "-")
    return ("host", "add", "esx1", "--kind", "esxi", *where, *more)


def shown(call: Call) -> dict[str, Any]:
    return answer_of(call("host", "show", "esx1"))


def test_a_host_is_added_shown_and_known_again(call: Call, tmp_path: Path) -> None:
    with vcsim(tmp_path) as simulator:
        fingerprint = fetch_fingerprint("127.0.0.1", simulator.port)
        unconfirmed = call(*words(simulator), stdin=PASSWORD)
        assert (unconfirmed.exit_code, error_of(unconfirmed)["value"]) == (4, fingerprint)
        assert "/etc/vmware/ssl/rui.crt" in error_of(unconfirmed)["hint"]

        added = answer_of(call(*words(simulator, "--yes", "--vddk-plugin", "/none"), stdin=PASSWORD))
        assert (added["fingerprint"], added["credentials"], added["pool"]) == (fingerprint, "saved", "esxi")
        # All is well but this machine, which has no VDDK.
        assert (added["state"], added["reason"]) == ("refused", "host_unsupported")
        assert "host set esx1 --vddk-plugin FILE" in added["problems"][0]
        assert (added["version"], added["licence"]) == ("VMware ESXi 6.5.0 build-5969303", "Evaluation Mode (eval)")
        assert [store["name"] for store in added["storages"]] == ["LocalDS_0"]
        assert (added["resource_pools"], added["hardware_versions"]) == ([], ["vmx-13"])
        assert added["disk_library"] is None

        other = "AB:" * 31 + "AB"
        answer_of(call("host", "set", "esx1", "--fingerprint", other))
        assert (shown(call)["state"], shown(call)["reason"]) == ("refused", "host_key_changed")
        answer_of(call("host", "set", "esx1", "--fingerprint", f"SHA256 Fingerprint={fingerprint.lower()}"))
        assert shown(call)["reason"] == "host_unsupported"


def test_what_speaks_against_a_host_is_its_reason(call: Call, tmp_path: Path) -> None:
    with vcsim(tmp_path, "-edition=esxBasic") as simulator:
        assert answer_of(call(*words(simulator, "--yes"), stdin="wrong"))["reason"] == "host_auth"
        answer_of(call("host", "set", "esx1", "--password-file", "-", stdin=PASSWORD))
        assert shown(call)["reason"] == "host_licence"
        answer_of(call("host", "set", "esx1", "--forget-credentials"))
        assert shown(call)["reason"] == "credentials_not_saved"


def test_a_host_of_old_is_added_where_its_tls_is_accepted(call: Call, tmp_path: Path) -> None:
    with vcsim(tmp_path, "-old-tls", "-version=5.5") as simulator:
        refused = call(*words(simulator, "--yes"), stdin=PASSWORD)
        assert (refused.exit_code, error_of(refused)["code"]) == (1, "tls_refused")
        added = answer_of(call(*words(simulator, "--yes", "--legacy-tls"), stdin=PASSWORD))
        assert added["version"] == "VMware ESXi 5.5"
        answer_of(call("host", "set", "esx1", "--no-legacy-tls"))
        assert shown(call)["reason"] == "tls_refused"
