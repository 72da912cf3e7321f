"""docker-compose.yml and what makes its secrets, without any container: what a mistake in them would give away."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from bootpoint_common.config import Config
from bootpoint_common.store.role import Role
from bootpoint_worker.targets import DRIVERS
from tests.service.component import need

REPOSITORY = Path(__file__).parents[2]

NAME = "backup.example.test"

#: Services that are bootpoint's own processes.
OWN = ("bootpoint-ops:", "bootpoint-worker:")


@pytest.fixture(scope="module")
def file() -> dict[str, Any]:
    need("podman-compose")
    read: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    return read


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    shutil.copy(REPOSITORY / "docker-compose.yml", tmp_path)
    shutil.copytree(REPOSITORY / "ops/compose", tmp_path / "ops/compose")
    return tmp_path


def make_secrets(clone: Path, name: str = NAME) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(clone / "ops/compose/secrets"), name], capture_output=True, text=True)


def contents(clone: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (clone / "secrets").iterdir()}


def config(clone: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Let podman-compose read and check the file, with every variable filled in."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(clone), **variables}
    program = str(Path(sys.executable).with_name("podman-compose"))
    return subprocess.run([program, "config"], cwd=clone, env=environment, capture_output=True, text=True)


def secret_names(service: dict[str, Any]) -> set[str]:
    return {secret if isinstance(secret, str) else secret["source"] for secret in service.get("secrets", [])}


def places(service: dict[str, Any]) -> set[str]:
    """Where a service finds its secrets."""
    targets = {each if isinstance(each, str) else each["target"] for each in service.get("secrets", [])}
    return {str(Path("/run/secrets") / target) for target in targets}


def test_every_secret_is_a_file_that_the_script_makes_and_that_somebody_mounts(
    file: dict[str, Any], clone: Path
) -> None:
    assert make_secrets(clone).returncode == 0
    mounted = set().union(*(secret_names(service) for service in file["services"].values()))
    assert mounted == set(file["secrets"])
    for name, secret in file["secrets"].items():
        assert secret == {"file": f"secrets/{name}"}
        assert (clone / f"secrets/{name}").is_file()
    assert stat.S_IMODE((clone / "secrets").stat().st_mode) == 0o700
    assert stat.S_IMODE((clone / ".env").stat().st_mode) == 0o600


def test_each_installation_has_secrets_of_its_own_and_keeps_them(clone: Path, tmp_path_factory: Any) -> None:
    make_secrets(clone)
    first = contents(clone)
    assert make_secrets(clone).returncode == 0
    assert contents(clone) == first
    shutil.rmtree(clone / "secrets")
    make_secrets(clone)
    second = contents(clone)
    assert [name for name in first if first[name] == second[name] and first[name]] == []
    assert all(len(text.strip()) >= 48 for name, text in second.items() if name != "mail_password")


def test_what_is_secret_stands_in_no_environment_and_no_setting(file: dict[str, Any], clone: Path) -> None:
    make_secrets(clone)
    shown = config(clone)
    assert shown.returncode == 0, shown.stderr
    visible = shown.stdout + (clone / ".env").read_text() + (clone / "docker-compose.yml").read_text()
    secrets = re.findall(r"[0-9a-f]{48}", "".join(contents(clone).values()))
    assert len(set(secrets)) == 9
    assert not [secret for secret in secrets if secret in visible]
    for name, service in file["services"].items():
        for key, value in (service.get("environment") or {}).items():
            if re.search(r"PASS|SECRET|DATABASE_URL|BROKER_URL|KEY", key):
                assert key.endswith("_FILE"), (name, key)
                assert value in places(service), f"{name} doesn't mount what {key} names"


def test_our_processes_and_the_broker_understand_the_secrets(clone: Path) -> None:
    make_secrets(clone)
    files = {"DATABASE_URL": "database_owner", "BROKER_URL": "broker_url", "BROKER_ADMIN_URL": "broker_admin_url"}
    read = Config.from_environment(
        {f"BOOTPOINT_{key}_FILE": str(clone / "secrets" / name) for key, name in files.items()}
    )
    database, broker = urlsplit(read.database_url or ""), urlsplit(read.broker_url or "")
    api = urlsplit(read.broker_admin_url or "")
    assert (database.hostname, broker.hostname, broker.port) == ("postgres", NAME, 5672)
    assert (api.hostname, api.port, api.username) == ("rabbitmq", 15672, "admin")
    assert database.password == (clone / "secrets/database_password").read_text()
    users = {user["name"]: user for user in json.loads((clone / "secrets/broker_definitions").read_text())["users"]}
    assert users["bootpoint"]["password"] == broker.password
    assert users["admin"]["password"] == api.password
    assert users["bootpoint"]["tags"] == "", "a worker administers no broker"
    assert "guest" not in users


def test_each_process_is_of_its_own_role_in_the_database_and_only_the_migration_owns_it(
    file: dict[str, Any], clone: Path
) -> None:
    make_secrets(clone)
    roles = {
        "migrate": "owner", "scheduler": "scheduler", "exporter": "exporter", "cli": "console",
        "worker-kvm": "worker", "worker-esxi": "worker", "worker-hyperv": "worker",
    }  # fmt: skip
    made = (clone / "secrets/database_roles").read_text()
    for name, role in roles.items():
        mounted = {each["source"] for each in file["services"][name]["secrets"] if not isinstance(each, str)}
        assert mounted == {f"database_{role}"}, name
        login = urlsplit((clone / f"secrets/database_{role}").read_text().strip())
        if role != "owner":
            assert f"LOGIN PASSWORD '{login.password}' IN ROLE {Role(f'bootpoint_{login.username}')};" in made
    assert made.count("NOLOGIN") == len(Role)
    administered = [name for name, each in file["services"].items() if "broker_admin_url" in secret_names(each)]
    assert administered == ["cli"]


def test_without_a_name_nothing_is_made_and_nothing_starts(clone: Path) -> None:
    for wrong in ("", "--help", "a b", "x;y"):
        refused = make_secrets(clone, wrong)
        assert (refused.returncode, "usage" in refused.stderr) == (2, True)
    assert not (clone / "secrets").exists()
    refused = config(clone)
    assert refused.returncode != 0
    assert "run ops/compose/secrets NAME first" in refused.stderr
    make_secrets(clone)
    other = make_secrets(clone, "other.example.test")
    assert (other.returncode, NAME in other.stderr) == (1, True)


def test_every_setting_is_explained(clone: Path) -> None:
    text = (clone / "docker-compose.yml").read_text()
    used = set(re.findall(r"\$\{(\w+)", text)) - {"BOOTPOINT_VERSION", "BOOTPOINT_FILES"}
    explained = set(re.findall(r"^(\w+)=", (clone / "ops/compose/env").read_text(), re.MULTILINE))
    assert used <= explained
    assert explained - used == {"COMPOSE_PROFILES"}


def test_images_have_versions_and_official_names(file: dict[str, Any]) -> None:
    for service in file["services"].values():
        image, _, version = service["image"].partition(":")
        assert version, service["image"]
        assert "latest" not in version
        assert "." not in image.partition("/")[0], f"{image} names a registry"


def test_our_processes_have_no_root_and_write_nowhere_else(file: dict[str, Any]) -> None:
    own = {name: each for name, each in file["services"].items() if each["image"].startswith(OWN)}
    assert {"migrate", "scheduler", "exporter", "worker-kvm", "worker-esxi", "worker-hyperv", "cli"} == set(own)
    for service in own.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    dockerfile = (REPOSITORY / "ops/compose/Dockerfile").read_text()
    for target in ("ops", "worker"):
        stage = dockerfile.partition(f" AS {target}\n")[2].partition("\nFROM ")[0]
        assert "USER bootpoint" in stage


def test_what_has_to_last_restarts_is_looked_after_and_waits_for_what_it_needs(file: dict[str, Any]) -> None:
    for name, service in file["services"].items():
        if name in ("migrate", "cli"):
            continue
        assert service["restart"] == "unless-stopped", name
        assert name == "mail" or service["healthcheck"]["test"][0] == "CMD", name  # the catcher's image brings one
    for name in ("scheduler", "exporter", "worker-kvm"):
        waits = {each: how["condition"] for each, how in file["services"][name]["depends_on"].items()}
        assert waits == {
            "postgres": "service_healthy", "rabbitmq": "service_healthy",
            "migrate": "service_completed_successfully",
        }  # fmt: skip


@pytest.mark.parametrize("kind", ["kvm", "esxi", "hyperv"])
def test_each_pool_is_scaled_by_a_number_and_served_once_its_driver_is_there(
    file: dict[str, Any], kind: str
) -> None:
    service = file["services"][f"worker-{kind}"]
    assert service["command"] == ["bootpoint", "worker", "--pool", kind]
    assert service["deploy"]["replicas"] == f"${{BOOTPOINT_{kind.upper()}_WORKERS:-1}}"
    assert service.get("profiles", []) == ([] if kind in DRIVERS else [kind])


def test_only_the_broker_is_reached_from_other_machines(file: dict[str, Any]) -> None:
    open_to_all = [
        (name, port) for name, each in file["services"].items() for port in each.get("ports", [])
        if not port.startswith("${BOOTPOINT_LOCAL:-127.0.0.1}:")
    ]  # fmt: skip
    assert open_to_all == [("rabbitmq", "${BOOTPOINT_LISTEN:-0.0.0.0}:5672:5672")]
