"""NBD straight to a host over TLS, in place of a tunnel through SSH.

SSH still carries all commands, and starts each server: it is told whose certificate it may serve, the worker's own and
nobody else's. The host shows the certificate in its folder `HOST_FOLDER`, made by ``bootpoint tls init --host``.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.tls import (
    CA_FILE,
    CERTIFICATE_FILE,
    KEY_FILE,
    begins,
    check_folder,
    ends,
    names_of,
    read_certificates,
)
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.kvm.session import Session
from bootpoint_worker.targets.nbdclient import TICK_MS

if TYPE_CHECKING:
    import nbd

#: Where a host keeps its certificate.
HOST_FOLDER = "/etc/bootpoint/tls"

#: What a script prints before the port of a server that listens on TCP.
TCP = "tcp:"

#: What libnbd calls the files of a folder (nbd_set_tls_certificates).
_NAMES = {"ca-cert.pem": CA_FILE, "client-cert.pem": CERTIFICATE_FILE, "client-key.pem": KEY_FILE}


@dataclass(frozen=True, slots=True)
class NbdTls:
    """How NBD servers of a host are reached over TLS.

    Attributes:
        host: The host's name in bootpoint.
        address: Its name or address, as its certificate has it.
        folder: What the worker shows, and believes.
        host_folder: What the host shows, and believes: a directory there.
    """

    host: str
    address: str
    folder: Path
    host_folder: str = HOST_FOLDER

    def words(self) -> list[str]:
        """Return what the scripts that start servers want to know: the host's folder, and who may come.

        Raises:
            FatalError: ``tls_refused``: the worker's folder can't be used.
        """
        check_folder(self.folder)
        subject = read_certificates(self.folder / CERTIFICATE_FILE)[0].subject.rfc4514_string()
        # A comma ends a value in QEMU's options, and two are one.
        return [self.host_folder, subject.replace(",", ",,")]

    def connect(self, handle: nbd.NBD, port: int, timeout: float) -> None:
        """Connect: encrypted, with both sides' certificates checked, or not at all.

        Args:
            handle: A handle that wasn't used yet.
            port: The server's.
            timeout: Seconds.

        Raises:
            nbd.Error: It can't be.
            TimeoutError: Nobody answers.
        """
        import nbd

        deadline = time.monotonic() + timeout

        with tempfile.TemporaryDirectory(prefix="bp-") as names:
            for name, file in _NAMES.items():
                (Path(names) / name).symlink_to((self.folder / file).absolute())
            handle.set_tls(nbd.TLS_REQUIRE)
            handle.set_tls_verify_peer(True)
            handle.set_tls_certificates(names)
            handle.aio_connect_tcp(self.address, str(port))
            # The files are read when TLS begins, so their names must last until then.
            while handle.aio_is_connecting():
                handle.poll(TICK_MS)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"port {port} says nothing; a firewall may be in between")

    def refusal(self, exc: nbd.Error, session: Session) -> BootpointError | None:
        """Return the error of a TLS connection that one side refused; None if it is something else."""
        text = str(exc.string)
        if not any(word in text for word in ("gnutls", "TLS", "certificate")):
            return None
        text = f"NBD over TLS to host {self.host} at {self.address}: {self._reason(session)} ({text})"
        return error(
            Code.TLS_REFUSED, text, host=self.host, key="nbd", value=str(self.folder),
            hint=f"compare {self.folder} here with {self.host_folder} on the host: authority, name, dates; docs/tls.md",
        )  # fmt: skip


    def _reason(self, session: Session) -> str:
        """Say what is wrong with the host's certificate, which GnuTLS keeps to itself; SSH brings it, for a look."""
        found = session.run('cat "$1"', f"{self.host_folder}/{CERTIFICATE_FILE}").stdout
        try:
            shown = x509.load_pem_x509_certificates(found)[0]
        except ValueError:
            return f"there is no certificate in {self.host_folder} on the host"
        now, authorities = datetime.now(UTC), [ca.subject for ca in read_certificates(self.folder / CA_FILE)]
        if not begins(shown) <= now < ends(shown):
            return f"the host's certificate is valid from {begins(shown)} to {ends(shown)}, and now is {now}"
        if shown.issuer not in authorities:
            return f"the host's certificate is of another authority than those in {self.folder / CA_FILE}"
        if self.address not in names_of(shown):
            return f"the host's certificate has the names {', '.join(names_of(shown)) or '(none)'}"
        return f"the host refuses {self.folder / CERTIFICATE_FILE}, or shows a certificate that isn't in its folder"


def nbd_tls(access: HostAccess) -> NbdTls | None:
    """Return how NBD goes to a host over TLS; None where it goes through SSH.

    Raises:
        FatalError: ``tls_refused``: the host's settings say TLS, and this process has no certificate.
    """
    if access.settings.get("nbd", "ssh") != "tls" or access.address == "local":
        return None
    if access.nbd_tls is None:
        text = f"host {access.name} is to be reached by NBD over TLS, and this process has no certificate for it"
        raise error(
            Code.TLS_REFUSED, text, key="BOOTPOINT_NBD_TLS", host=access.name,
            hint="set it to a folder of `bootpoint tls init`, or go through SSH: `bootpoint host set NAME --nbd ssh`",
        )  # fmt: skip
    folder = str(access.settings.get("nbd_tls_folder", HOST_FOLDER))
    return NbdTls(host=access.name, address=access.address, folder=access.nbd_tls, host_folder=folder)
