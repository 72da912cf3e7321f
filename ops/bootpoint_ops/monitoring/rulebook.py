"""All rules, in the order of the file."""

from __future__ import annotations

from bootpoint_ops.monitoring.control import broker_group, control_group
from bootpoint_ops.monitoring.copy import copy_group
from bootpoint_ops.monitoring.objective import objective_group
from bootpoint_ops.monitoring.rule import Alert, Group, Pace, rule_file

#: Begins the file.
_HEAD = """\
# Alert rules for Prometheus: what each means and what to do stands in docs/alerts.md.
# Made by `python -m bootpoint_ops.monitoring`; change bootpoint_ops/monitoring, not this file.
# The links of the alerts begin with a placeholder; replace it by where your people read the documentation:
#     sed -i 's|https://bootpoint.example/docs|https://wiki.example.org/bootpoint|' bootpoint.rules.yml
"""


def groups(pace: Pace | None = None) -> tuple[Group, ...]:
    """Return every group, for a pace; by default as operators use them."""
    chosen = pace or Pace()
    return objective_group(chosen), copy_group(chosen), control_group(chosen), broker_group(chosen)


def alerts(pace: Pace | None = None) -> tuple[Alert, ...]:
    """Return every alert."""
    return tuple(rule for group in groups(pace) for rule in group.rules if isinstance(rule, Alert))


def rules_text(pace: Pace | None = None) -> str:
    """Return the content of ``bootpoint.rules.yml``."""
    return rule_file(groups(pace), _HEAD)
