"""How a host is reached: keys, passwords and fingerprints, from the command line to a real sshd and to what is kept.

Commands, worker and agent are processes of their own. The host is a real sshd that sees a private libvirt where a host
has its own; when it ends, its sessions end with it, as on a machine that is installed anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import secrets
import select
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest
from psycopg import sql

from bootpoint_common.units import MiB
from tests.service.component import need
from tests.service.host_server import HostServer
from tests.service.libvirt import LibvirtHost
from tests.service.postgres import PostgresServer
from tests.service.process import PATIENCE, wait_for
from tests.service.processes import POOL, Processes, own_fleet
from tests.service.rabbitmq import RabbitServer

BOOTPOINT = str(Path(sys.executable).with_name("bootpoint"))

#: Seconds between two looks at all processes: a command of ours runs for several of them.
LOOK_SECONDS = 0.04

JOB = """
name = "{name}"
[source]
agent = "src"
consistency = "crash"
disks = [{{ slot = "system", id = "file:{disk}" }}]
[check]
boot = "never"
[[target]]
host = "{name}"
storage = {{ name = "{storage}" }}
vm = {{ cpus = 1, memory = "64MiB" }}
"""


class CommandLines:
    """Remembers the command line of every process of the machine, for as long as it looks."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            for process in Path("/proc").iterdir():
                if process.name.isdigit():
                    with contextlib.suppress(OSError):
                        self.seen.add((process / "cmdline").read_bytes())


class Terminal:
    """A command on a terminal of its own, as somebody has it who types.

    Args:
        words: The command's words.
        environment: Its environment.
    """

    def __init__(self, words: tuple[str, ...], environment: dict[str, str]) -> None:
        self._leader, follower = pty.openpty()
        # As the controlling terminal, at which passwords are asked.
        command = ["setsid", "--ctty", BOOTPOINT, *words]
        environment = {**environment, "TERM": "dumb"}
        self._child = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment)
        os.close(follower)
        self.text = ""

    def expect(self, text: str) -> None:
        """Read until it has printed this."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.text:
            assert self._read(deadline - time.monotonic()), f"{text!r} did not come: {self.text}"

    def type(self, text: str, *, hidden: bool = False) -> None:
        """Type a line; a hidden one once the terminal shows nothing of it."""
        if hidden:
            # Whoever turns the echo off throws away what was typed before.
            wait_for(lambda: not termios.tcgetattr(self._leader)[3] & termios.ECHO, "the echo to be off")
        os.write(self._leader, f"{text}\n".encode())

    def end(self) -> int:
        """Read all that is still printed, and return the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline - time.monotonic()):
            pass
        code = self._child.wait(PATIENCE)
        os.close(self._leader)
        return code

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._leader], [], [], max(seconds, 0.0))
        assert ready, f"nothing more came: {self.text}"
        try:
            part = os.read(self._leader, 65536)
        except OSError:  # how Linux says that the other end is closed
            return False
        self.text += part.decode()
        return bool(part)


@dataclass
class Site:
    """An installation with a worker and an agent, and a host that isn't added yet.

    Attributes:
        fleet: The installation.
        host: The host.
        folder: Files with credentials, one for each name.
        disk: The agent's disk.
        database_url: The installation's database.
        logs: What is kept of the output of servers that are not the fleet's own.
        lines: The command lines of all processes until now.
    """

    fleet: Processes
    host: HostServer
    folder: Path
    disk: Path
    database_url: str
    logs: list[Path]
    lines: CommandLines = field(default_factory=CommandLines)

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command without a terminal."""
        return subprocess.run(
            [BOOTPOINT, *words, "-o", "json"], env=self.fleet.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip

    def json(self, *words: str) -> dict[str, Any]:
        """Run a command that succeeds, and return what it says."""
        done = self.call(*words)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def error(self, code: int, *words: str) -> dict[str, Any]:
        """Run a command that ends with this exit code, and return its error."""
        done = self.call(*words)
        assert done.returncode == code, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
        return found

    def terminal(self, *words: str) -> Terminal:
        """Start a command on a terminal."""
        return Terminal(words, self.fleet.environment)

    def add_words(self, name: str, *words: str) -> tuple[str, ...]:
        """Return the call that adds the host under a name."""
        where = ("--address", self.host.address, "--port", str(self.host.port), "--virt-type", "qemu")
        return ("host", "add", name, "--kind", "kvm", *where, *words)

    def password_file(self, name: str = "password", text: str | None = None) -> str:
        """Write a file with a password, the host's own unless another one is said."""
        path = self.folder / name
        path.touch(0o600)
        path.write_text(f"{self.host.password if text is None else text}\n")
        return str(path)

    def names(self) -> list[str]:
        """Return the names of all hosts that are stored."""
        return [row["name"] for row in self.fleet.rows("SELECT name FROM host ORDER BY name")]

    def stored(self) -> bytes:
        """Return every column of every row of the database, as it stands there."""
        with psycopg.connect(self.database_url) as connection:
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            found = b""
            for (name,) in tables:
                copy = sql.SQL("COPY {} TO STDOUT (FORMAT binary)").format(sql.Identifier(name))
                with connection.cursor().copy(copy) as rows:
                    found += b"".join(bytes(part) for part in rows)
        return found

    def written(self) -> dict[Path, bytes]:
        """Return what every log says until now."""
        logs = [*self.fleet.directory.rglob("*.log"), *self.logs]
        return {path: path.read_bytes() for path in logs if path.is_file()}


def add_agent(fleet: Processes, disk: Path) -> None:
    """Start the agent, with the broker's administrator as its login: what it may do there is tested elsewhere."""
    url = fleet.directory / "agent.url"
    url.write_text(fleet.vhost.url)
    words = ("agent", "enroll", "src", "--pool", POOL, "--broker-url-file", str(url))
    fleet.configure_agent("src", [disk])
    fleet.agent_command("src", "join", "-", text=fleet.bootpoint(*words)["items"][0]["token"])
    fleet.start_agent("src")


@pytest.fixture(scope="module")
def site(
    postgres_server: PostgresServer, template_database: str, rabbitmq_server: RabbitServer, libvirt_host: LibvirtHost
) -> Iterator[Site]:
    need("root", "sshd", "libnbd", "qemu-img", "qemu-nbd")
    with (
        tempfile.TemporaryDirectory(prefix="bootpoint-login-") as name,
        own_fleet(postgres_server, template_database, rabbitmq_server, libvirt_host) as fleet,
        CommandLines() as lines,
    ):
        folder = Path(name)
        for below in ("sshd", "files"):
            (folder / below).mkdir()
        disk = folder / "disk.raw"
        disk.write_bytes(os.urandom(MiB))
        host = HostServer(folder / "sshd", libvirt_host)
        host.create()
        host.start()
        try:
            fleet.add_worker("worker")
            add_agent(fleet, disk)
            servers = (host.server, postgres_server.server, rabbitmq_server.server, libvirt_host.server)
            logs = [server.log for server in servers]
            yield Site(fleet, host, folder / "files", disk, fleet.database.url, logs, lines)
        finally:
            host.stop()


@pytest.fixture(autouse=True)
def running(site: Site) -> None:
    """Let the worker run, whatever an earlier test did to it."""
    site.fleet.mend()


def add(site: Site, name: str, *words: str) -> dict[str, Any]:
    """Add the host with its right fingerprint."""
    return site.json(*site.add_words(name, "--fingerprint", site.host.fingerprint, *words))


# --- the first contact


def test_a_key_and_the_right_fingerprint_open_the_host(site: Site) -> None:
    before = len(site.host.logins())
    shown = add(site, "key", "--ssh-key", str(site.host.key_file))
    assert (shown["state"], shown["reason"], shown["credentials"]) == ("reachable", None, "saved")
    assert (shown["fingerprint"], shown["port"], shown["pool"]) == (site.host.fingerprint, site.host.port, POOL)
    assert shown["version"].startswith("libvirt ")
    assert all(line.startswith("Accepted publickey for root") for line in site.host.logins()[before:])
    assert len(site.host.logins()) > before


def test_a_password_from_a_file_opens_the_host_and_a_wrong_one_is_said(site: Site) -> None:
    before = len(site.host.logins())
    shown = add(site, "file", "--password-file", site.password_file())
    assert (shown["state"], shown["reason"]) == ("reachable", None)
    assert site.host.logins()[before].startswith("Accepted password for root")
    changed = site.json("host", "set", "file", "--password-file", site.password_file("wrong", "not-the-password"))
    assert changed["credentials"] == "saved"
    checked = site.call("host", "check", "file")
    item = json.loads(checked.stdout)["items"][0]
    assert (checked.returncode, item["state"], item["reason"]) == (1, "refused", "host_auth")


@pytest.mark.parametrize(("answer", "code", "added"), [("y", 0, True), ("n", 4, False)])
def test_on_a_terminal_the_fingerprint_is_shown_and_confirmed(
    site: Site, *, answer: str, code: int, added: bool
) -> None:
    name = f"confirm-{answer}"
    before, logins = site.names(), len(site.host.logins())
    terminal = site.terminal(*site.add_words(name, "--ssh-key", str(site.host.key_file)))
    terminal.expect("Is that its key? [y/N]")
    assert f"{site.host.address} shows the key {site.host.fingerprint}" in terminal.text
    assert site.names() == before
    assert len(site.host.logins()) == logins, "nobody logs in before the key is confirmed"
    terminal.type(answer)
    assert terminal.end() == code, terminal.text
    assert site.names() == sorted([*before, *([name] if added else [])])
    if added:
        assert site.json("host", "show", name)["fingerprint"] == site.host.fingerprint
    else:
        assert "host_key_changed" in terminal.text
        assert len(site.host.logins()) == logins


def test_without_a_terminal_an_unconfirmed_key_is_refused_with_the_way_out(site: Site) -> None:
    before, logins = site.names(), len(site.host.logins())
    words = site.add_words("nobody", "--ssh-key", str(site.host.key_file))
    found = site.error(4, *words)
    assert (found["code"], found["key"], found["host"]) == ("host_key_changed", "--fingerprint", "nobody")
    assert found["value"] == site.host.fingerprint
    assert "--fingerprint" in found["hint"]
    assert "--yes" in found["hint"]
    assert (site.names(), len(site.host.logins())) == (before, logins)
    assert site.json(*words, "--fingerprint", found["value"])["state"] == "reachable"


# --- another key afterwards


def test_a_host_that_shows_another_key_is_refused_before_anything_is_sent(site: Site) -> None:
    add(site, "changed", "--password-file", site.password_file())
    known, job = site.host.fingerprint, apply(site, "changed")
    site.host.change_host_key()
    logins = site.host.logins()
    checked = site.call("host", "check", "changed")
    item = json.loads(checked.stdout)["items"][0]
    assert (checked.returncode, item["state"], item["reason"]) == (1, "refused", "host_key_changed")
    assert item["fingerprint"] == known
    run = json.loads(site.call("job", "run", job, "--wait").stdout)
    assert (run["state"], run["reason"], run["started_at"]) == ("failed", "host_key_changed", None)
    assert known in run["message"]
    assert site.host.fingerprint in run["message"]
    assert "host set" in run["hint"]
    assert site.host.logins() == logins, "no credential is sent to a host that shows another key"
    site.json("host", "set", "changed", "--fingerprint", site.host.fingerprint)
    assert site.json("host", "show", "changed")["state"] == "reachable"


# --- credentials that are saved, and that are not


def test_a_password_is_asked_for_without_being_shown(site: Site) -> None:
    words = site.add_words("asked", "--fingerprint", site.host.fingerprint, "--ask-password")
    terminal = site.terminal(*words)
    terminal.expect("Password")
    terminal.type(site.host.password, hidden=True)
    assert terminal.end() == 0, terminal.text
    assert "reachable" in terminal.text
    assert site.host.password not in terminal.text
    assert site.json("host", "show", "asked")["credentials"] == "saved"


def test_saved_credentials_stand_nowhere_in_the_database(site: Site) -> None:
    add(site, "saved", "--password-file", site.password_file())
    add(site, "saved-key", "--ssh-key", str(site.host.key_file))
    row = site.fleet.row("SELECT credentials FROM host WHERE name = 'saved'")
    assert row is not None
    assert len(row["credentials"]) > len(site.host.password)
    stored = site.stored()
    assert site.host.address.encode() in stored  # it is all there
    assert site.host.password.encode() not in stored
    for line in site.host.user_key.splitlines()[1:-1]:
        assert line.encode() not in stored
    site.json("host", "set", "saved", "--forget-credentials")
    row = site.fleet.row("SELECT credentials FROM host WHERE name = 'saved'")
    assert row is not None
    assert row["credentials"] is None


def apply(site: Site, name: str) -> str:
    """Apply a job of the agent's disk to a host, and return its name."""
    file = site.folder / f"{name}.toml"
    file.write_text(JOB.format(name=name, disk=site.disk, storage=site.fleet.storage))
    return str(site.json("job", "apply", str(file))["items"][0]["job"])


def test_without_saved_credentials_nothing_runs_unattended(site: Site) -> None:
    shown = add(site, "unsaved")
    assert (shown["credentials"], shown["state"]) == ("not saved", "refused")
    assert shown["reason"] == "credentials_not_saved"
    job, logins = apply(site, "unsaved"), len(site.host.logins())
    kept = sorted(site.fleet.agent_state("src").rglob("*"))
    done = site.call("job", "run", job, "--wait")
    run = json.loads(done.stdout)
    assert (done.returncode, run["state"], run["reason"]) == (1, "failed", "credentials_not_saved")
    assert "host set" in run["hint"]
    # Before the source is touched: the run never began, and its agent was never told of it.
    assert (run["started_at"], run["targets"][0]["point"]) == (None, None)
    assert sorted(site.fleet.agent_state("src").rglob("*")) == kept
    events = site.fleet.rows("SELECT kind FROM event WHERE run = %s", run["id"])
    assert {event["kind"] for event in events} == {"run_requested", "run_failing", "run_failed"}
    found = site.error(4, "job", "apply", str(site.folder / "unsaved.toml"), "--dry-run")
    assert found["code"] == "credentials_not_saved"
    assert len(site.host.logins()) == logins


def test_a_password_that_is_not_saved_serves_one_question(site: Site) -> None:
    add(site, "once")
    terminal = site.terminal("host", "show", "once")
    terminal.expect("Password")
    terminal.type(site.host.password, hidden=True)
    assert terminal.end() == 0, terminal.text
    assert "reachable" in terminal.text
    assert "not saved" in terminal.text
    assert site.host.password not in terminal.text
    # For one question: the next one, without a terminal, has nothing to log in with.
    shown = site.json("host", "show", "once")
    assert (shown["state"], shown["reason"]) == ("refused", "credentials_not_saved")
    assert isinstance(site.json("vm", "list", "once", "--password-file", site.password_file())["items"], list)
    assert isinstance(site.json("vm", "list", "once", "--ssh-key", str(site.host.key_file))["items"], list)


# --- where secrets must not be


def secrets_left(site: Site) -> int:
    """Return how many questions still carry a secret."""
    row = site.fleet.row("SELECT count(*) AS n FROM request WHERE secret IS NOT NULL")
    assert row is not None
    return int(row["n"])


def test_a_password_travels_encrypted_and_goes_with_the_answer(site: Site) -> None:
    add(site, "travels")
    worker = site.fleet.running["worker"]
    worker.freeze()
    before = secrets_left(site)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(site.json, "vm", "list", "travels", "--password-file", site.password_file())
        try:
            wait_for(lambda: secrets_left(site) > before, "the question")
            assert site.host.password.encode() not in site.stored()
        finally:
            worker.thaw()
        assert "items" in asking.result()
    assert secrets_left(site) == before
    assert site.host.password.encode() not in site.stored()


def test_a_password_does_not_outlive_a_question_that_nobody_answers(site: Site) -> None:
    add(site, "unanswered")
    worker = site.fleet.running["worker"]
    worker.freeze()
    words = ("vm", "list", "unanswered", "--password-file", site.password_file())
    assert site.error(1, *words, "--timeout", "0.5")["code"] == "no_worker"
    worker.thaw()
    # The worker is there again, and has had the question in hand once it has answered the next one.
    site.json(*words)
    wait_for(lambda: secrets_left(site) == 0, "the secret of the unanswered question to go", 10.0)


def test_no_command_line_and_no_log_holds_a_secret(site: Site) -> None:
    wrong = f"wrong-{secrets.token_hex(8)}"
    add(site, "quiet", "--password-file", site.password_file())
    found = site.error(1, "vm", "list", "quiet", "--password-file", site.password_file("wrong", wrong))
    assert found["code"] == "host_auth"
    # A password where a key should be: what can't be read is not repeated either.
    site.json("host", "set", "quiet", "--ssh-key", site.password_file("wrong", wrong))
    checked = site.call("host", "check", "quiet")
    assert json.loads(checked.stdout)["items"][0]["reason"] == "host_auth"
    assert wrong not in found["message"] + checked.stdout + checked.stderr
    terminal = site.terminal("host", "set", "quiet", "--ask-password")
    terminal.expect("Password")
    terminal.type(site.host.password, hidden=True)
    assert terminal.end() == 0, terminal.text

    hidden = [text.encode() for text in (site.host.password, wrong, *site.host.user_key.splitlines()[1:-1])]
    lines = b"\n".join(list(site.lines.seen))
    assert b"\0set\0quiet\0--ask-password" in lines, "nobody looked"
    assert b"worker\0--pool" in lines
    assert not [secret for secret in hidden if secret in lines]
    logs = site.written()
    assert any(b"Accepted password" in text for text in logs.values())
    assert any(b"worker serves" in text for text in logs.values())
    assert not [(path, secret) for path, text in logs.items() for secret in hidden if secret in text]
