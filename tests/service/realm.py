"""A domain of Active Directory for the tests: Samba's, of which only the Kerberos service runs, on a free port.

Its directory is made as for a real controller. So names of services are found as Windows finds them: the ``HOST/name``
of a computer stands for its ``HTTP/name`` and ``cifs/name`` ([MS-ADTS], sPNMappings), while ``WSMAN/name`` is a name of
its own. Nobody else on this machine sees it: clients are told by ``KRB5_CONFIG`` and ``KRB5CCNAME``.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.service.component import need
from tests.service.process import Server, free_port, listens, run

#: Name of the domain: of its realm, and the short one. RFC 2606 keeps .test free.
REALM, DOMAIN = "EXAMPLE.TEST", "EXAMPLE"

#: Seconds for making its directory: 8 on a quiet machine, and 42 were seen on one with other work.
PROVISION_TIMEOUT = 300.0

#: What clients have to know. Names are taken as they are written: this machine's resolver has no say in them.
CLIENT = """
[libdefaults]
default_realm = {realm}
dns_lookup_kdc = false
dns_canonicalize_hostname = false
rdns = false
[realms]
{realm} = {{
  kdc = 127.0.0.1:{port}
}}
"""

#: Changes an account where samba-tool can't, by Samba's own library, which belongs to the system's Python.
ALTER = """
import sys
from ldb import FLAG_MOD_REPLACE, Message, MessageElement
from samba.auth import system_session
from samba.param import LoadParm
from samba.samdb import SamDB

configuration, url, account, *values = sys.argv[1:]
domain = SamDB(url, session_info=system_session(), lp=LoadParm(filename_for_non_global_lp=configuration))
message = Message(domain.search(expression=f"(sAMAccountName={account})")[0].dn)
for name, value in (each.split("=") for each in values):
    message[name] = MessageElement(value, FLAG_MOD_REPLACE, name)
domain.modify(message)
"""

#: A computer, whose tickets don't say which groups a user is in ([MS-ADTS] 2.2.16, WT and NA): smbd would want winbind
#: for that, and bootpoint doesn't look into tickets. They are sealed by AES, as Windows has it since 2008.
COMPUTER = {"userAccountControl": 0x1000 | 0x2000000, "msDS-SupportedEncryptionTypes": 0x18}


@dataclass(frozen=True, slots=True)
class Member:
    """A computer of a domain.

    Attributes:
        name: Its DNS name.
        realm: The domain's realm.
        keytab: File with the keys that tickets for its services are sealed with.
        administrators: Users of the domain who are administrators there.
    """

    name: str
    realm: str
    keytab: Path
    administrators: tuple[str, ...]


class Realm:
    """A domain with its Kerberos service.

    Args:
        directory: Where everything of it is.

    Attributes:
        client: What clients have to know, for ``KRB5_CONFIG``.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.client = directory / "krb5.conf"
        self._passwords: dict[str, str] = {}
        self.port, kpasswd = free_port(), free_port()
        self._configuration = directory / "domain/etc/smb.conf"
        self._url = str(directory / "domain/private/sam.ldb")
        options = {
            "server services": "kdc",
            "krb5 port": self.port,
            "kpasswd port": kpasswd,
            "interfaces": "127.0.0.1/8",
            "bind interfaces only": "yes",
            "disable netbios": "yes",
            "pid directory": directory,
            "ncalrpc dir": directory / "ncalrpc",
        }
        words = ["samba", "--foreground", "--no-process-group", "--model=single", "--debug-stdout"]
        words += [f"--configfile={self._configuration}"]
        words += [f"--option={name}={value}" for name, value in options.items()]
        self.server = Server(words, log=directory / "log")

    def create(self) -> None:
        """Make the domain's directory, and what clients are told."""
        empty = self._directory / "empty.conf"
        empty.write_text("[global]\n")
        words = [f"--realm={REALM}", f"--domain={DOMAIN}", "--host-name=dc1", "--host-ip=127.0.0.1"]
        words += [f"--configfile={empty}", f"--targetdir={self._directory / 'domain'}", "--dns-backend=NONE"]
        words += ["--server-role=dc", f"--adminpass={_password()}"]
        run(["samba-tool", "domain", "provision", *words], timeout=PROVISION_TIMEOUT)
        self.client.write_text(CLIENT.format(realm=REALM, port=self.port))

    def start(self) -> None:
        """Start it, and return when it answers."""
        self.server.start(lambda: listens(self.port), "the Kerberos service")

    def stop(self) -> None:
        """End it; may be called twice."""
        self.server.stop()

    def add_user(self, name: str) -> None:
        """Make an account."""
        self._passwords[name] = _password()
        self._tool("user", "create", name, self._passwords[name])

    def add_member(self, name: str, *administrators: str) -> Member:
        """Make a computer, with the names of services that Windows registers when it joins, and when it gets WinRM."""
        account, keytab = f"{name.partition('.')[0]}$", self._directory / f"{name}.keytab"
        self._tool("computer", "create", account, f"--service-principal-name=HOST/{name}")
        self._tool("spn", "add", f"WSMAN/{name}", account)
        self._tool("user", "setpassword", account, f"--newpassword={_password()}")
        self._alter(account, COMPUTER)
        self._tool("domain", "exportkeytab", str(keytab), f"--principal={account}", directory=False)
        return Member(name, REALM, keytab, administrators)

    def log_in(self, user: str, cache: Path, *options: str) -> None:
        """Get a user's ticket, as people do (kinit(1)).

        Args:
            user: The account.
            cache: File that keeps the ticket.
            options: More of kinit's.
        """
        environment = {"KRB5_CONFIG": str(self.client), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
        words = ["kinit", "-c", str(cache), *options, f"{user}@{REALM}"]
        run(words, text=f"{self._passwords[user]}\n", environment=environment)

    def _alter(self, account: str, values: Mapping[str, object]) -> None:
        """Give attributes of an account other values."""
        words = ["/usr/bin/python3", "-c", ALTER, str(self._configuration), self._url, account]
        run([*words, *(f"{name}={value}" for name, value in values.items())])

    def _tool(self, *words: str, directory: bool = True) -> None:
        """Change the domain (samba-tool(8)), in its files."""
        where = [f"--configfile={self._configuration}"]
        where += [f"--URL={self._url}"] if directory else []
        run(["samba-tool", *words, *where])


def _password() -> str:
    """Return a password that the domain's policy takes: with letters of both cases and digits."""
    return f"Aa1-{secrets.token_hex(12)}"


@contextmanager
def serving() -> Iterator[Realm]:
    """Have a domain."""
    need("root", "kerberos")
    with tempfile.TemporaryDirectory(prefix="bootpoint-realm-") as name:
        made = Realm(Path(name))
        made.create()
        made.start()
        try:
            yield made
        finally:
            made.stop()
