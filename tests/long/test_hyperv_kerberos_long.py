"""Logins by Kerberos at a host of a domain: Samba's service for tickets, a real smbd, and WinRM by MIT's library.

What logs in runs in processes of its own, which have the extra's libraries and a cache of tickets: .venv has neither.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.crypto import load_or_create_installation_key
from bootpoint_common.errors import Code
from bootpoint_common.store.role import Role
from bootpoint_common.units import MiB
from tests.hyperv.apart import Apart, serving
from tests.hyperv.asking import ask
from tests.service import realm as realms
from tests.service.extra import CHECKOUT, kerberos_libraries
from tests.service.listener import Listener
from tests.service.postgres import url_as
from tests.service.process import Server, run, wait_for
from tests.service.rabbitmq import VirtualHost
from tests.service.realm import REALM, Realm
from tests.service.wire import Wire
from tests.service.wrong_clock import wrong_clock

# The libraries are compiled at first, on a machine that has other work.
pytestmark = pytest.mark.timeout(1800)

#: The account, an administrator of the hosts. Of `localhost` every machine knows the address.
USER, NAME = "bootpoint", "localhost"

#: Its name in the domain.
PRINCIPAL = f"{USER}@{REALM}"

#: Seconds that a host's clock is ahead, within what Kerberos bears. To that host a ticket ends that much earlier. So it
#: can see the end of one that Samba's service for tickets gives: it gives none for less than two minutes.
AHEAD = 240

#: Seconds that such a ticket is good there.
LIFE = 20

#: Where the checkout's own code is, beside those libraries.
PARTS = ("common", "producer", "worker", "ops", ".")

#: Programs of the installation under test.
PROGRAMS = Path(sys.executable).parent


@dataclass
class Site:
    """A domain with hosts.

    Attributes:
        realm: The domain.
        http: A host whose WinRM is by HTTP.
        tls: One whose WinRM is by TLS, and wants logins to be bound to it.
        other: One that has another computer's keys.
        ahead: One whose clock is ahead of all others by `AHEAD`.
        environment: Of processes, but for their tickets.
        directory: Where caches of tickets go.
    """

    realm: Realm
    http: Apart
    tls: Apart
    other: Apart
    ahead: Apart
    environment: Mapping[str, str]
    directory: Path

    def tickets(self, name: str, *options: str) -> dict[str, str]:
        """Return the environment of a process that finds a ticket, got with some options of kinit(1)."""
        self.renew(name, *options)
        return self.without_tickets(name)

    def renew(self, name: str, *options: str) -> None:
        """Get a ticket."""
        self.realm.log_in(USER, self.directory / name, *options)

    def without_tickets(self, name: str = "none") -> dict[str, str]:
        """Return the environment of a process that looks for tickets where there may be some one day."""
        return {**self.environment, "KRB5CCNAME": f"FILE:{self.directory / name}"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with realms.serving() as realm, ExitStack() as hosts:
        directory = tmp_path_factory.mktemp("kerberos")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "TMPDIR": str(directory),
            "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": ":".join(map(str, [kerberos_libraries(), *(CHECKOUT / each for each in PARTS)])),
            "KRB5_CONFIG": str(realm.client),
        }
        realm.add_user(USER)
        member, another = realm.add_member(NAME, USER), realm.add_member("hv2.example.test", USER)
        http = hosts.enter_context(serving(directory / "http", member, environment))
        tls = hosts.enter_context(serving(directory / "tls", member, environment, tls=True))
        other = hosts.enter_context(serving(directory / "other", replace(another, name=NAME), environment))
        wrong = environment | wrong_clock(directory, AHEAD)
        ahead = hosts.enter_context(serving(directory / "ahead", member, wrong))
        yield Site(realm, http, tls, other, ahead, environment, directory)


def refused(found: Mapping[str, Any], code: Code, *words: str) -> bool:
    """Tell whether a host was refused with a code, and a text that holds some words."""
    problem = found.get("error", {"code": None, "text": ""})
    return problem["code"] == code and all(word in problem["text"] for word in words)


@pytest.mark.parametrize("smb", ["encrypted", "signed"])
@pytest.mark.parametrize("way", ["http", "tls"])
def test_orders_and_bytes_go_by_a_ticket_alone(
    site: Site, tmp_path: Path, rng: random.Random, way: str, smb: str
) -> None:
    host: Apart = getattr(site, way)
    source = tmp_path / "disk"
    source.write_bytes(b"what a disk holds" + rng.randbytes(3 * MiB))
    wire = Wire("127.0.0.1", host.smb_port)
    access = host.access(PRINCIPAL, smb=smb, smb_port=wire.port)
    found = ask(access, site.tickets("plain"), write={f"C:\\{smb}": source})
    wire.close()
    assert found["read"]
    assert found["version"].startswith("Microsoft Windows Server 2022")
    assert Path(host.root, smb).read_bytes() == source.read_bytes()
    assert (b"what a disk holds" in wire.heard) is (smb == "signed")


def test_a_host_is_added_and_shown_by_the_worker_s_ticket(
    site: Site, database: str, vhost: VirtualHost, tmp_path: Path
) -> None:
    """Who types has no ticket; the worker has one from some moment on."""
    load_or_create_installation_key(tmp_path / "key")
    common = {
        "BOOTPOINT_BROKER_URL": vhost.url,
        "BOOTPOINT_STATE": str(tmp_path / "state"),
        "BOOTPOINT_INSTALLATION_KEY": str(tmp_path / "key"),
        "BOOTPOINT_METRICS": "127.0.0.1:0",
    }
    log = tmp_path / "worker.log"
    environment = {**site.without_tickets("late"), **common, "BOOTPOINT_DATABASE_URL": url_as(database, Role.WORKER)}
    worker = Server([str(PROGRAMS / "bootpoint"), "worker", "--pool", "hyperv"], log=log, environment=environment)

    def bootpoint(*words: str) -> dict[str, Any]:
        typed = {"PATH": os.environ["PATH"], "BOOTPOINT_DATABASE_URL": url_as(database, Role.CONSOLE), **common}
        found: dict[str, Any] = json.loads(run([str(PROGRAMS / "bootpoint"), *words, "-o", "json"], environment=typed))
        return found

    worker.start(lambda: b"worker serves" in log.read_bytes(), "a worker")
    try:
        where = ("--address", NAME, "--port", str(site.tls.port), "--smb-port", str(site.tls.smb_port))
        words = ("--auth", "kerberos", "--delegate", "--user", PRINCIPAL, "--fingerprint", str(site.tls.fingerprint))
        added = bootpoint("host", "add", "hv1", "--kind", "hyperv", *where, *words)
        assert (added["state"], added["reason"], added["credentials"]) == ("refused", "host_auth", "not saved")
        site.renew("late", "-f")
        shown = bootpoint("host", "show", "hv1")
        assert (shown["state"], shown["reason"], shown["user"]) == ("reachable", None, PRINCIPAL)
        assert shown["cluster"]["name"] == "CL1"
        bootpoint("host", "set", "hv1", "--no-delegate")
        assert bootpoint("host", "show", "hv1")["cluster"]["name"] is None
    finally:
        worker.stop()


@pytest.mark.parametrize(
    ("option", "delegate", "goes_on"), [("-f", True, True), ("-f", False, False), ("-F", True, False)]
)
def test_a_ticket_goes_on_to_the_cluster_where_both_allow_it(
    site: Site, option: str, *, delegate: bool, goes_on: bool
) -> None:
    """The stand-in's cluster lets in who can log in elsewhere with the ticket that was forwarded, and it tries that."""
    found = ask(site.http.access(PRINCIPAL, delegate=delegate), site.tickets("hop", option))
    assert found["cluster"] == ("CL1" if goes_on else None)
    assert any("--auth kerberos --delegate" in hint for hint in found["hints"]) is not goes_on


@pytest.mark.parametrize("orders", [False, True])
class TestWhatIsRefused:
    """By files, which come first, and by orders alone."""

    def test_no_ticket(self, site: Site, *, orders: bool) -> None:
        access = replace(site.http.access(PRINCIPAL), password="is of no use")
        found = ask(access, site.without_tickets(), orders=orders)
        assert refused(found, Code.HOST_AUTH, "no Kerberos ticket", "kinit USER@REALM", "KRB5CCNAME"), found

    @pytest.mark.parametrize("user", ["Administrator", f"EXAMPLE\\{USER}"])
    def test_a_ticket_of_another_account(self, site: Site, user: str, *, orders: bool) -> None:
        found = ask(site.http.access(user), site.tickets("plain"), orders=orders)
        assert refused(found, Code.HOST_AUTH, "no Kerberos ticket", user, "--user"), found

    def test_a_ticket_that_has_expired(self, site: Site, *, orders: bool) -> None:
        environment = site.tickets("old") | wrong_clock(site.directory, 11 * 3600)
        found = ask(site.http.access(PRINCIPAL), environment, orders=orders)
        assert refused(found, Code.HOST_AUTH, "has expired", "k5start"), found

    def test_a_clock_that_is_wrong(self, site: Site, *, orders: bool) -> None:
        environment = site.tickets("wrong") | wrong_clock(site.directory, 1200)
        found = ask(site.http.access(PRINCIPAL), environment, orders=orders)
        assert refused(found, Code.HOST_AUTH, "clocks", "Clock skew too great", "5 minutes"), found

    def test_an_address_in_place_of_a_name(self, site: Site, *, orders: bool) -> None:
        found = ask(site.http.access(PRINCIPAL, address="127.0.0.1"), site.tickets("plain"), orders=orders)
        assert refused(found, Code.HOST_AUTH, "knows no service", "--address", "setspn -L"), found

    def test_a_host_with_other_keys(self, site: Site, *, orders: bool) -> None:
        """As after it has joined its domain anew, while a ticket for the old keys is still good."""
        found = ask(site.other.access(PRINCIPAL), site.tickets("plain"), orders=orders)
        assert refused(found, Code.HOST_AUTH, "kinit"), found

    def test_no_controller(self, site: Site, *, orders: bool) -> None:
        environment = site.tickets("away")
        site.realm.stop()
        try:
            found = ask(site.http.access(PRINCIPAL), environment, orders=orders)
        finally:
            site.realm.start()
        assert refused(found, Code.HOST_UNREACHABLE, "no controller", REALM, "/etc/krb5.conf"), found


class Impostor(BaseHTTPRequestHandler):
    """Takes whatever comes, and has none of the host's keys."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_host_that_does_not_prove_its_name(site: Site) -> None:
    listener = Listener(("127.0.0.1", 0), Impostor, None)
    thread = threading.Thread(target=listener.serve_forever, args=(0.05,))
    thread.start()
    try:
        access = replace(site.http.access(PRINCIPAL), port=listener.server_address[1])
        found = ask(access, site.tickets("plain"), orders=True)
        assert refused(found, Code.HOST_AUTH, "doesn't prove"), found
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


def test_a_session_outlives_the_ticket_that_it_began_with(site: Site, tmp_path: Path) -> None:
    """Samba ends it then, as Windows does; the next use logs in by the ticket that was renewed meanwhile."""
    source, leave = tmp_path / "source", tmp_path / "leave"
    source.write_bytes(b"first")
    environment = site.tickets("short", "-l", f"{AHEAD + LIFE}s")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(
            ask, site.ahead.access(PRINCIPAL), environment, write={"C:\\outlives": source}, after=leave
        )
        wait_for(Path(site.ahead.root, "outlives").exists, "the first file")
        wait_for(lambda: _expired(environment | wrong_clock(site.directory, AHEAD)), "the end of the ticket there")
        site.renew("short")
        leave.touch()
        assert asked.result()["read"]


def _expired(environment: Mapping[str, str]) -> bool:
    """Tell whether there is no ticket that is good (klist(1), -s)."""
    try:
        run(["klist", "-s"], environment=environment)
    except RuntimeError:
        return True
    return False
