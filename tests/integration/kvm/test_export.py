"""Disks of a boot point as files of every format, read back by a program that knows nothing of qemu."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner

from bootpoint_common.store.database import run
from bootpoint_common.units import GRAIN, MiB
from bootpoint_ops.cli import main
from tests.integration.kvm.conftest import Bench
from tests.service.component import need
from tests.service.fleet import Fleet, fleet
from tests.service.libvirt import LibvirtHost
from tests.service.nbd import servers_in
from tests.service.process import wait_for
from tests.service.standby import POOL, Protected, add_kvm_host

#: What 7-Zip calls the formats.
TYPES = {"qcow2": "QCOW", "vhdx": "VHDX", "vmdk": "VMDK"}

#: The second disk ends within a grain.
SIZES = {"system": 12 * MiB, "data": 4 * MiB + 512}


@pytest.fixture
def installation(database: str, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(database, tmp_path) as made:
        yield made


@pytest.fixture
def protected(
    installation: Fleet, libvirt_host: LibvirtHost, storage_directory: Path, tmp_path: Path, rng: Random
) -> Iterator[Protected]:
    """Two disks with two points."""
    need("root", "libvirt", "libvirt-python", "libnbd", "qemu-img", "qemu-nbd")
    installation.add_worker("w1", pools=(POOL,))
    disks = {slot: tmp_path / f"{slot}.raw" for slot in SIZES}
    for slot, path in disks.items():
        path.touch()
        os.truncate(path, SIZES[slot])
    made = Protected(
        installation, "erp", disks, add_kvm_host(installation, libvirt_host), storage_directory, tmp_path / "copies"
    )
    for _ in range(2):
        for slot, path in disks.items():
            with path.open("r+b") as stream:
                stream.seek(rng.randrange(SIZES[slot] // GRAIN - 16) * GRAIN)
                stream.write(rng.randbytes(16 * GRAIN))
                stream.seek(SIZES[slot] - 512)
                stream.write(rng.randbytes(512))
        made.protect()
    yield made
    made.remove()


@pytest.fixture
def env(database: str, tmp_path: Path) -> dict[str, str]:
    return {"BOOTPOINT_STATE": str(tmp_path / "state"), "BOOTPOINT_DATABASE_URL": database}


def call(env: dict[str, str], *words: object) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(main, ["point", *map(str, words), "-o", "json"], env=env)
    return result.exit_code, json.loads(result.stderr if result.exit_code else result.stdout)


def references(protected: Protected) -> int:
    return len(protected.fleet.rows("SELECT id FROM reference"))


def content_of(path: Path, form: str) -> bytes:
    """Return what a disk file holds, as 7-Zip reads it; a raw file is that itself."""
    if form == "raw":
        return path.read_bytes()
    read = subprocess.run(["7zz", "x", "-so", f"-t{TYPES[form]}", path], capture_output=True, check=False)
    assert read.returncode == 0, read.stderr
    return read.stdout


@pytest.mark.timeout(240)
def test_every_format_read_back_by_another_program_is_the_source(
    protected: Protected, env: dict[str, str], tmp_path: Path
) -> None:
    need("7zip")
    names = [point.name for point in protected.fleet.points(protected.job)]
    copies = list(protected.copies.values())
    for form in ("raw", "qcow2", "vhdx", "vmdk"):
        for name, copy in zip(names, copies, strict=True):
            code, found = call(env, "export", "erp", name, "--to", tmp_path, "--format", form)
            assert code == 0, found
            assert [item["slot"] for item in found["items"]] == list(SIZES)
            for item in found["items"]:
                slot, path = item["slot"], Path(item["path"])
                assert path == tmp_path / f"erp-standby-{slot}-{name}.{form}"
                expected = copy[slot].read_bytes()
                read = content_of(path, form)
                assert read[: len(expected)] == expected, (form, name, slot)
                assert not any(read[len(expected) :])
                assert form != "raw" or len(read) == len(expected)
    assert len(list(tmp_path.glob("erp-standby-*"))) == 4 * 2 * 2
    assert (list(tmp_path.glob(".*")), servers_in(protected.storage), references(protected)) == ([], [], 0)


@pytest.mark.timeout(240)
def test_what_can_not_be_exported_is_refused_and_leaves_nothing(
    protected: Protected, env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "to"
    to.mkdir()
    words = ("export", "erp", "latest", "--to", to, "--format", "raw")
    code, found = call(env, *words, "--disk", "system")
    assert (code, [item["slot"] for item in found["items"]]) == (0, ["system"])
    (file,) = to.iterdir()
    before = file.read_bytes()
    assert call(env, *words)[1]["code"] == "spec_invalid"
    assert call(env, *words, "--disk", "tape")[1]["code"] == "no_such_disk"
    assert call(env, "export", "erp", "V20000101_000000", *words[3:])[1]["code"] == "no_such_point"
    assert call(env, "export", "nobody", *words[2:])[1]["code"] == "no_such_job"
    file.unlink()
    with monkeypatch.context() as patch:
        usage = os.statvfs(to)
        patch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 2 * MiB})())
        assert usage.f_bavail
        code, found = call(env, *words)
    assert (code, found["code"], list(to.iterdir())) == (1, "host_full", [])
    with protected.fleet.database.transaction() as connection:
        run(connection, "UPDATE replica SET consolidating = head")
    assert call(env, *words)[1]["code"] == "point_in_use"
    assert (list(to.iterdir()), servers_in(protected.storage), references(protected)) == ([], [], 0)
    assert len(before) == SIZES["system"]


@pytest.mark.timeout(240)
def test_an_export_that_is_ended_leaves_nothing_behind(
    protected: Protected, env: dict[str, str], tmp_path: Path
) -> None:
    """In the midst of it: a qemu-img that has begun its file goes on for ever."""
    to, path = tmp_path / "to", tmp_path / "bin"
    to.mkdir()
    path.mkdir()
    endless = path / "qemu-img"
    endless.write_text('#!/bin/sh\nfor last; do :; done\necho begun >"$last"\nexec tail -f /dev/null\n')
    endless.chmod(0o755)
    program = str(Path(sys.executable).with_name("bootpoint"))
    words = [program, "point", "export", "erp", "latest", "--to", str(to), "--format", "vmdk"]
    environment = {**os.environ, **env, "PATH": f"{path}:{os.environ['PATH']}"}
    for by in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL, start_new_session=True) as child:
            wait_for(lambda: list(to.glob(".*.part")), "qemu-img to begin")
            assert len(servers_in(protected.storage)) == 1
            shown = CliRunner().invoke(main, ["point", "list", "erp", "-o", "json"], env=env)
            assert [use["kind"] for use in json.loads(shown.stdout)["items"][0]["in_use_by"]] == ["export"]
            os.kill(child.pid, by)
        wait_for(lambda: not servers_in(protected.storage), "the server on the host to be gone")
        if by is not signal.SIGKILL:
            assert (child.returncode, list(to.iterdir()), references(protected)) == (130, [], 0)
    assert child.returncode == -signal.SIGKILL
    os.killpg(child.pid, signal.SIGKILL)  # the endless qemu-img; a real one ends with what it reads from


def test_a_point_is_shared_over_ssh_with_several_clients_and_nobody_writes(ssh: Bench) -> None:
    target = ssh.connect(address="local")
    target.create(ssh.replica)
    point = ssh.point(target, None, b"7" * GRAIN)
    with ssh.connect().share(ssh.replica, point.point_id, "data") as share:
        for _ in range(3):
            words = ["qemu-io", "-r", "-f", "raw", "-c", f"read -P 0x37 0 {GRAIN}", share.uri]
            read = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
            assert "verification failed" not in read.stdout
        write = subprocess.run(
            ["qemu-io", "-f", "raw", "-c", "write 0 512", share.uri], capture_output=True, text=True, timeout=60
        )
        assert write.returncode != 0
        socket = Path(share.socket)
        assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert not socket.parent.exists()
    assert servers_in(ssh.directory) == []
    assert ssh.start_of(target, point, GRAIN) == [b"7" * GRAIN] * 2
