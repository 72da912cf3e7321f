"""The rules on the control plane: workers, messages, notices, and the broker.

The broker's metrics are those of RabbitMQ's own plugin ``rabbitmq_prometheus``.
"""

from __future__ import annotations

from bootpoint_ops.monitoring.rule import MINUTE, Alert, Group, Pace, Severity

#: Names of the jobs in prometheus.yml.
EXPORTER, BROKER = "bootpoint", "rabbitmq"

#: Refused messages in 15 minutes that are more than the odd one of a restart.
_REFUSED = 10


def control_group(pace: Pace) -> Group:
    """Return the rules, for a pace."""
    return Group("bootpoint-control", (*_processes(pace), *_messages(pace)))


def broker_group(pace: Pace) -> Group:
    """Return the rules on RabbitMQ, for a pace."""
    minute = pace.wait(MINUTE)
    blocked = (
        "RabbitMQ takes nothing from publishers until it is over: no agent can send, no worker can hand on "
        "work. What was sent is kept, and everything goes on by itself when the alarm ends."
    )
    return Group(
        "bootpoint-broker",
        (
            Alert(
                name="BootpointBrokerDown",
                severity=Severity.CRITICAL,
                measured=f'up{{job="{BROKER}"}}',
                condition="== 0",
                wait=pace.wait(2 * MINUTE),
                summary="RabbitMQ on {{ $labels.instance }} does not answer",
                description=(
                    "Prometheus can't read RabbitMQ's metrics on {{ $labels.instance }}. Without a broker "
                    "nothing runs; what is under way goes on where it was when it is back."
                ),
            ),
            Alert(
                name="BootpointBrokerMemoryAlarm",
                severity=Severity.CRITICAL,
                measured="rabbitmq_alarms_memory_used_watermark",
                condition="== 1",
                wait=minute,
                summary="RabbitMQ on {{ $labels.instance }} is short of memory, and blocks",
                description=blocked,
            ),
            Alert(
                name="BootpointBrokerDiskAlarm",
                severity=Severity.CRITICAL,
                measured="rabbitmq_alarms_free_disk_space_watermark",
                condition="== 1",
                wait=minute,
                summary="RabbitMQ on {{ $labels.instance }} is short of disk space, and blocks",
                description=blocked,
            ),
        ),
    )


def _processes(pace: Pace) -> tuple[Alert, ...]:
    return (
        Alert(
            name="BootpointExporterDown",
            severity=Severity.CRITICAL,
            measured=f'up{{job="{EXPORTER}"}}',
            condition="== 0",
            wait=pace.wait(5 * MINUTE),
            summary="The exporter on {{ $labels.instance }} does not answer",
            description=(
                "Prometheus can't read bootpoint's metrics on {{ $labels.instance }}: the process has ended, "
                "or the database does not answer it. Until it is back no other alert of bootpoint can fire."
            ),
        ),
        Alert(
            name="BootpointPoolWithoutWorkers",
            severity=Severity.CRITICAL,
            measured="max by (pool) (bootpoint_worker_up)",
            condition="== 0",
            wait=pace.wait(2 * MINUTE),
            summary="Nobody serves the pool {{ $labels.pool }}",
            description=(
                "A host is in the pool {{ $labels.pool }}, and no worker serves it: no run to that host "
                "begins, and none goes on. Start `bootpoint worker --pool {{ $labels.pool }}`."
            ),
        ),
        Alert(
            name="BootpointNoticesWait",
            severity=Severity.WARNING,
            measured=f"min by (channel) (min_over_time(bootpoint_notices_pending[{pace.window(15 * MINUTE)}]))",
            condition="> 0",
            summary="Notices by {{ $labels.channel }} can't be sent",
            description=(
                "Notices to people ({{ $labels.channel }}) have waited for 15 minutes. `bootpoint status` "
                "shows the last problem."
            ),
        ),
    )


def _messages(pace: Pace) -> tuple[Alert, ...]:
    window = pace.window(15 * MINUTE)
    return (
        Alert(
            name="BootpointOutboxLag",
            severity=Severity.CRITICAL,
            measured="max(bootpoint_outbox_lag_seconds)",
            condition=f"> {pace.age(MINUTE)}",
            wait=pace.wait(2 * MINUTE),
            summary="Messages are not handed to the broker",
            description=(
                "The oldest message that is due has waited for {{ $value | humanizeDuration }} in the "
                "database. No scheduler or worker runs, or none of them reaches the broker: nothing begins, and "
                "nothing is told to agents."
            ),
        ),
        Alert(
            name="BootpointRejectedMessages",
            severity=Severity.WARNING,
            measured=f"sum by (reason) (increase(bootpoint_rejected_messages_total[{window}]))",
            condition=f"> {_REFUSED}",
            summary="Messages are refused: {{ $labels.reason }}",
            description=(
                "{{ $value | humanize }} messages of the last 15 minutes were refused ({{ $labels.reason "
                "}}). Somebody says what they may not, an agent has an old key, or bundles were changed on "
                "their way. `bootpoint history --days 1` names who."
            ),
        ),
    )
