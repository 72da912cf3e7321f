"""Which events of the history people are told of, beside the ends of runs; what each is called, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Alert:
    """An event that somebody should know of.

    Attributes:
        title: A few words, for a mail's subject.
        hint: What to do; may hold ``{job}``, ``{host}`` and ``{point}``.
    """

    title: str
    hint: str


#: What a boot check says of a point that is no news.
_QUIET_VERDICTS = ("boots", "unknown")

#: By kind of event. Whatever tells of trouble is followed by what tells that it is over, where there is such an event.
ALERTS: dict[str, Alert] = {
    "objective_broken": Alert("too old", "`bootpoint job show {job}` says why there is no newer boot point"),
    "objective_met": Alert("young enough again", "nothing needs to be done"),
    "entropy_alert": Alert(
        "changes look like encryption",
        "look at the machine; `bootpoint point unpin {job} P` of the pinned boot point when all is well",
    ),
    "retention_blocked": Alert(
        "the next run will be refused", "`bootpoint point unpin {job} P` of a boot point, or raise points in the job"
    ),
    "retention_free": Alert("boot points may go again", "nothing needs to be done"),
    "sample_miss": Alert(
        "the change tracker had missed changes",
        "the newest boot point is whole, earlier ones may lack changes; pin it until others follow",
    ),
    "point_damaged": Alert(
        "a boot point is damaged",
        "the next run brings what is damaged anew; look at the storage of {host}; `bootpoint point show {job} {point}`",
    ),
    "damage_repaired": Alert("damage is repaired", "nothing needs to be done"),
    "boot_checked": Alert(
        "the standby does not boot",
        "`bootpoint point show {job} {point} --screenshot FILE` shows what the check saw",
    ),
    "drift": Alert(
        "the standby was started outside bootpoint", "`bootpoint job show {job}` says what to do with its changes"
    ),
    "replica_broken": Alert(
        "the newest boot point isn't on the host", "`bootpoint host rescan {host}` compares the host with the database"
    ),
    "replica_whole": Alert("the newest boot point is on the host again", "nothing needs to be done"),
    "notice_test": Alert("a test", "nothing needs to be done: notices of this job arrive here"),
}


def is_alert(kind: str, details: Mapping[str, object] | None) -> bool:
    """Tell whether people are told of an event; a boot check is one where the point does not boot."""
    if kind == "boot_checked":
        return details is not None and details.get("verdict") not in _QUIET_VERDICTS
    return kind in ALERTS and kind != "notice_test"
