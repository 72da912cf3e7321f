"""The values of a job file, with every default filled in.

Sizes are bytes and durations seconds here; the text forms ("16GiB", "30m") exist in files and JSON only.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, tzinfo

from bootpoint_common.job.schedule import Schedule, Window
from bootpoint_common.job.target import Target


class Consistency(enum.StrEnum):
    """What a snapshot can promise about the data in it, best first."""

    APP = "app"  #: applications wrote everything out
    FS = "fs"  #: file systems are clean
    CRASH = "crash"  #: as after a power cut

    def accepts(self, reached: Consistency) -> bool:
        """Say whether a snapshot that reached ``reached`` is good enough where this is the lowest accepted."""
        order = list(Consistency)
        return order.index(reached) <= order.index(self)


class Skip(enum.StrEnum):
    """Content that may be left out of a copy."""

    SWAP = "swap"  #: swap areas and swap files
    HIBERNATION = "hibernation"  #: memory images


class NotifyOn(enum.StrEnum):
    """Which ends of a run are told."""

    SUCCESS = "success"
    FAILURE = "failure"
    BOTH = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """How old the newest point may be.

    Attributes:
        point_seconds: Allowed age of the newest committed point; None where no schedule repeats.
        bootable_seconds: Allowed age of the newest point that was proven bootable; None without boot checks.
    """

    point_seconds: float | None = None
    bootable_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The machines that a switch-over starts together.

    Attributes:
        name: Jobs of the same name belong together.
        order: Lower ones start first.
        wait: What must answer before the next one starts: ``tcp:PORT``; None: nothing.
        timeout_seconds: How long that may take.
    """

    name: str
    order: int = 0
    wait: str | None = None
    timeout_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Disk:
    """A selected disk.

    Attributes:
        slot: Its place in the job; outlives the disk in it.
        id: ``serial:…``, ``wwn:…``, ``path:…`` or ``file:/absolute/path``.
    """

    slot: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceVm:
    """A VM that is read through its host, without an agent in it."""

    host: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is protected; exactly one of agent, vm and image is set.

    Attributes:
        agent: Name of the machine's agent.
        vm: A VM read through its host.
        image: Absolute path of a backup image.
        consistency: The lowest level that a run accepts.
        disks: The selected disks, the first is the boot disk; None for every eligible disk.
        skip: Content left out.
    """

    agent: str | None = None
    vm: SourceVm | None = None
    image: str | None = None
    consistency: Consistency = Consistency.FS
    disks: tuple[Disk, ...] | None = None
    skip: tuple[Skip, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OnShutdown:
    """The last run before the source goes down."""

    enabled: bool = False
    deadline_seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """What follows a failure that may pass by itself."""

    times: int = 3
    wait_seconds: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRules:
    """What starts a run besides the schedule, and what follows one that failed or was missed."""

    on_shutdown: OnShutdown = OnShutdown()
    on_restart: bool = False
    retry: Retry = Retry()
    catch_up_seconds: float = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A program of the user on the source machine.

    Attributes:
        run: Absolute path and arguments.
        user: Who runs it.
        timeout_seconds: After that it is ended, with what it started.
        abort: Whether its failure stops the run; after the point is made: whether the run counts as failed.
    """

    run: tuple[str, ...]
    user: str = "root"
    timeout_seconds: float = 60.0
    abort: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripts:
    """The scripts of the three stages."""

    before_snapshot: Script | None = None
    after_snapshot: Script | None = None
    after_point: Script | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A network limit for a part of the day, or for the rest of it (no window); 0 is no limit."""

    kb_per_second: int
    window: Window | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of the source a run may take.

    Attributes:
        nice: Process priority, 0 to 19.
        read_bytes_per_second: From the source's disks; 0 for no limit.
        network: Limits by time of day, in the job's time zone.
    """

    nice: int = 10
    read_bytes_per_second: int = 0
    network: tuple[Rate, ...] = ()

    def network_bytes_per_second(self, minute: int) -> int:
        """Return the network limit at a minute of the local day (0 to 1439), in bytes; 0 for none."""
        timed = (rate for rate in self.network if rate.window is not None and rate.window.contains(minute))
        rest = (rate for rate in self.network if rate.window is None)
        rate = next(timed, None) or next(rest, None)
        return 0 if rate is None else rate.kb_per_second * 1024

    def network_at(self, instant: datetime, zone: tzinfo) -> int:
        """Return the network limit at an instant, in bytes; 0 for none.

        Parts of the day go by the clock on the wall: on the days when it is set, an hour that comes twice has its limit
        twice, and one that is left out has none.
        """
        local = instant.astimezone(zone)
        return self.network_bytes_per_second(local.hour * 60 + local.minute)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """How often the newest point is proved; None: never."""

    verify_seconds: float | None = 604800.0
    boot_seconds: float | None = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """A mail at the end of a run."""

    to: tuple[str, ...]
    on: NotifyOn = NotifyOn.FAILURE


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A request at the end of a run, signed with the secret in a file on the worker."""

    url: str
    secret_file: str | None = None
    on: NotifyOn = NotifyOn.FAILURE


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """Who is told when a run ends."""

    mail: Mail | None = None
    webhook: Webhook | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A job file."""

    name: str
    source: Source
    targets: tuple[Target, ...]
    enabled: bool = True
    time_zone: str | None = None
    objective: Objective = Objective()
    group: Group | None = None
    schedules: tuple[Schedule, ...] = ()
    run: RunRules = RunRules()
    scripts: Scripts = Scripts()
    limits: Limits = Limits()
    check: Check = Check()
    notify: Notify = Notify()
