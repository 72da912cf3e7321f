"""A WinRM service apart from a host, and a client of it, for tests of the service itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from winrm.protocol import Protocol

from tests.hyperv.server import WinRm
from tests.hyperv.shell import Process
from tests.hyperv.trouble import Trouble

USER, PASSWORD = "Administrator", "S3cret!"


def execute(process: Process) -> int:
    """Do what the tests' commands want."""
    words = process.words
    if words[0] == "echo":
        process.write("stdout", " ".join(words[1:]))
    elif words[0] == "flood":
        process.write("stdout", "x" * int(words[1]))
    elif words[0] == "wait":
        while True:
            process.check()
            time.sleep(0.01)
    else:
        process.write("stderr", "no such command")
        return 9009
    return 0


@contextmanager
def serving(directory: Path, *, tls: bool = False) -> Iterator[WinRm]:
    """Have a service."""
    made = WinRm(directory, execute, Trouble(), address="127.0.0.1", name="HV1", tls=tls)
    made.set_password(USER, PASSWORD)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def protocol(service: WinRm, user: str = USER, password: str = PASSWORD, *, encrypted: bool = True) -> Protocol:
    """Return a client."""
    return Protocol(
        f"http{'s' if service.tls else ''}://{service.address}:{service.port}/wsman",
        transport="ntlm",
        username=user,
        password=password,
        server_cert_validation="ignore",
        message_encryption="never" if service.tls or not encrypted else "always",
        operation_timeout_sec=1,
        read_timeout_sec=10,
        proxy=None,
    )


def run(client: Protocol, *words: str) -> tuple[bytes, bytes, int]:
    """Run a command; return its output and its exit code."""
    shell = client.open_shell(codepage=65001)
    command = client.run_command(shell, words[0], words[1:])
    said: tuple[bytes, bytes, int] = client.get_command_output(shell, command)
    client.cleanup_command(shell, command)
    client.close_shell(shell)
    return said
