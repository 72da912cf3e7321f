"""Every error of bootpoint, and every code that a user, a script or an alert can meet.

The tree::

    BootpointError
    ├── RetryableError      the same call may succeed later (host away, broker away)
    └── FatalError          the same call fails again until somebody changes something
        ├── RefusedError    asked for something that must not be done now   (exit code 4)
        ├── NotFoundError   names something that doesn't exist             (exit code 3)
        └── UsageError      the words of the call are wrong                (exit code 2)
    Fenced                  not a failure: somebody else holds the claim; the work ends without an ack

A code belongs to exactly one class; ``error(code, …)`` makes the right one. ``docs/codes.md`` is generated
from `CODES`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class Code(enum.StrEnum):
    """Names of errors; the meaning and the way out of each stand in `CODES`."""

    HOST_UNREACHABLE = "host_unreachable"
    HOST_AUTH = "host_auth"
    HOST_KEY_CHANGED = "host_key_changed"
    HOST_UNSUPPORTED = "host_unsupported"
    HOST_LICENCE = "host_licence"
    HOST_FULL = "host_full"
    HOST_PERMISSION = "host_permission"
    CREDENTIALS_NOT_SAVED = "credentials_not_saved"
    VM_NAME_TAKEN = "vm_name_taken"
    STORAGE_UNKNOWN = "storage_unknown"
    NETWORK_UNKNOWN = "network_unknown"
    NEEDS_MOVE = "needs_move"
    SOURCE_INELIGIBLE = "source_ineligible"
    DISK_MISSING = "disk_missing"
    DISK_CHANGED = "disk_changed"
    DISK_READ_ERROR = "disk_read_error"
    AGENT_OFFLINE = "agent_offline"
    AGENT_REVOKED = "agent_revoked"
    AGENT_TOO_OLD = "agent_too_old"
    AGENT_IS_A_COPY = "agent_is_a_copy"
    AGENT_RESTARTED = "agent_restarted"
    NO_WORKER = "no_worker"
    NO_SCHEDULER = "no_scheduler"
    BASE_MISMATCH = "base_mismatch"
    EPOCH_STALE = "epoch_stale"
    SUPERSEDED = "superseded"
    POINT_OPEN = "point_open"
    BUNDLE_REJECTED = "bundle_rejected"
    BROKER_UNREACHABLE = "broker_unreachable"
    BROKER_REFUSED = "broker_refused"
    STREAM_GAP = "stream_gap"
    LAYER_LOST = "layer_lost"
    TORN_LEAF = "torn_leaf"
    SCRIPT_FAILED = "script_failed"
    FREEZE_TIMEOUT = "freeze_timeout"
    SNAPSHOT_FAILED = "snapshot_failed"
    SNAPSHOT_LOST = "snapshot_lost"
    CONSISTENCY_TOO_LOW = "consistency_too_low"
    TARGET_WRITE_ERROR = "target_write_error"
    TARGET_CHECK_FAILED = "target_check_failed"
    CONVERSION_FAILED = "conversion_failed"
    TARGET_TOO_SLOW = "target_too_slow"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    TOO_LATE = "too_late"
    MISSED = "missed"
    STALLED = "stalled"
    CLOCK_SKEW = "clock_skew"
    TLS_REFUSED = "tls_refused"
    ALREADY_RUNNING = "already_running"
    DRIFT = "drift"
    STANDBY_RUNNING = "standby_running"
    SOURCE_ALIVE = "source_alive"
    POINT_IN_USE = "point_in_use"
    RETENTION_FULL = "retention_full"
    RETENTION_BLOCKED = "retention_blocked"
    LAST_VERIFIED = "last_verified"
    BUSY = "busy"
    SPEC_INVALID = "spec_invalid"
    SECRET_IN_SPEC = "secret_in_spec"  # noqa: S105 - the name of a code, not a password
    NO_SUCH_JOB = "no_such_job"
    NO_SUCH_HOST = "no_such_host"
    NO_SUCH_RUN = "no_such_run"
    NO_SUCH_AGENT = "no_such_agent"
    NO_SUCH_VM = "no_such_vm"
    NO_SUCH_DISK = "no_such_disk"
    NO_SUCH_POINT = "no_such_point"
    NO_SUCH_EVENT = "no_such_event"


class BootpointError(Exception):
    """Any failure that bootpoint can name.

    Args:
        code: The code, stable across versions.
        message: One sentence for people, with the names and values that matter.
        key: The setting or argument at fault, as a path (``target[0].vm.name``).
        value: The value at fault.
        hint: What to do about it; by default the code's own.
        job: Name of the job concerned.
        host: Name of the host concerned.
    """

    exit_code = 1
    retryable = False

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        key: str | None = None,
        value: object = None,
        hint: str | None = None,
        job: str | None = None,
        host: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.key = key
        self.value = value
        self.hint = hint if hint is not None else CODES[code].hint
        self.job = job
        self.host = host

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def as_json(self) -> dict[str, Any]:
        """Return the object that ``-o json`` prints on stderr."""
        value = self.value
        if value is not None and not isinstance(value, str | int | float | bool):
            value = str(value)
        return {
            "code": str(self.code),
            "message": self.message,
            "key": self.key,
            "value": value,
            "hint": self.hint,
            "job": self.job,
            "host": self.host,
        }


class RetryableError(BootpointError):
    """The same call may succeed later."""

    retryable = True


class FatalError(BootpointError):
    """The same call fails again until somebody changes something."""


class RefusedError(FatalError):
    """Something that must not be done as things stand."""

    exit_code = 4


class NotFoundError(FatalError):
    """A name that stands for nothing."""

    exit_code = 3


class UsageError(FatalError):
    """The words of the call are wrong."""

    exit_code = 2


class Fenced(Exception):  # noqa: N818 - an event, not an error: the claim went to somebody else
    """The claim is held by somebody else; the work ends here, without an ack and without a trace."""


@dataclass(frozen=True, slots=True)
class CodeInfo:
    """What a code means to its reader.

    Attributes:
        kind: The class that carries the code.
        meaning: One sentence.
        hint: The way out.
    """

    kind: type[BootpointError]
    meaning: str
    hint: str


_RETRY, _FATAL, _REFUSED, _MISSING = RetryableError, FatalError, RefusedError, NotFoundError

#: Meaning and way out of every code.
CODES: dict[Code, CodeInfo] = {
    Code.HOST_UNREACHABLE: CodeInfo(
        _RETRY,
        "The target host does not answer.",
        "check its address, port and network; `bootpoint host check NAME` tries again",
    ),
    Code.HOST_AUTH: CodeInfo(
        _FATAL, "The target host refuses the credentials.", "set them again with `bootpoint host set NAME`"
    ),
    Code.HOST_KEY_CHANGED: CodeInfo(
        _REFUSED,
        "The target host shows another key than at the first contact.",
        "if the host was reinstalled, give the new fingerprint with `bootpoint host set NAME --fingerprint FP`; else treat it as an attack",
    ),
    Code.HOST_UNSUPPORTED: CodeInfo(
        _FATAL, "The target host lacks something that bootpoint needs.", "install what the message names"
    ),
    Code.HOST_LICENCE: CodeInfo(
        _FATAL, "The licence of the target host forbids what bootpoint needs.", "use a licensed host"
    ),
    Code.HOST_FULL: CodeInfo(
        _FATAL,
        "The storage on the target host lacks room for this run.",
        "free space, lower points, or name another storage",
    ),
    Code.HOST_PERMISSION: CodeInfo(
        _FATAL, "The account on the target host lacks a right.", "give it the right that the message names"
    ),
    Code.CREDENTIALS_NOT_SAVED: CodeInfo(
        _REFUSED,
        "The host's credentials are not saved, so nothing can run unattended.",
        "save them with `bootpoint host set NAME --ssh-key F` or `--password-file F`",
    ),
    Code.VM_NAME_TAKEN: CodeInfo(
        _REFUSED,
        "The host has a VM of that name that bootpoint did not make.",
        "choose another vm.name, or remove that VM",
    ),
    Code.STORAGE_UNKNOWN: CodeInfo(
        _FATAL, "The host has no such storage.", "`bootpoint host show NAME` lists its storages"
    ),
    Code.NETWORK_UNKNOWN: CodeInfo(
        _FATAL, "The host has no such network.", "`bootpoint host show NAME` lists its networks"
    ),
    Code.NEEDS_MOVE: CodeInfo(
        _REFUSED,
        "The replica's place on the host can't be edited.",
        "make another job with the new place, and delete this one when that has its points",
    ),
    Code.SOURCE_INELIGIBLE: CodeInfo(
        _REFUSED, "A selected disk cannot be a source.", "`bootpoint disk list AGENT` shows why"
    ),
    Code.DISK_MISSING: CodeInfo(
        _FATAL,
        "A selected disk is not on the source machine.",
        "`bootpoint disk list AGENT` lists the disks; correct source.disks and apply the job again",
    ),
    Code.DISK_CHANGED: CodeInfo(
        _FATAL,
        "A selected disk shrank or was exchanged.",
        "if that was meant, remove the slot from the job, apply it, and add the disk under a new slot",
    ),
    Code.DISK_READ_ERROR: CodeInfo(
        _RETRY,
        "A source disk could not be read.",
        "look at the machine's kernel log; replace the disk if the error stays",
    ),
    Code.AGENT_OFFLINE: CodeInfo(
        _RETRY,
        "The agent does not answer.",
        "start bootpoint-agent on the source machine, and check its way to the broker",
    ),
    Code.AGENT_REVOKED: CodeInfo(
        _FATAL, "The agent's key was revoked.", "enroll the machine again with `bootpoint agent enroll NAME`"
    ),
    Code.AGENT_TOO_OLD: CodeInfo(
        _FATAL, "The agent speaks a protocol that is no longer served.", "update bootpoint-agent on the source machine"
    ),
    Code.AGENT_IS_A_COPY: CodeInfo(
        _REFUSED,
        "This agent's state belongs to another machine: this is a copy.",
        "run `bootpoint-agent join -` with a new token on this machine",
    ),
    Code.AGENT_RESTARTED: CodeInfo(
        _RETRY, "The agent started anew and no longer knows the run.", "the next run starts with a new snapshot"
    ),
    Code.NO_WORKER: CodeInfo(_RETRY, "No worker serves the host's pool.", "start one: `bootpoint worker --pool P`"),
    Code.NO_SCHEDULER: CodeInfo(_RETRY, "No scheduler is running.", "start one: `bootpoint scheduler`"),
    Code.BASE_MISMATCH: CodeInfo(
        _RETRY,
        "The increment stands on another point than the replica's head.",
        "the next run compares and sends the difference",
    ),
    Code.EPOCH_STALE: CodeInfo(
        _REFUSED,
        "The run belongs to an earlier epoch of the replica.",
        "`bootpoint job show J` says who is the primary now",
    ),
    Code.SUPERSEDED: CodeInfo(
        _REFUSED,
        "A standby has taken over this machine's role.",
        "the standby is the machine now; protect it by a job of its own",
    ),
    Code.POINT_OPEN: CodeInfo(
        _RETRY, "Another boot point of this replica is not finished.", "wait for it, or cancel its run"
    ),
    Code.BUNDLE_REJECTED: CodeInfo(
        _FATAL,
        "A bundle failed its checks and was refused.",
        "look at the run's log; if it stays, the agent's key or the network path is at fault",
    ),
    Code.BROKER_UNREACHABLE: CodeInfo(
        _RETRY,
        "The broker, or its management API, does not answer.",
        "check that it runs, and the address that the message names; then repeat the command",
    ),
    Code.BROKER_REFUSED: CodeInfo(
        _FATAL,
        "The broker's management API can't be used, or a user of the broker is somebody else's.",
        "correct what the message names, then repeat the command",
    ),
    Code.STREAM_GAP: CodeInfo(
        _RETRY,
        "Bundles were lost on the way and the agent no longer holds them.",
        "the next run starts with a new snapshot",
    ),
    Code.LAYER_LOST: CodeInfo(
        _RETRY,
        "The open layer is no longer what it was.",
        "the next run starts a new layer; find out who touched the replica's files",
    ),
    Code.TORN_LEAF: CodeInfo(
        _RETRY, "The open layer can't be continued after a worker died.", "the next run starts a new layer"
    ),
    Code.SCRIPT_FAILED: CodeInfo(_FATAL, "A script of the job failed.", "the run's log has its output"),
    Code.FREEZE_TIMEOUT: CodeInfo(
        _RETRY,
        "The file systems were frozen for too long and were thawed.",
        "the machine may be too busy; choose another time",
    ),
    Code.SNAPSHOT_FAILED: CodeInfo(_RETRY, "The snapshot could not be made.", "the message names the cause"),
    Code.SNAPSHOT_LOST: CodeInfo(_RETRY, "The snapshot vanished while it was read.", "give the snapshot more room"),
    Code.CONSISTENCY_TOO_LOW: CodeInfo(
        _REFUSED,
        "The snapshot reached a lower consistency than the job accepts.",
        "unmount or close the disk, use a snapshot, or lower source.consistency",
    ),
    Code.TARGET_WRITE_ERROR: CodeInfo(_RETRY, "The target host failed to write.", "look at the host's storage"),
    Code.TARGET_CHECK_FAILED: CodeInfo(
        _RETRY, "What was written did not pass the target's check.", "look at the host's storage; the head is intact"
    ),
    Code.CONVERSION_FAILED: CodeInfo(
        _FATAL,
        "The standby's disks could not be made to boot on the target host.",
        "try another way with `--conversion light|v2v|none`; the boot point is as it was",
    ),
    Code.TARGET_TOO_SLOW: CodeInfo(
        _RETRY, "The target fell behind by more than lag_limit.", "raise lag_limit or make the target faster"
    ),
    Code.DEADLINE: CodeInfo(
        _FATAL, "The run would not end before its deadline.", "raise the deadline, or run more often"
    ),
    Code.CANCELLED: CodeInfo(_FATAL, "Somebody cancelled the run.", "`bootpoint run log R` says who"),
    Code.TOO_LATE: CodeInfo(
        _REFUSED, "The point is being committed; there is no way back.", "wait a moment; the point can be removed later"
    ),
    Code.MISSED: CodeInfo(_FATAL, "The run was due while nobody could start it.", "keep a scheduler running"),
    Code.STALLED: CodeInfo(
        _RETRY, "The run made no progress for too long.", "`bootpoint run log R` shows where it stopped"
    ),
    Code.CLOCK_SKEW: CodeInfo(_FATAL, "The source's clock is wrong: before its newest point, or more than two minutes off.", "set the machine's clock"),
    Code.TLS_REFUSED: CodeInfo(
        _FATAL,
        "An encrypted connection can't be made: a certificate isn't accepted here or by the other side, or one side speaks no TLS.",
        "the message names file or peer and the reason; `docs/tls.md` has them all",
    ),
    Code.ALREADY_RUNNING: CodeInfo(
        _REFUSED, "The job is running already.", "wait for it, or cancel it with `bootpoint run cancel R`"
    ),
    Code.DRIFT: CodeInfo(
        _REFUSED,
        "Somebody started the standby outside bootpoint.",
        "`bootpoint job show J` says what to do with its changes",
    ),
    Code.STANDBY_RUNNING: CodeInfo(_REFUSED, "The standby VM is running.", "stop it first"),
    Code.SOURCE_ALIVE: CodeInfo(_REFUSED, "The source machine answers.", "shut it down, or say --source-is-dead"),
    Code.POINT_IN_USE: CodeInfo(
        _REFUSED, "Something uses the boot point.", "`bootpoint point show J P` says what; end it first"
    ),
    Code.RETENTION_FULL: CodeInfo(
        _REFUSED, "The replica holds as many points as it may, and none may go.", "unpin a point, or raise points"
    ),
    Code.RETENTION_BLOCKED: CodeInfo(_FATAL, "At the next run no point may go.", "unpin a point, or raise points"),
    Code.LAST_VERIFIED: CodeInfo(_REFUSED, "It is the last verified point.", "verify another one first"),
    Code.BUSY: CodeInfo(_RETRY, "Somebody else works on it at this moment.", "try again in a moment"),
    Code.SPEC_INVALID: CodeInfo(UsageError, "The job file has an error.", "correct the key that the message names"),
    Code.SECRET_IN_SPEC: CodeInfo(
        UsageError, "The job file holds a secret.", "put the secret into a file and name the file"
    ),
    Code.NO_SUCH_JOB: CodeInfo(_MISSING, "There is no such job.", "`bootpoint job list` lists them"),
    Code.NO_SUCH_HOST: CodeInfo(_MISSING, "There is no such host.", "`bootpoint host list` lists them"),
    Code.NO_SUCH_RUN: CodeInfo(_MISSING, "There is no such run.", "`bootpoint run list` lists them"),
    Code.NO_SUCH_AGENT: CodeInfo(_MISSING, "There is no such agent.", "`bootpoint agent list` lists them"),
    Code.NO_SUCH_VM: CodeInfo(_MISSING, "There is no such VM.", "`bootpoint vm list HOST` lists them"),
    Code.NO_SUCH_DISK: CodeInfo(_MISSING, "There is no such disk.", "`bootpoint disk list AGENT` lists them"),
    Code.NO_SUCH_POINT: CodeInfo(_MISSING, "There is no such boot point.", "`bootpoint point list J` lists them"),
    Code.NO_SUCH_EVENT: CodeInfo(_MISSING, "There is no such event.", "`bootpoint history` lists them"),
}


def error(
    code: Code,
    message: str,
    *,
    key: str | None = None,
    value: object = None,
    hint: str | None = None,
    job: str | None = None,
    host: str | None = None,
) -> BootpointError:
    """Make the error of the class that the code belongs to; the arguments are those of `BootpointError`."""
    return CODES[code].kind(code, message, key=key, value=value, hint=hint, job=job, host=host)


def together(problems: Sequence[BootpointError]) -> BootpointError:
    """Make one error of several, at least one: class, code, key, value and hint are the first's."""
    first = problems[0]
    if len(problems) == 1:
        return first
    message = first.message + "".join(f"\n  also: {problem.message} ({problem.hint})" for problem in problems[1:])
    return error(
        first.code, message, key=first.key, value=first.value, hint=first.hint, job=first.job, host=first.host
    )
