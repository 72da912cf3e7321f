"""Every key of a job file with a sentence about it, in the order in which a complete file has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a table.

    Attributes:
        name: Its name.
        comment: What stands beside it.
        example: A value to show where a job has none and there is no default.
        other: It can't stand beside the keys before it: it is shown as an alternative, not as a key to switch on.
        live: It is written as a key even where it holds its default: most people want to edit it.
    """

    name: str
    comment: str
    example: object = None
    other: bool = False
    live: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A table of the file.

    Attributes:
        comment: What stands above it.
        keys: Its keys.
        repeated: Whether it is one of a list of tables.
    """

    comment: str
    keys: tuple[Key, ...]
    repeated: bool = False


def _script(stage: str, run: list[str], *, abort: bool) -> Section:
    return Section(
        f"A program that runs on the source machine {stage}.",
        (
            Key("run", "absolute path and arguments; no shell", run),
            Key("user", "who runs it", "root"),
            Key("timeout", "after it the script is ended, with all that it started", "1m"),
            Key("abort", "whether its failure stops the run", abort),
        ),
    )


#: When a notice is sent.
_ON = Key("on", 'which ends of a run: "success", "failure" or "both"', "failure")

#: Every table by its path; "" is the file's head.
SECTIONS: Mapping[str, Section] = {
    "": Section(
        "A job of bootpoint. `bootpoint job apply FILE` puts it into effect; docs/job.md explains every key.\n"
        "A line that begins with # and no space is a key that is not set, with its default or an example: take the #\n"
        'away to set it. Sizes are "16GiB", durations "30m" (s, m, h, d), instants local to time_zone.',
        (
            Key("name", "small letters, digits and -; never changes", live=True),
            Key("enabled", "false: it runs only when somebody says `bootpoint job run`"),
            Key("time_zone", "IANA name; needed with a schedule, or with limits by time of day", "Europe/Rome"),
        ),
    ),
    "objective": Section(
        "How old the newest boot point may be before the job counts as late.",
        (
            Key("point", "the newest committed one; default: 2 x the longest gap", "60h"),
            Key("bootable", "the newest one proven bootable; default: 2 x check.boot", "4d"),
        ),
    ),
    "group": Section(
        "Machines that a switch-over starts together.",
        (
            Key("name", "jobs of the same name belong together", "erp"),
            Key("order", "lower ones start first", 10),
            Key("wait", "what must answer before the next one starts", "tcp:5432"),
            Key("timeout", "how long that may take", "5m"),
        ),
    ),
    "source": Section(
        "What is protected: exactly one of agent, vm and image.",
        (
            Key("agent", "the machine's name in `bootpoint agent list`", "erp-db", other=True),
            Key("vm", "a VM that is read through its host", {"host": "kvm1", "name": "erp-db"}, other=True),
            Key("image", "a backup image", "/srv/images/erp-db.qcow2", other=True),
            Key("consistency", 'the lowest that a run accepts: "app", "fs" or "crash"', live=True),
            Key("disks", '"all", or a list; the first one is the boot disk', live=True),
            Key("skip", 'content left out: "swap", "hibernation"', ["swap"]),
        ),
    ),
    "target": Section(
        "Where the standby VM is kept; one for each host.",
        (
            Key("host", "its name in `bootpoint host list`", live=True),
            Key("pool", "the workers that serve it; default: the host's pool", "kvm"),
            Key("points", "boot points kept, 3 to 30 (KVM: 22)", live=True),
            Key("lag_limit", "a point that falls behind by more is given up on this host alone"),
        ),
        repeated=True,
    ),
    "target.vm": Section(
        "The standby VM; what is left out is as on the source.",
        (
            Key("name", "its name on the host", live=True),
            Key("cpus", "virtual CPUs", 4),
            Key("memory", "memory", "16GiB"),
            Key("firmware", '"bios" or "uefi"', "uefi"),
        ),
    ),
    "target.storage": Section(
        "Where its files lie; not to be changed once there is a boot point.",
        (
            Key("name", "a storage of the host, or an absolute directory", live=True),
            Key("folder", "a folder below it"),
            Key("disk_name", "the files' names: {vm} and {slot} are filled in"),
            Key("provisioning", '"thin" or "thick"'),
            Key("bus", "disk bus; default: what suits the host's kind", "virtio"),
            Key("resource_pool", "ESXi only"),
        ),
    ),
    "target.nic": Section(
        "One for each network card of the source, in its order; without any, all are put on the host's only network.",
        (
            Key("network", "a network of the host", "br-dr", live=True),
            Key("model", "device model; default: what suits the host's kind", "virtio"),
            Key("mac", '"new", "keep", or an address', "new", live=True),
            Key("connect", "connected at power-on; a test is always cut off", True),
        ),
        repeated=True,
    ),
    "target.nic.ip": Section(
        "The card's addresses in the guest.",
        (
            Key("mode", '"source" (as they are), "dhcp" or "static"', "source", live=True),
            Key("address", 'with "static"', "10.9.0.21/24", other=True),
            Key("gateway", 'with "static"', "10.9.0.1", other=True),
            Key("dns", 'with "static"', ["10.9.0.2"], other=True),
        ),
    ),
    "schedule": Section(
        "When a boot point is made: weekly, monthly or once; several schedules add up, and need time_zone.",
        (
            Key("weekly", "days of the week", ["mon", "tue", "wed", "thu", "fri"]),
            Key("monthly", 'days of the month, "last" for its last one', [1, 15, "last"]),
            Key("once", "a single run", "2036-12-01T22:00:00"),
            Key("window", "when runs start; over midnight: of the day it begins on"),
            Key("every", "default: one run, at the window's start", "30m"),
            Key("effective", "from, and up to", ["2026-12-01T00:00:00", "2036-12-01T00:00:00"]),
        ),
        repeated=True,
    ),
    "run": Section(
        "What starts a run besides the schedule, and what follows a failed or missed one.",
        (
            Key("on_restart", "a run when the source has started"),
            Key("catch_up", "a missed run older than this is not made up"),
        ),
    ),
    "run.on_shutdown": Section(
        "A last run before the source goes down.",
        (
            Key("enabled", "whether there is one"),
            Key("deadline", "it is not begun if it would take longer"),
        ),
    ),
    "run.retry": Section(
        "After a failure that may pass by itself.",
        (Key("times", "how often it is tried again"), Key("wait", "how long before each")),
    ),
    "scripts.before_snapshot": _script("before the snapshot", ["/usr/local/bin/db-pause"], abort=True),
    "scripts.after_snapshot": _script("after the snapshot", ["/usr/local/bin/db-resume"], abort=False),
    "scripts.after_point": _script("after the boot point", ["/usr/local/bin/tell", "erp"], abort=False),
    "limits": Section(
        "How much a run may take of the source and of the network.",
        (
            Key("nice", "process priority, 0 to 19"),
            Key("read_bytes_per_second", "from the source's disks; 0 for no limit"),
            Key(
                "network_kb_per_second",
                "1 KB = 1,024 bytes; 0 for no limit; without from and to: the rest of the day",
                [{"from": "08:00", "to": "18:00", "value": 20480}, {"value": 0}],
            ),
        ),
    ),
    "check": Section(
        'How often the newest boot point is proved; "never" is allowed.',
        (
            Key("verify", "it is read back and compared", live=True),
            Key("boot", "it is booted, cut off from every network", live=True),
        ),
    ),
    "notify.mail": Section("Who gets a mail when a run ends.", (Key("to", "addresses", ["ops@example.org"]), _ON)),
    "notify.webhook": Section(
        "What is called when a run ends.",
        (
            Key("url", "without a secret in it", "https://hooks.example.org/bp"),
            Key("secret_file", "the file with the key that signs it", "/etc/bootpoint/hook.key"),
            _ON,
        ),
    ),
}
