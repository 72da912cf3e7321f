"""Debian's sshd for the tests: on a free loopback port, with keys and a password that the tests make."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.component import need
from tests.service.process import Server, free_port, listens, run

CONFIGURATION = """
Port {port}
ListenAddress {address}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
PidFile none
PermitRootLogin yes
PasswordAuthentication yes
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
MaxStartups 100
AllowStreamLocalForwarding yes
Subsystem sftp internal-sftp
"""


class SshServer:
    """An sshd that lets root in by `key_file`, by `user_key` or by `password`.

    The password is true only within: sshd runs in a mount namespace of its own in which ``/etc/shadow`` is a
    copy that holds it.

    Args:
        directory: Where keys and configuration go.
        address: Of this machine, where it listens.
    """

    user = "root"

    def __init__(self, directory: Path, address: str = "127.0.0.1") -> None:
        self._directory = directory
        self.address = address
        self.port = free_port()
        self.password = secrets.token_hex(12)
        self.key_file = directory / "user_key"
        self.server = Server(
            ["unshare", "--mount", "sh", "-ec", f"mount --bind {directory}/shadow /etc/shadow && exec /usr/sbin/sshd -D -e -f {directory}/sshd_config"],  # noqa: E501 - a command
            log=directory / "log",
        )

    @property
    def user_key(self) -> str:
        """The private key that root may come with, as text."""
        return self.key_file.read_text()

    @property
    def fingerprint(self) -> str:
        """The host key's fingerprint, ``SHA256:…``."""
        return run(["ssh-keygen", "-l", "-E", "sha256", "-f", str(self._directory / "host_key.pub")]).split()[1]

    def create(self) -> None:
        """Make keys, password and configuration."""
        self._make_key("host_key")
        self._make_key("user_key")
        (self._directory / "authorized_keys").write_text((self._directory / "user_key.pub").read_text())
        settings = CONFIGURATION.format(address=self.address, port=self.port, directory=self._directory)
        (self._directory / "sshd_config").write_text(settings)
        hashed = run(["openssl", "passwd", "-6", "-stdin"], text=self.password).strip()
        others = [line for line in Path("/etc/shadow").read_text().splitlines() if not line.startswith("root:")]
        shadow = self._directory / "shadow"
        shadow.touch(0o600)
        shadow.write_text("\n".join([f"root:{hashed}:20000:0:99999:7:::", *others, ""]))
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd's unprivileged part lives

    def _make_key(self, name: str) -> None:
        path = self._directory / name
        path.unlink(missing_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bootpoint test", "-f", str(path)])

    def start(self) -> None:
        """Start it, and return when it accepts connections."""
        self.server.start(lambda: listens(self.port, self.address), "sshd")

    def stop(self) -> None:
        """End it; sessions end with their connections."""
        self.server.stop()

    def authorize(self, public_key: str) -> None:
        """Let root in by one more key."""
        with (self._directory / "authorized_keys").open("a") as keys:
            keys.write(public_key)

    def change_host_key(self) -> None:
        """Start it anew with another host key, as a reinstalled host, or an attacker, would show."""
        self.stop()
        self._make_key("host_key")
        self.start()


@pytest.fixture(scope="session")
def sshd_server() -> Iterator[SshServer]:
    """The sshd. A test that stops it or changes its host key must leave it running."""
    need("root", "sshd")
    with tempfile.TemporaryDirectory(prefix="bootpoint-sshd-") as directory:
        server = SshServer(Path(directory))
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop()
