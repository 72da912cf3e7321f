"""Files of a host over SMB: who listens on the way, full volumes, and hosts that don't answer."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from smbprotocol.open import CreateOptions, Open

from bootpoint_common.errors import Code
from bootpoint_common.units import MiB
from bootpoint_worker.smb import SmbFiles, session
from bootpoint_worker.smb.file import SmbFile
from tests.integration.hyperv.test_smb import access, files, folder, refused, write_in_any_order
from tests.service.process import run
from tests.service.samba import SambaServer
from tests.service.wire import Wire

__all__ = ["files", "folder"]


class Forger(Wire):
    """Whoever sits between this machine and a host, and changes the host's answers of one command once it is armed.

    Args:
        server: The host.
        command: Of SMB ([MS-SMB2] 2.2.1).
        signed: Whether what it forges says that it is signed.
    """

    def __init__(self, server: SambaServer, command: int, *, signed: bool) -> None:
        self.armed = False
        self._command, self._signed = command, signed
        super().__init__(server.address, server.port)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        is_host = source.getpeername() == self._there
        with contextlib.suppress(OSError):
            stream = source.makefile("rb")
            while length := stream.read(4):
                message = bytearray(stream.read(int.from_bytes(length)))
                if self.armed and is_host:
                    self._forge(message)
                sink.sendall(length + message)
            sink.shutdown(socket.SHUT_WR)

    def _forge(self, message: bytearray) -> None:
        """Change the last byte of an answer, and its signature ([MS-SMB2] 2.2.1.2) where it isn't encrypted."""
        command, _, flags = struct.unpack_from("<HHI", message, 12)
        if message.startswith(b"\xfdSMB"):
            message[-1] ^= 0xFF
        elif command == self._command:
            struct.pack_into("<I", message, 16, flags if self._signed else flags & ~0x8)
            message[48:64] = bytes(16)
            message[-1] ^= 0xFF


def test_administrative_shares_that_are_off(files: SmbFiles) -> None:
    with refused(Code.HOST_UNSUPPORTED, "X$", "AutoShareServer"):
        files.list("X:\\")


def test_a_host_that_lets_nobody_in(samba_server: SambaServer) -> None:
    with socket.socket() as bound:
        bound.bind((samba_server.address, 0))
        files = SmbFiles(access(samba_server, port=bound.getsockname()[1]))
        with refused(Code.HOST_UNREACHABLE, "File and Printer Sharing"):
            files.list("D:\\")


def test_an_idle_connection_that_was_cut_is_made_again(
    samba_server: SambaServer, files: SmbFiles, folder: Path
) -> None:
    files.write(f"D:\\{folder.name}\\a", b"a")
    samba_server.cut()
    samba_server.start()
    assert files.read(f"D:\\{folder.name}\\a") == b"a"


@pytest.mark.parametrize("encrypted", [True, False])
def test_who_listens_on_the_way_reads_nothing(samba_server: SambaServer, folder: Path, *, encrypted: bool) -> None:
    wire, secret = Wire(samba_server.address, samba_server.port), b"what a disk holds" * 100
    given = access(samba_server, port=wire.port) if encrypted else access(samba_server, port=wire.port, encrypted=False)
    files = SmbFiles(given)
    files.write(f"D:\\{folder.name}\\secret", secret)
    assert files.read(f"D:\\{folder.name}\\secret") == secret
    files.close()
    wire.close()
    assert (secret in wire.heard) is not encrypted


@pytest.mark.parametrize(("encrypted", "signed"), [(True, True), (False, True), (False, False)])
def test_a_forged_answer_is_no_answer(
    samba_server: SambaServer, folder: Path, *, encrypted: bool, signed: bool
) -> None:
    """No write is taken for done, and nothing for what was read, whether the forger calls it signed or not."""
    path = f"D:\\{folder.name}\\leaf.avhdx"
    (folder / "leaf.avhdx").write_bytes(b"what is there" * 100)
    for command, use in ((0x0008, lambda file: file.read_at(0, 1000)), (0x0009, _write)):
        wire = Forger(samba_server, command, signed=signed)
        forged = SmbFiles(access(samba_server, port=wire.port, encrypted=encrypted))
        with contextlib.closing(forged.open(path, writable=True)) as file, refused(Code.HOST_UNREACHABLE, path):
            wire.armed = True
            use(file)
        forged.close()
        wire.close()


def _write(file: SmbFile) -> None:
    file.write_at(0, b"new")
    file.flush()


def test_a_full_volume(samba_server: SambaServer, files: SmbFiles, folder: Path) -> None:
    """A file system of 1 MiB is mounted below the share."""
    place = folder / "small"
    place.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)])
    file = files.create(f"D:\\{folder.name}\\small\\leaf.avhdx")
    try:
        with refused(Code.HOST_FULL, "leaf.avhdx"):
            file.write_at(0, bytes(3 * MiB))
            file.flush()
        with refused(Code.TARGET_WRITE_ERROR, "isn't durable"):
            file.flush()
    finally:
        file.close()
        run(["umount", str(place)])


def test_a_host_that_hangs_is_given_up(
    samba_server: SambaServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processes are stopped: TCP takes what is sent, and nobody answers. Two times the silence is enough."""
    monkeypatch.setattr(session, "SILENCE", 1)
    files = SmbFiles(access(samba_server))
    file = files.create(f"D:\\{folder.name}\\leaf.avhdx")
    os.killpg(samba_server.server.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with refused(Code.HOST_UNREACHABLE, "leaf.avhdx"):
            file.write_at(0, b"x")
            file.flush()
        assert time.monotonic() - began < 20
        file.close()
        files.close()
    finally:
        os.killpg(samba_server.server.pid, signal.SIGCONT)


@pytest.mark.parametrize("encrypted", [True, False])
@pytest.mark.parametrize(
    "said",
    [
        "server max protocol = SMB3_00",
        "server max protocol = SMB3_02",
        "server smb3 signing algorithms = AES-128-CMAC",
        "server smb3 encryption algorithms = AES-256-GCM",
        "server smb3 encryption algorithms = AES-128-CCM",
        "smb2 max credits = 64",
    ],
)
def test_every_dialect_cipher_and_signature(tmp_path: Path, said: str, *, encrypted: bool) -> None:
    """As Windows Server 2012, 2012 R2 and later have them, and one that grants few credits."""
    share = tmp_path / "share"
    share.mkdir()
    server = SambaServer(tmp_path, {"D$": share})
    server.create()
    server.configuration.write_text(server.configuration.read_text().replace("[global]", f"[global]\n{said}"))
    server.start()
    try:
        made = SmbFiles(access(server, encrypted=encrypted))
        wanted = write_in_any_order(made, "D:\\disk")
        made.close()
        assert (share / "disk").read_bytes() == wanted
    finally:
        server.stop()


def test_a_new_name_survives_a_power_cut(files: SmbFiles, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Samba loses a name; so it is looked at what a host is asked for."""
    asked: list[int] = []
    create = Open.create

    def seen(opened: Open, *arguments: Any, **more: Any) -> Any:
        asked.append(arguments[5])
        return create(opened, *arguments, **more)

    top = f"D:\\{folder.name}"
    files.write(f"{top}\\draft", b"journal")
    monkeypatch.setattr(Open, "create", seen)
    files.rename(f"{top}\\draft", f"{top}\\journal")
    assert [option & CreateOptions.FILE_WRITE_THROUGH for option in asked] == [CreateOptions.FILE_WRITE_THROUGH]
    assert files.read(f"{top}\\journal") == b"journal"
