"""Files of a host over SMB, against a real Samba: by name, and at any offset."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.units import KiB, MiB
from bootpoint_worker.smb import SmbAccess, SmbFiles
from bootpoint_worker.smb.file import UNDER_WAY
from tests.service.samba import SambaServer


def access(server: SambaServer, *, port: int = 0, password: str = "", **more: bool) -> SmbAccess:
    return SmbAccess(
        host="hv1",
        address=server.address,
        port=port or server.port,
        user=server.username,
        password=password or server.password,
        **more,
    )


@pytest.fixture
def files(samba_server: SambaServer) -> Iterator[SmbFiles]:
    made = SmbFiles(access(samba_server))
    yield made
    made.close()


@pytest.fixture
def folder(samba_server: SambaServer, tmp_path: Path, files: SmbFiles) -> Iterator[Path]:
    """A folder of the host's drive D, by its name there: the same as on this machine."""
    name = tmp_path.name
    files.make_folder(f"D:\\{name}")
    yield samba_server.shares["D$"] / name
    files.delete_folder(f"D:\\{name}")


def refused(code: Code, *words: str) -> pytest.RaisesExc[BootpointError]:
    """Expect an error of a code whose text and hint hold some words."""

    def told(problem: BootpointError) -> bool:
        return problem.code is code and all(word in f"{problem.message} {problem.hint}" for word in words)

    return pytest.RaisesExc(BootpointError, check=told)


def test_files_by_name(files: SmbFiles, folder: Path) -> None:
    top = f"D:\\{folder.name}"
    files.make_folder(f"{top}\\vm\\disks")
    files.make_folder(f"{top}\\vm\\disks")
    files.write(f"{top}\\vm\\journal.json", b"old and longer")
    files.write(f"{top}\\vm\\journal.json", b"new")
    assert files.read(f"{top}\\vm\\journal.json") == (folder / "vm/journal.json").read_bytes() == b"new"
    found = [(each.name, each.is_folder, each.size_bytes) for each in files.list(f"{top}\\vm") or ()]
    assert found == [("disks", True, 0), ("journal.json", False, 3)]

    files.rename(f"{top}\\vm\\journal.json", f"{top}\\vm\\disks\\kept.json")
    with refused(Code.VM_NAME_TAKEN):
        files.rename(f"{top}\\vm\\disks", f"{top}\\vm")
    assert files.exists(f"{top}\\vm\\disks\\kept.json")
    assert not files.exists(f"{top}\\vm\\journal.json")
    files.delete(f"{top}\\vm\\journal.json")
    files.delete_folder(f"{top}\\vm")
    assert list(folder.iterdir()) == []


def test_what_is_not_there(files: SmbFiles, folder: Path) -> None:
    nothing = f"D:\\{folder.name}\\nothing"
    assert files.read(nothing) is None
    assert files.list(nothing) is None
    assert not files.exists(nothing)
    files.delete_folder(nothing)
    with refused(Code.LAYER_LOST, nothing):
        files.open(nothing)


def write_in_any_order(files: SmbFiles, path: str) -> bytes:
    """Let writes overlap, go past the end, and be more than may be under way; read and set lengths between them.

    Returns:
        What the file must hold.
    """
    chance = random.Random(8)
    file, wanted = files.create(path), bytearray()
    for step in range(400):
        kind = chance.random()
        offset = chance.randrange(2 * MiB)
        if kind < 0.8:
            data = chance.randbytes(chance.choice([1, 512, 4 * KiB, 64 * KiB, 65537]))
            wanted.extend(bytes(max(0, offset + len(data) - len(wanted))))
            wanted[offset : offset + len(data)] = data
            file.write_at(offset, memoryview(data))
        elif kind < 0.95:
            assert file.read_at(offset, 70000) == wanted[offset : offset + 70000], step
        else:
            file.resize(offset)
            wanted[offset:] = bytes(max(0, offset - len(wanted)))
        assert file.size() == len(wanted)
    large = chance.randbytes(UNDER_WAY + 3 * MiB + 17)
    file.write_at(512, large)
    wanted[512:] = large
    ranges = [(512 + start, 3 * MiB) for start in range(0, len(large), 3 * MiB)]
    assert b"".join(file.read_many(ranges)) == large
    file.flush()
    file.close()
    return bytes(wanted)


def test_any_order_of_requests_leaves_what_was_written_last(files: SmbFiles, folder: Path) -> None:
    wanted = write_in_any_order(files, f"D:\\{folder.name}\\disk")
    assert (folder / "disk").read_bytes() == wanted


def test_a_file_that_somebody_uses_is_busy(files: SmbFiles, folder: Path) -> None:
    path = f"D:\\{folder.name}\\leaf.avhdx"
    writer = files.create(path)
    with refused(Code.BUSY, path, "a running VM"):
        files.open(path, writable=True)
    writer.close()
    with contextlib.closing(files.open(path)), contextlib.closing(files.open(path)), refused(Code.BUSY):
        files.open(path, writable=True)
    files.open(path, writable=True).close()


def test_a_wrong_password(samba_server: SambaServer) -> None:
    files = SmbFiles(access(samba_server, password="wrong"))
    with refused(Code.HOST_AUTH, "host set"):
        files.list("D:\\")
    files.close()


def test_an_administrator_whom_uac_filters(samba_server: SambaServer) -> None:
    files = SmbFiles(access(samba_server))
    samba_server.refuse()
    try:
        with refused(Code.HOST_PERMISSION, "LocalAccountTokenFilterPolicy"):
            files.list("D:\\")
    finally:
        samba_server.refuse(refused=False)
    files.close()


def test_a_host_of_2008_r2_is_refused_by_name(samba_server: SambaServer, tmp_path: Path) -> None:
    old = SambaServer(tmp_path, samba_server.shares)
    old.create()
    text = old.configuration.read_text()
    old.configuration.write_text(
        text.replace("server min protocol = SMB3_00", "server min protocol = SMB2_02\nserver max protocol = SMB2_10")
    )
    old.start()
    try:
        files = SmbFiles(access(old))
        with refused(Code.HOST_UNSUPPORTED, "Windows Server 2008 R2"):
            files.list("D:\\")
        files.close()
    finally:
        old.stop()


@pytest.mark.parametrize("cut", [True, False])
def test_a_write_that_the_host_never_answered_is_not_durable(
    samba_server: SambaServer, files: SmbFiles, folder: Path, *, cut: bool
) -> None:
    """The power is cut in the midst, or the share is taken away; afterwards a new handle does all again."""
    path = f"D:\\{folder.name}\\leaf.avhdx"
    file = files.create(path)
    file.write_at(0, b"first")
    file.flush()
    try:
        if cut:
            samba_server.cut()
        else:
            samba_server.remove_share("D$")
        with refused(Code.HOST_UNREACHABLE, path):
            for start in range(0, 2 * UNDER_WAY, MiB):
                file.write_at(start, bytes(MiB))
            file.flush()
        with pytest.raises(BootpointError):
            file.flush()
        file.close()
    finally:
        if cut:
            samba_server.start()
        else:
            samba_server.return_share("D$")
    again = files.open(path, writable=True)
    again.write_at(0, b"again")
    again.flush()
    again.close()
    assert (folder / "leaf.avhdx").read_bytes()[:5] == b"again"
