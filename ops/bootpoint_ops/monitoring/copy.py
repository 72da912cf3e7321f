"""The rules on sources and replicas: what is copied, and where it lies."""

from __future__ import annotations

from bootpoint_ops.monitoring.rule import DAY, HOUR, MINUTE, Alert, Group, Pace, Severity

#: Free shares of a storage at which somebody should look, and at which the next runs fail.
LOW, EMPTY = 0.10, 0.03


def copy_group(pace: Pace) -> Group:
    """Return the rules, for a pace."""
    return Group("bootpoint-copy", (*_points(pace), *_sources(pace), *_storages(pace)))


def _points(pace: Pace) -> tuple[Alert, ...]:
    hour, six = pace.window(HOUR), pace.window(6 * HOUR)
    return (
        Alert(
            name="BootpointBootCheckFailed",
            severity=Severity.WARNING,
            measured=f'sum(increase(bootpoint_boot_check_total{{verdict="does_not_boot"}}[{six}]))',
            condition="> 0",
            summary="A standby did not boot from its newest boot point",
            description=(
                "{{ $value | humanize }} boot checks of the last 6 hours found that a standby does not boot. "
                "Older boot points are there to start from. `bootpoint history --days 1` names job and point."
            ),
        ),
        Alert(
            name="BootpointVerificationMismatch",
            severity=Severity.CRITICAL,
            measured=f'sum(increase(bootpoint_verify_total{{result="damaged"}}[{six}]))',
            condition="> 0",
            summary="A boot point does not read back as its source was",
            description=(
                "{{ $value | humanize }} verifications of the last 6 hours found damage: a host's storage "
                "changed or lost what was written to it. The next run brings right content; other replicas on "
                "that storage are in doubt. `bootpoint history --days 1` names job, host and point."
            ),
        ),
        Alert(
            name="BootpointRetentionBlocked",
            severity=Severity.WARNING,
            measured="max by (job, host) (bootpoint_retention_blocked)",
            condition="== 1",
            wait=pace.wait(15 * MINUTE),
            summary="Job {{ $labels.job }}: no boot point may go on {{ $labels.host }}",
            description=(
                "The replica of job {{ $labels.job }} on host {{ $labels.host }} has as many boot points "
                "as it may, and each of them is pinned or in use: the next run will be refused. `bootpoint job "
                "plan {{ $labels.job }}` names what keeps them."
            ),
        ),
        Alert(
            name="BootpointCreditWait",
            severity=Severity.WARNING,
            measured=f"sum(rate(bootpoint_credit_wait_seconds_total[{hour}]))",
            condition=f"/ clamp_min(sum(avg_over_time(bootpoint_open_points[{hour}])), 1) > 0.8",
            wait=pace.wait(HOUR),
            summary="Sources wait for their targets most of the time",
            description=(
                "Streams have waited for credit for {{ $value | humanizePercentage }} of the last hour: "
                "targets write more slowly than sources send, and snapshots are held for longer than they need "
                "to be. `bootpoint run list` shows what runs."
            ),
        ),
    )


def _sources(pace: Pace) -> tuple[Alert, ...]:
    six = pace.window(6 * HOUR)
    fallbacks = f'sum(increase(bootpoint_tracker_fallback_total{{reason!="first"}}[{six}]))'
    return (
        Alert(
            name="BootpointTrackerMissedBlock",
            severity=Severity.CRITICAL,
            measured=f"sum by (agent) (increase(bootpoint_tracker_sample_miss_total[{pace.window(DAY)}]))",
            condition="> 0",
            summary="The change tracker of {{ $labels.agent }} has missed changes",
            description=(
                "A run of agent {{ $labels.agent }} found changes that its change tracker had not seen, and "
                "read the whole disk for that. The newest boot point is whole; earlier ones since the last full "
                "scan may lack changes."
            ),
        ),
        Alert(
            name="BootpointTrackerFallbackLoop",
            severity=Severity.WARNING,
            measured=fallbacks,
            condition=f'> 3 and {fallbacks}\n> 0.5 * sum(increase(bootpoint_run_total{{result="succeeded"}}[{six}]))',
            summary="More than half of the runs read whole disks",
            description=(
                "{{ $value | humanize }} disks of the last 6 hours were read in full although a change "
                "tracker was to follow them, in more than half of the runs: increments cost what the disk holds, "
                "not what has changed."
            ),
        ),
        Alert(
            name="BootpointAgentSilent",
            severity=Severity.WARNING,
            measured="max by (agent) (bootpoint_agent_last_seen_seconds)",
            condition=f"> {pace.age(5 * MINUTE)}",
            wait=pace.wait(5 * MINUTE),
            summary="Agent {{ $labels.agent }} is silent",
            description=(
                "Nothing has been heard of agent {{ $labels.agent }} for {{ $value | humanizeDuration "
                "}}; it should say something every 10 seconds. Its jobs make no boot points until it is back."
            ),
        ),
    )


def _storages(pace: Pace) -> tuple[Alert, ...]:
    free = "max by (host, storage) (bootpoint_target_free_bytes)"
    share = f"{free} / max by (host, storage) (bootpoint_target_size_bytes)"
    ahead = f"predict_linear(bootpoint_target_free_bytes[{pace.window(6 * HOUR)}], {pace.age(DAY)})"
    return (
        Alert(
            name="BootpointTargetStorageFilling",
            severity=Severity.WARNING,
            measured=share,
            condition=f"< {LOW}\nor {share} < 0.5 and on (host, storage) max by (host, storage) ({ahead}) < 0",
            wait=pace.wait(30 * MINUTE),
            summary="Storage {{ $labels.storage }} of {{ $labels.host }} is filling",
            description=(
                "{{ $value | humanizePercentage }} of storage {{ $labels.storage }} on host {{ "
                f"$labels.host }}}} are free: less than {LOW:.0%}, or what is left goes within a day if it goes "
                "on as in the last 6 hours."
            ),
        ),
        Alert(
            name="BootpointTargetStorageFull",
            severity=Severity.CRITICAL,
            measured=share,
            condition=f"< {EMPTY}",
            wait=pace.wait(5 * MINUTE),
            summary="Storage {{ $labels.storage }} of {{ $labels.host }} is full",
            description=(
                "{{ $value | humanizePercentage }} of storage {{ $labels.storage }} on host {{ "
                "$labels.host }} are free. Runs to it fail with `host_full`, and standbys that run there may "
                "stop."
            ),
        ),
    )
