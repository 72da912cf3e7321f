"""Rules of Prometheus as values, and the file that they make.

The format is that of Prometheus's documentation, "Defining recording rules" and "Alerting rules".
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

#: Where the documentation can be read; a placeholder (RFC 2606) that who installs the rules replaces.
DOCS = "https://bootpoint.example/docs"

#: Units of Prometheus's durations in seconds, largest first.
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


class Severity(enum.StrEnum):
    """What an alert asks of its reader."""

    CRITICAL = "critical"  #: somebody is woken
    WARNING = "warning"  #: somebody looks on the next working day


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast time goes for the rules: as written for operators, or faster for a test.

    Attributes:
        factor: What every window, wait and age is multiplied with.
        least_window: Shortest window in seconds: a few scrapes.
        least_wait: Shortest wait in seconds: an evaluation.
        least_age: Smallest age in seconds that counts as old: more than what is usual in a healthy installation.
    """

    factor: float = 1.0
    least_window: float = 0.0
    least_wait: float = 0.0
    least_age: float = 0.0

    def window(self, seconds: float) -> str:
        """Return a range, as PromQL writes it."""
        return duration(max(seconds * self.factor, self.least_window))

    def wait(self, seconds: float) -> str:
        """Return how long a condition must hold, as PromQL writes it."""
        return duration(max(seconds * self.factor, self.least_wait))

    def age(self, seconds: float) -> str:
        """Return an age in seconds that a metric is compared with."""
        return f"{max(seconds * self.factor, self.least_age):g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A recording rule.

    Attributes:
        name: The series that it makes.
        expression: PromQL.
    """

    name: str
    expression: str

    def as_yaml(self) -> dict[str, Any]:
        """Return the rule as it stands in a file."""
        return {"record": self.name, "expr": self.expression}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """An alerting rule.

    Attributes:
        name: In the manner of Prometheus's own: words run together.
        severity: What it asks of its reader.
        measured: PromQL of what is looked at; has samples in a healthy installation, too.
        condition: What makes the alert of it, written behind ``measured``.
        wait: How long it must hold, as PromQL writes it; None for not at all.
        summary: One line, for a list or a telephone.
        description: What it means, and the first thing to do.
    """

    name: str
    severity: Severity
    measured: str
    condition: str
    wait: str | None = None
    summary: str
    description: str

    def as_yaml(self) -> dict[str, Any]:
        """Return the rule as it stands in a file."""
        return {
            "alert": self.name,
            "expr": f"{self.measured} {self.condition}",
            **({"for": self.wait} if self.wait else {}),
            "labels": {"severity": str(self.severity)},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{DOCS}/alerts.md#{heading(self.name).lower().replace(' ', '-')}",
            },
        }


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that are evaluated one after the other, so that later ones see what earlier ones recorded."""

    name: str
    rules: Sequence[Record | Alert]


def duration(seconds: float) -> str:
    """Write a duration as PromQL does: whole numbers of the largest unit that fits.

    Raises:
        ValueError: It is shorter than a millisecond, which PromQL can't say.
    """
    if seconds < 0.001:
        raise ValueError(f"{seconds} s is shorter than a millisecond")
    for unit, size in _UNITS:
        if seconds % size == 0:
            return f"{int(seconds // size)}{unit}"
    return f"{round(seconds * 1000)}ms"


def heading(name: str) -> str:
    """Return an alert's heading in docs/alerts.md: its name as words, without the product's."""
    words = re.findall(r"[A-Z][a-z]+", name.removeprefix("Bootpoint"))
    return " ".join(words).capitalize()


class _Dumper(yaml.SafeDumper):
    """Writes expressions of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def rule_file(groups: Sequence[Group], head: str = "") -> str:
    """Return the content of a rule file.

    Args:
        groups: What stands in it.
        head: Comment lines to begin with.
    """
    content = {"groups": [{"name": group.name, "rules": [rule.as_yaml() for rule in group.rules]} for group in groups]}
    return head + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
