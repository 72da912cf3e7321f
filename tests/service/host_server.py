"""A KVM host as others see it: an sshd behind which a private libvirt is at the usual place."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from tests.service.libvirt import LibvirtHost
from tests.service.process import Server
from tests.service.sshd import SshServer

#: What sshd logs of a login, one that succeeded or one that didn't.
LOGIN = ("Accepted", "Failed")


class HostServer(SshServer):
    """A host: an sshd from which a private libvirt is seen at the usual place.

    Args:
        directory: Where keys and configuration go.
        libvirt: The host's libvirt.
        address: Of this machine, where it listens.
    """

    def __init__(self, directory: Path, libvirt: LibvirtHost, address: str = "127.0.0.1") -> None:
        super().__init__(directory, address)
        enter = ["nsenter", "--target", str(libvirt.first_pid), "--mount", "--"]
        apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
        self.server = Server([*enter, *apart, *self.server.command], log=self.server.log)

    def stop(self) -> None:
        """End it, and all sessions with it."""
        with contextlib.suppress(RuntimeError, OSError):
            pid = self.server.pid
            # sshd is the first process of a namespace: the kernel ends the others with it.
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
        self.server.stop()

    def logins(self) -> list[str]:
        """Return what sshd logged of logins until now."""
        return [line for line in self.server.log.read_text().splitlines() if line.startswith(LOGIN)]
