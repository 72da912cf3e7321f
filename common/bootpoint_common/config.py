"""The settings of a process, as one checked value: `Config` from the environment, `AgentConfig` from a file.

Nothing else reads the environment. Both are made where a command starts.
"""

from __future__ import annotations

import difflib
import enum
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from bootpoint_common.job.table import BadValue, Problems, Table
from bootpoint_common.job.value import absolute_path, member, text
from bootpoint_common.keyplace import KeyPlace, read_key_place
from bootpoint_common.notice import NoticeSettings, read_notices

T = TypeVar("T")

#: Where a process keeps what must outlive it, unless told otherwise.
DEFAULT_STATE = Path("/var/lib/bootpoint")

#: Where the agent's configuration lies.
AGENT_FILE = Path("/etc/bootpoint/agent.toml")

#: Where the agent keeps its key, its maps and its runs.
AGENT_STATE = Path("/var/lib/bootpoint-agent")

#: How alike an unknown variable must be to a known one to be taken for a slip of the pen, 0 to 1.
_ALIKE = 0.85


class LogFormat(enum.StrEnum):
    """How log lines look."""

    TEXT = "text"  #: for people
    JSON = "json"  #: one object a line, for collectors


class LogLevel(enum.StrEnum):
    """The least important lines that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class SnapshotChoice(enum.StrEnum):
    """Which snapshot an agent takes; ``auto`` is the best that the disk allows."""

    AUTO = "auto"
    NONE = "none"
    FSFREEZE = "fsfreeze"
    REFLINK = "reflink"
    LVM = "lvm"
    LVM_THIN = "lvm-thin"
    BTRFS = "btrfs"
    ZFS = "zfs"


class TrackerChoice(enum.StrEnum):
    """How an agent finds what changed; ``auto`` is the best that the disk allows."""

    AUTO = "auto"
    EBPF = "ebpf"
    THIN = "thin"
    HASH = "hash"


@dataclass(frozen=True, slots=True)
class Listen:
    """Where a server listens."""

    address: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of workers, scheduler, exporter and command line.

    Attributes:
        state_directory: What must outlive the process (`BOOTPOINT_STATE`).
        database_url: PostgreSQL (`BOOTPOINT_DATABASE_URL`, `BOOTPOINT_DATABASE_URL_FILE`); None for the embedded one.
        broker_url: RabbitMQ (`BOOTPOINT_BROKER_URL`, `BOOTPOINT_BROKER_URL_FILE`); None for streams in memory.
        broker_admin_url: RabbitMQ's management API (`BOOTPOINT_BROKER_ADMIN_URL_FILE`); None: people
            make and remove the users of the broker.
        broker_admin_authorities: Certificates that are trusted beside the system's, for that API
            (`BOOTPOINT_BROKER_ADMIN_CA`).
        installation_key: Where the key is that encrypts saved credentials (`BOOTPOINT_INSTALLATION_KEY` and others).
        broker_tls: Folder with ca.pem, cert.pem, key.pem for the broker (`BOOTPOINT_BROKER_TLS`); None for none.
        database_tls: Likewise for PostgreSQL (`BOOTPOINT_DATABASE_TLS`).
        metrics_tls: Likewise for who serves metrics (`BOOTPOINT_METRICS_TLS`).
        nbd_tls: Likewise for NBD to target hosts (`BOOTPOINT_NBD_TLS`).
        metrics: Where Prometheus reads (`BOOTPOINT_METRICS`); None for nowhere.
        log_format: How log lines look (`BOOTPOINT_LOG_FORMAT`).
        log_level: Which are written (`BOOTPOINT_LOG_LEVEL`).
        notices: How people are told (`BOOTPOINT_MAIL` and others).
        traces: Where traces of runs go (`OTEL_EXPORTER_OTLP_ENDPOINT`, whose like OpenTelemetry reads itself); None for
            nowhere.
    """

    state_directory: Path = DEFAULT_STATE
    database_url: str | None = field(default=None, repr=False)
    broker_url: str | None = field(default=None, repr=False)
    broker_admin_url: str | None = field(default=None, repr=False)
    broker_admin_authorities: Path | None = None
    installation_key: KeyPlace = field(default_factory=lambda: KeyPlace.in_state(DEFAULT_STATE))
    broker_tls: Path | None = None
    database_tls: Path | None = None
    metrics_tls: Path | None = None
    nbd_tls: Path | None = None
    metrics: Listen | None = Listen("127.0.0.1", 9109)
    log_format: LogFormat = LogFormat.TEXT
    log_level: LogLevel = LogLevel.INFO
    notices: NoticeSettings = field(default_factory=NoticeSettings)
    traces: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Config:
        """Read and check the settings.

        Args:
            environment: Variables by name; by default those of the process. Empty ones count as absent.

        Raises:
            SpecError: `spec_invalid`, with every variable that can't be taken.
        """
        variables = _Variables(os.environ if environment is None else environment)
        state = variables.take("BOOTPOINT_STATE", _path, DEFAULT_STATE)
        config = cls(
            state_directory=state,
            database_url=variables.take_secret("BOOTPOINT_DATABASE_URL", _url("postgresql", "postgres"), None),
            broker_url=variables.take_secret("BOOTPOINT_BROKER_URL", _url("amqp", "amqps"), None),
            broker_admin_url=variables.take_secret("BOOTPOINT_BROKER_ADMIN_URL", _admin_url, None),
            broker_admin_authorities=variables.take("BOOTPOINT_BROKER_ADMIN_CA", _path, None),
            installation_key=read_key_place(variables, state),
            broker_tls=variables.take("BOOTPOINT_BROKER_TLS", _path, None),
            database_tls=variables.take("BOOTPOINT_DATABASE_TLS", _path, None),
            metrics_tls=variables.take("BOOTPOINT_METRICS_TLS", _path, None),
            nbd_tls=variables.take("BOOTPOINT_NBD_TLS", _path, None),
            metrics=variables.take("BOOTPOINT_METRICS", _listen, cls().metrics),
            log_format=variables.take("BOOTPOINT_LOG_FORMAT", member(LogFormat), LogFormat.TEXT),
            log_level=variables.take("BOOTPOINT_LOG_LEVEL", member(LogLevel), LogLevel.INFO),
            notices=read_notices(variables),
            traces=variables.take("OTEL_EXPORTER_OTLP_ENDPOINT", _url("http", "https"), None),
        )
        variables.close()
        return config


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Settings of an agent, which belong to the machine's owner and not to who writes jobs.

    Attributes:
        state_directory: The agent's key, maps and runs.
        files: Raw disk files that may be sources, as ``file:/absolute/path``; no other file is ever read.
        snapshot: Which snapshot is taken.
        tracker: How it is found out what changed; a disk for which that isn't possible is scanned by hash.
        sample_percent: Share of what a tracker calls unchanged that each run compares all the same, in percent.
        tls: Folder with ca.pem, cert.pem, key.pem for the broker; None for none.
        log_format: How log lines look.
        log_level: Which are written.
    """

    state_directory: Path = AGENT_STATE
    files: tuple[str, ...] = ()
    snapshot: SnapshotChoice = SnapshotChoice.AUTO
    tracker: TrackerChoice = TrackerChoice.AUTO
    sample_percent: float = 1.0
    tls: Path | None = None
    log_format: LogFormat = LogFormat.TEXT
    log_level: LogLevel = LogLevel.INFO

    def allows_file(self, disk_id: str) -> bool:
        """Say whether a ``file:`` id stands in the list, letter by letter."""
        return disk_id in self.files

    @classmethod
    def read(cls, path: Path = AGENT_FILE) -> AgentConfig:
        """Read the agent's configuration; without the file, the defaults.

        Raises:
            SpecError: `spec_invalid`, with every error of the file.
        """
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return cls()
        except OSError as exc:
            problems = Problems(str(path), hint="let the agent's user read it")
            problems.add("", BadValue(f"can't be read: {exc.strerror}"))
            problems.close()
            raise
        return cls.from_toml(content, str(path))

    @classmethod
    def from_toml(cls, content: bytes, origin: str = "agent.toml") -> AgentConfig:
        """Read the agent's configuration from a file's content; raises as `read` does."""
        problems = Problems(origin, hint="correct the agent's configuration")
        values: dict[str, object] = {}
        try:
            values = tomllib.loads(content.decode())
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
            problems.add("", BadValue(f"is no TOML: {exc}"))
        problems.close()
        table = Table(values, "", problems)
        config = cls(
            state_directory=table.take("state_directory", _path, AGENT_STATE),
            files=table.items("files", _file_id, filled=False),
            snapshot=table.take("snapshot", member(SnapshotChoice), SnapshotChoice.AUTO),
            tracker=table.take("tracker", member(TrackerChoice), TrackerChoice.AUTO),
            sample_percent=table.take("sample_percent", _percent, 1.0),
            tls=table.take("tls", _path, None),
            log_format=table.take("log_format", member(LogFormat), LogFormat.TEXT),
            log_level=table.take("log_level", member(LogLevel), LogLevel.INFO),
        )
        table.end()
        problems.close()
        return config


class _Variables:
    """Takes variables out of an environment and notes what is wrong with them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._problems = Problems("environment", hint="correct or unset the variable that the message names")
        self._known: list[str] = []

    def take(self, name: str, read: Callable[[object], T], default: T) -> T:
        self._known.append(name)
        value = self._environment.get(name, "")
        if not value:
            return default
        try:
            return read(value)
        except ValueError as problem:
            self._problems.add(name, problem, value)
            return default

    def take_secret(self, name: str, read: Callable[[object], T], default: T) -> T:
        """Take a variable that may hold a secret: its value, or NAME_FILE, a file that holds nothing else.

        A container's secrets are files, and what stands in an environment is seen by more than the process.
        """
        from_file = f"{name}_FILE"
        path = self.take(from_file, _path, None)
        if path is None:
            return self.take(name, read, default)
        self._known.append(name)
        try:
            if self._environment.get(name):
                raise BadValue(f"is named, and {name} is set too", hint="set one of the two")
            return read(_secret_in(path))
        except BadValue as problem:
            # The value is the file's name, which may be shown; what the file holds may not, and stands in no message.
            self._problems.add(from_file, BadValue(f"{path} {problem}", hint=problem.hint), str(path))
            return default

    def problem(self, name: str, problem: BadValue) -> None:
        self._problems.add(name, problem)

    def close(self) -> None:
        """Raise what was found, slips of the pen included: a misspelt database would be a silent embedded one."""
        for name in self._environment:
            if name.startswith("BOOTPOINT") and name not in self._known:
                for near in difflib.get_close_matches(name, self._known, n=1, cutoff=_ALIKE):
                    self._problems.add(name, BadValue("is no known variable", hint=f"did you mean {near}?"))
        self._problems.close()


def _path(value: object) -> Path:
    return Path(absolute_path(value))


def _secret_in(path: Path) -> str:
    """Return what a file holds, without the newline that editors leave; nothing of it stands in an error."""
    try:
        found = path.read_text().strip()
    except OSError as exc:
        raise BadValue(f"can't be read: {exc.strerror}", hint="mount it, and let this user read it") from exc
    except UnicodeDecodeError:
        raise BadValue("is no text") from None
    if not found:
        raise BadValue("is empty", hint="write the secret into it")
    return found


def _file_id(value: object) -> str:
    found = text(value)
    if not found.startswith("file:/"):
        raise BadValue(f"{found!r} must be written as file:/absolute/path")
    return "file:" + absolute_path(found.removeprefix("file:"))


def _percent(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise BadValue(f"{value!r} must be a number from 0 to 100")
    return float(value)


def _url(*schemes: str) -> Callable[[object], str | None]:
    def read(value: object) -> str:
        found = text(value)
        scheme, separator, _ = found.partition("://")
        if not separator or scheme not in schemes:
            raise BadValue(f"must be a URL that starts with {' or '.join(f'{name}://' for name in schemes)}", hide=True)
        try:
            _ = urlsplit(found).port
        except ValueError:  # its text repeats what could be the end of a password with a slash in it
            hint = "within a password write %2F for / and %40 for @"
            raise BadValue("has a port that is no number from 0 to 65535", hint=hint, hide=True) from None
        return found

    return read


def _admin_url(value: object) -> str | None:
    found = _url("https", "http")(value)
    parts = urlsplit(found or "")
    if not parts.hostname or not parts.username or not parts.password or parts.query or parts.fragment:
        raise BadValue("must be https://USER:PASSWORD@HOST:PORT, with an administrator of the broker", hide=True)
    return found


def _listen(value: object) -> Listen | None:
    found = text(value)
    if found == "off":
        return None
    address, _, port = found.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise BadValue(f'{found!r} must be ADDRESS:PORT, such as "127.0.0.1:9109", or "off"')
    return Listen(address.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port))  # noqa: S104 - ":9109" asks for it
