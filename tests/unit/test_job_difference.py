"""What a re-apply may change, and when."""

from __future__ import annotations

from typing import Any

import pytest

from bootpoint_common.errors import Code
from bootpoint_common.job import Spec, When, difference, read_json

BASE: dict[str, Any] = {
    "name": "erp",
    "time_zone": "Europe/Rome",
    "source": {"agent": "erp", "disks": [{"slot": "system", "id": "serial:A"}, {"slot": "data", "id": "serial:B"}]},
    "target": [{"host": "kvm1", "nic": [{"network": "br0"}]}],
}


def job(**changes: Any) -> Spec:
    return read_json(BASE | changes)


def source(**changes: Any) -> Spec:
    return job(source=BASE["source"] | changes)


def target(**changes: Any) -> Spec:
    return job(target=[BASE["target"][0] | changes])


def test_same_job_has_no_difference() -> None:
    assert difference(job(), job()) == []


@pytest.mark.parametrize(
    ("new", "key"),
    [
        (job(enabled=False), "enabled"),
        (job(time_zone="UTC"), "time_zone"),
        (job(objective={"point": "9h"}), "objective.point"),
        (job(group={"name": "g"}), "group.name"),
        (job(run={"on_restart": True}), "run.on_restart"),
        (job(scripts={"after_point": {"run": ["/bin/true"]}}), "scripts.after_point.run"),
        (job(limits={"nice": 5}), "limits.nice"),
        (job(check={"verify": "never"}), "check.verify"),
        (job(notify={"mail": {"to": ["a@b"]}}), "notify.mail.to"),
        (source(consistency="crash"), "source.consistency"),
        (source(skip=["swap"]), "source.skip"),
        (target(points=5), "target[0].points"),
        (target(pool="fast"), "target[0].pool"),
        (target(lag_limit="1h"), "target[0].lag_limit"),
    ],
)
def test_takes_effect_at_once(new: Spec, key: str) -> None:
    changes = {change.key: change.when for change in difference(job(), new)}
    assert changes[key] is When.AT_ONCE
    assert set(changes.values()) == {When.AT_ONCE}


def test_schedule_takes_effect_at_once_with_its_objective() -> None:
    changes = difference(job(), job(schedule=[{"weekly": ["mon"]}]))
    assert [(change.key, change.when) for change in changes] == [
        ("objective.point", When.AT_ONCE),
        ("schedule", When.AT_ONCE),
    ]


@pytest.mark.parametrize(
    ("new", "key"),
    [
        (target(vm={"cpus": 8}), "target[0].vm.cpus"),
        (target(vm={"memory": "8GiB"}), "target[0].vm.memory"),
        (target(vm={"name": "other"}), "target[0].vm.name"),
        (target(nic=[{"network": "br1"}]), "target[0].nic"),
        (target(nic=[]), "target[0].nic"),
    ],
)
def test_takes_effect_at_the_next_commit(new: Spec, key: str) -> None:
    (change,) = difference(job(), new)
    assert (change.key, change.when, change.host) == (key, When.NEXT_COMMIT, "kvm1")


@pytest.mark.parametrize(
    ("new", "key", "code"),
    [
        (target(vm={"firmware": "uefi"}), "target[0].vm.firmware", Code.NEEDS_MOVE),
        (target(storage={"name": "fast"}), "target[0].storage.name", Code.NEEDS_MOVE),
        (target(storage={"folder": "x"}), "target[0].storage.folder", Code.NEEDS_MOVE),
        (target(storage={"disk_name": "{slot}"}), "target[0].storage.disk_name", Code.NEEDS_MOVE),
        (target(storage={"provisioning": "thick"}), "target[0].storage.provisioning", Code.NEEDS_MOVE),
        (target(storage={"bus": "sata"}), "target[0].storage.bus", Code.NEEDS_MOVE),
        (source(agent="other"), "source.agent", Code.SPEC_INVALID),
    ],
)
def test_refused(new: Spec, key: str, code: Code) -> None:
    (change,) = difference(job(), new)
    assert (change.key, change.when, change.code) == (key, When.REFUSED, code)


def test_another_name_is_refused() -> None:
    changes = {change.key: change for change in difference(job(), job(name="crm"))}
    assert (changes["name"].when, changes["name"].code) == (When.REFUSED, Code.SPEC_INVALID)
    assert (changes["name"].old, changes["name"].new) == ("erp", "crm")


def test_added_target_is_copied_and_removed_one_detached() -> None:
    two = job(target=[*BASE["target"], {"host": "kvm2"}])
    (added,) = difference(job(), two)
    assert (added.key, added.when, added.host) == ("target[1]", When.FULL_COPY, "kvm2")
    (removed,) = difference(two, job())
    assert (removed.key, removed.when, removed.host) == ("target[1]", When.DETACHED, "kvm2")


def test_order_of_targets_means_nothing() -> None:
    targets = [{"host": "kvm1"}, {"host": "kvm2", "points": 5}]
    assert difference(job(target=targets), job(target=targets[::-1])) == []


@pytest.mark.parametrize(
    ("disks", "expected"),
    [
        ([("system", "A"), ("data", "B"), ("log", "C")], [("source.disks[2]", When.FULL_COPY, "log")]),
        ([("system", "A")], [("source.disks[1]", When.DETACHED, "data")]),
        ([("system", "A"), ("data", "X")], [("source.disks[1]", When.FULL_COPY, "data")]),
        ([("data", "B"), ("system", "A")], [("source.disks", When.NEXT_COMMIT, None)]),
        (
            [("system", "A"), ("log", "C")],
            [("source.disks[1]", When.FULL_COPY, "log"), ("source.disks[1]", When.DETACHED, "data")],
        ),
    ],
)
def test_disks(disks: list[tuple[str, str]], expected: list[tuple[str, When, str | None]]) -> None:
    new = source(disks=[{"slot": slot, "id": f"serial:{serial}"} for slot, serial in disks])
    assert [(change.key, change.when, change.slot) for change in difference(job(), new)] == expected


def test_all_disks_may_cost_a_full_copy() -> None:
    (change,) = difference(job(), source(disks="all"))
    assert (change.key, change.when, change.new) == ("source.disks", When.FULL_COPY, "all")
