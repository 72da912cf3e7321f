"""Reading a job file: values, defaults and errors."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.errors import Code
from bootpoint_common.job import (
    LAST_DAY,
    Consistency,
    Disk,
    HostDefaults,
    IpMode,
    Rate,
    Schedule,
    Skip,
    Spec,
    SpecError,
    Window,
    as_json,
    fill_host_defaults,
    longest_gap,
    read_json,
    read_toml,
)
from bootpoint_common.units import GiB

DOCS = Path(__file__).parents[2] / "docs"

MINIMAL = 'name = "erp-db"\n[source]\nagent = "erp-db"\n[[target]]\nhost = "kvm1"\n'


def documented(page: str = "job.md") -> list[str]:
    return re.findall(r"```toml\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def minimal(**changes: Any) -> dict[str, Any]:
    return {"name": "erp-db", "source": {"agent": "erp-db"}, "target": [{"host": "kvm1"}]} | changes


def refused(obj: dict[str, Any]) -> SpecError:
    with pytest.raises(SpecError) as caught:
        read_json(obj)
    return caught.value


@pytest.mark.parametrize("page", ["limits.md", "scripts.md"])
def test_the_tables_of_a_page_are_parts_of_a_job_file(page: str) -> None:
    (part,) = documented(page)
    top, _, tables = part.rpartition("\n\n") if part.startswith("time_zone") else ("", "", part)
    spec = read_toml(f"{top}\n{MINIMAL}{tables}")
    assert (spec.limits, spec.scripts) != (read_toml(MINIMAL).limits, read_toml(MINIMAL).scripts)


def test_documented_job_has_every_key() -> None:
    shortest, full = (read_toml(text) for text in documented())
    assert shortest == read_toml(MINIMAL)
    given = as_json(full)
    alternatives = {
        "source.vm",
        "source.image",
        "schedule.weekly",
        "schedule.monthly",
        "schedule.once",
        "schedule.window",
        "schedule.every",
        "schedule.effective",
        "limits.network_kb_per_second.from",
        "limits.network_kb_per_second.to",
    }
    assert _nulls(given) <= alternatives


def _nulls(value: Any, path: str = "") -> set[str]:
    if isinstance(value, dict):
        return {name for key, item in value.items() for name in _nulls(item, f"{path}.{key}".lstrip("."))}
    if isinstance(value, list):
        return {name for item in value for name in _nulls(item, path)}
    return {path} if value is None else set()


def test_documented_job_means_what_it_says() -> None:
    spec = read_toml(documented()[1])
    assert spec.source.disks == (Disk("system", "serial:S3Z8NB0K"), Disk("data", "wwn:0x5000c500a1b2c3d4"))
    assert spec.source.skip == (Skip.SWAP, Skip.HIBERNATION)
    (target,) = spec.targets
    assert (target.vm.cpus, target.vm.memory_bytes, target.lag_limit_seconds) == (4, 16 * GiB, 21600.0)
    assert target.storage.disk_stem(target.vm.name, "data") == "erp-db-standby-data"
    assert target.nics[0].ip.mode is IpMode.STATIC
    assert spec.schedules[0].effective == (datetime(2026, 12, 1), datetime(2027, 12, 1))  # noqa: DTZ001 - local
    assert spec.schedules[1].monthly == (1, 15, LAST_DAY)
    assert spec.objective.point_seconds == 60 * 3600
    assert spec.limits.network == (Rate(kb_per_second=20480, window=Window(480, 1080)), Rate(kb_per_second=0))
    assert spec.limits.network_bytes_per_second(12 * 60) == 20480 * 1024
    assert spec.limits.network_bytes_per_second(18 * 60) == 0
    assert spec.scripts.before_snapshot is not None
    assert spec.scripts.before_snapshot.abort
    assert spec.scripts.after_snapshot is not None
    assert not spec.scripts.after_snapshot.abort


def test_defaults_are_those_of_the_contract() -> None:
    given = as_json(read_toml(MINIMAL))
    assert given["target"][0] | {"storage": None} == {
        "host": "kvm1",
        "pool": None,
        "points": 14,
        "lag_limit": "12h",
        "vm": {"name": "erp-db-standby", "cpus": None, "memory": None, "firmware": None},
        "storage": None,
        "nic": [],
    }
    assert given["source"]["disks"] == "all"
    assert given["source"]["consistency"] == "fs"
    assert given["run"]["retry"] == {"times": 3, "wait": "5m"}
    assert given["run"]["on_shutdown"] == {"enabled": False, "deadline": "1m"}
    assert given["check"] == {"verify": "7d", "boot": "1d"}
    assert given["objective"] == {"point": None, "bootable": "2d"}
    assert given["limits"] == {"nice": 10, "read_bytes_per_second": 0, "network_kb_per_second": []}


def test_host_fills_in_what_the_job_leaves_open() -> None:
    spec = read_json(minimal(target=[{"host": "esx", "nic": [{}]}, {"host": "kvm1", "storage": {"bus": "sata"}}]))
    hosts = {"esx": HostDefaults(pool="esxi", bus="scsi", nic_model="vmxnet3"), "kvm1": HostDefaults(pool="kvm")}
    esx, kvm = fill_host_defaults(spec.targets, hosts)
    assert (esx.pool, esx.storage.bus, esx.nics[0].model) == ("esxi", "scsi", "vmxnet3")
    assert (kvm.pool, kvm.storage.bus) == ("kvm", "sata")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"name": "Erp"}, "name"),
        ({"name": "-erp"}, "name"),
        ({"name": "a" * 64}, "name"),
        ({"name": None}, "name"),
        ({"enabled": "yes"}, "enabled"),
        ({"time_zone": "Europe"}, "time_zone"),
        ({"time_zone": "CET5"}, "time_zone"),
        ({"time_zone": "../../etc/passwd"}, "time_zone"),
        ({"objective": {"point": "60"}}, "objective.point"),
        ({"group": {"order": 1}}, "group.name"),
        ({"group": {"name": "g", "wait": "tcp:70000"}}, "group.wait"),
        ({"source": {}}, "source"),
        ({"source": {"agent": "a", "image": "/i.qcow2"}}, "source"),
        ({"source": {"image": "relative.qcow2"}}, "source.image"),
        ({"source": {"vm": {"host": "h"}}}, "source.vm.name"),
        ({"source": {"agent": "a", "consistency": "best"}}, "source.consistency"),
        ({"source": {"agent": "a", "disks": []}}, "source.disks"),
        ({"source": {"agent": "a", "disks": "some"}}, "source.disks"),
        ({"source": {"agent": "a", "disks": [{"slot": "System", "id": "serial:A"}]}}, "source.disks[0].slot"),
        ({"source": {"agent": "a", "disks": [{"slot": "s" * 32, "id": "serial:A"}]}}, "source.disks[0].slot"),
        ({"source": {"agent": "a", "disks": [{"slot": "s", "id": "/dev/sda"}]}}, "source.disks[0].id"),
        ({"source": {"agent": "a", "disks": [{"slot": "s", "id": "file:disk.raw"}]}}, "source.disks[0].id"),
        ({"source": {"agent": "a", "disks": [{"slot": "s", "id": "file:/a/../etc"}]}}, "source.disks[0].id"),
        ({"source": {"agent": "a", "skip": ["swap", "swap"]}}, "source.skip[1]"),
        ({"target": []}, "target"),
        ({"target": {"host": "kvm1"}}, "target"),
        ({"target": [{"points": 5}]}, "target[0].host"),
        ({"target": [{"host": "h"}, {"host": "h"}]}, "target[1].host"),
        ({"target": [{"host": "h", "points": 2}]}, "target[0].points"),
        ({"target": [{"host": "h", "points": 31}]}, "target[0].points"),
        ({"target": [{"host": "h", "points": True}]}, "target[0].points"),
        ({"target": [{"host": "h", "vm": {"memory": 16}}]}, "target[0].vm.memory"),
        ({"target": [{"host": "h", "vm": {"memory": "1KiB"}}]}, "target[0].vm.memory"),
        ({"target": [{"host": "h", "vm": {"cpus": 0}}]}, "target[0].vm.cpus"),
        ({"target": [{"host": "h", "vm": {"name": "a/b"}}]}, "target[0].vm.name"),
        ({"target": [{"host": "h", "storage": {"folder": "../x"}}]}, "target[0].storage.folder"),
        ({"target": [{"host": "h", "storage": {"disk_name": "{vm}-{disk}"}}]}, "target[0].storage.disk_name"),
        ({"target": [{"host": "h", "storage": {"disk_name": "{vm}"}}]}, "target[0].storage.disk_name"),
        ({"target": [{"host": "h", "storage": {"bus": "usb"}}]}, "target[0].storage.bus"),
        ({"target": [{"host": "h", "nic": [{"mac": "01:00:5e:00:00:01"}]}]}, "target[0].nic[0].mac"),
        ({"target": [{"host": "h", "nic": [{"mac": "52:54:00"}]}]}, "target[0].nic[0].mac"),
        ({"target": [{"host": "h", "nic": [{"ip": {"mode": "static"}}]}]}, "target[0].nic[0].ip.address"),
        ({"target": [{"host": "h", "nic": [{"ip": {"address": "10.0.0.1/8"}}]}]}, "target[0].nic[0].ip.address"),
        (
            {"target": [{"host": "h", "nic": [{"ip": {"mode": "static", "address": "10.0.0.1"}}]}]},
            "target[0].nic[0].ip.address",
        ),
        ({"schedule": [{"weekly": ["mon"]}]}, "time_zone"),
        ({"limits": {"network_kb_per_second": [{"from": "08:00", "to": "09:00", "value": 1}]}}, "time_zone"),
        ({"time_zone": "UTC", "schedule": [{}]}, "schedule[0]"),
        ({"time_zone": "UTC", "schedule": [{"weekly": []}]}, "schedule[0].weekly"),
        ({"time_zone": "UTC", "schedule": [{"weekly": ["monday"]}]}, "schedule[0].weekly[0]"),
        ({"time_zone": "UTC", "schedule": [{"weekly": ["mon"], "monthly": [1]}]}, "schedule[0]"),
        ({"time_zone": "UTC", "schedule": [{"monthly": [32]}]}, "schedule[0].monthly[0]"),
        ({"time_zone": "UTC", "schedule": [{"once": "2026-12-01"}]}, "schedule[0].once"),
        ({"time_zone": "UTC", "schedule": [{"once": "2026-12-01T22:00:00Z"}]}, "schedule[0].once"),
        ({"time_zone": "UTC", "schedule": [{"once": "2026-12-01T22:00:00", "every": "1h"}]}, "schedule[0].every"),
        ({"time_zone": "UTC", "schedule": [{"weekly": ["mon"], "window": ["7:00", "8:00"]}]}, "schedule[0].window"),
        ({"time_zone": "UTC", "schedule": [{"weekly": ["mon"], "window": ["07:00", "07:00"]}]}, "schedule[0].window"),
        ({"time_zone": "UTC", "schedule": [{"weekly": ["mon"], "window": ["07:00", "24:01"]}]}, "schedule[0].window"),
        ({"time_zone": "UTC", "schedule": [{"weekly": ["mon"], "every": "1s"}]}, "schedule[0].every"),
        (
            {"time_zone": "UTC", "schedule": [{"weekly": ["mon"], "window": ["07:00", "08:00"], "every": "2h"}]},
            "schedule[0].every",
        ),
        (
            {
                "time_zone": "UTC",
                "schedule": [{"weekly": ["mon"], "effective": ["2027-01-01T00:00", "2026-01-01T00:00"]}],
            },
            "schedule[0].effective",
        ),
        ({"run": {"retry": {"times": -1}}}, "run.retry.times"),
        ({"scripts": {"before_snapshot": {}}}, "scripts.before_snapshot.run"),
        ({"scripts": {"before_snapshot": {"run": ["pause"]}}}, "scripts.before_snapshot.run[0]"),
        ({"scripts": {"before_snapshot": {"run": []}}}, "scripts.before_snapshot.run"),
        ({"limits": {"nice": 20}}, "limits.nice"),
        ({"limits": {"network_kb_per_second": 100}}, "limits.network_kb_per_second"),
        ({"limits": {"network_kb_per_second": [{"value": 1}, {"value": 2}]}}, "limits.network_kb_per_second[1]"),
        ({"limits": {"network_kb_per_second": [{"from": "08:00", "value": 1}]}}, "limits.network_kb_per_second[0].to"),
        ({"check": {"verify": "sometimes"}}, "check.verify"),
        ({"notify": {"mail": {"on": "both"}}}, "notify.mail.to"),
        ({"notify": {"mail": {"to": ["ops"]}}}, "notify.mail.to[0]"),
        ({"notify": {"webhook": {"url": "ftp://x"}}}, "notify.webhook.url"),
    ],
)
def test_error_names_the_key(changes: dict[str, Any], key: str) -> None:
    problem = refused(minimal(**changes))
    assert problem.code is Code.SPEC_INVALID
    assert problem.key == key
    assert key in problem.message
    assert problem.hint
    assert problem.exit_code == 2


def test_error_names_value_and_way_out() -> None:
    problem = refused(minimal(target=[{"host": "kvm1", "points": 40}]))
    assert problem.value == 40
    assert "from 3 to 30" in problem.message


def test_unknown_key_suggests_the_near_one() -> None:
    problem = refused(minimal(target=[{"host": "kvm1", "vm": {"memry": "1GiB"}}]))
    assert problem.key == "target[0].vm.memry"
    assert "did you mean 'memory'" in problem.message


def test_every_error_is_reported() -> None:
    text = 'name = "Erp"\nenabeld = true\n[source]\n[[target]]\nhost = "kvm1"\npoints = 99\n[check]\nboot = "soon"\n'
    with pytest.raises(SpecError) as caught:
        read_toml(text, "erp.toml")
    keys = [problem.key for problem in caught.value.problems]
    assert sorted(map(str, keys)) == ["check.boot", "enabeld", "name", "source", "target[0].points"]
    assert all(str(key) in caught.value.message for key in keys)
    assert caught.value.message.startswith("erp.toml: ")


def test_broken_toml_names_the_place() -> None:
    with pytest.raises(SpecError, match="line 2"):
        read_toml('name = "a"\nname = = "b"\n', "erp.toml")
    with pytest.raises(SpecError):
        read_toml("x = " + "[" * 5000, "erp.toml")


@pytest.mark.parametrize("obj", [None, [], "name"])
def test_json_that_is_no_object(obj: object) -> None:
    with pytest.raises(SpecError):
        read_json(obj)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"notify": {"webhook": {"url": "https://h/x", "secret": "hunter2"}}}, "notify.webhook.secret"),
        ({"notify": {"webhook": {"url": "https://bp:hunter2@h/x"}}}, "notify.webhook.url"),
        ({"notify": {"webhook": {"url": "https://hunter2@h/x"}}}, "notify.webhook.url"),
        ({"notify": {"webhook": {"url": "https://h/x?api_key=hunter2"}}}, "notify.webhook.url"),
        ({"notify": {"mail": {"to": ["a@b"], "smtp_password": "hunter2"}}}, "notify.mail.smtp_password"),
        ({"target": [{"host": "kvm1", "password": "hunter2"}]}, "target[0].password"),
    ],
)
def test_secret_is_refused_and_never_repeated(changes: dict[str, Any], key: str) -> None:
    problem = refused(minimal(**changes))
    assert (problem.code, problem.key) == (Code.SECRET_IN_SPEC, key)
    assert "hunter2" not in f"{problem.message}{problem.hint}{problem.as_json()}"


def test_secret_in_place_of_a_file_name_is_never_repeated() -> None:
    problem = refused(minimal(notify={"webhook": {"url": "https://h/x", "secret_file": "hunter2"}}))
    assert problem.key == "notify.webhook.secret_file"
    assert "hunter2" not in f"{problem.message}{problem.hint}{problem.as_json()}"


def test_vm_and_image_sources_can_be_read() -> None:
    assert read_json(minimal(source={"image": "/srv/images/erp.qcow2"})).source.image == "/srv/images/erp.qcow2"
    vm = read_json(minimal(source={"vm": {"host": "kvm1", "name": "erp"}})).source.vm
    assert vm is not None
    assert (vm.host, vm.name) == ("kvm1", "erp")


def test_consistency_accepts_better_levels_only() -> None:
    assert Consistency.FS.accepts(Consistency.APP)
    assert Consistency.FS.accepts(Consistency.FS)
    assert not Consistency.FS.accepts(Consistency.CRASH)


def test_arguments_may_repeat() -> None:
    spec = read_json(minimal(scripts={"after_point": {"run": ["/bin/echo", "a", "a"]}}))
    assert spec.scripts.after_point is not None
    assert spec.scripts.after_point.run == ("/bin/echo", "a", "a")


def schedule(**keys: Any) -> Spec:
    return read_json(minimal(time_zone="Europe/Rome", schedule=[keys]))


HOUR, DAY = 3600.0, 86400.0


@pytest.mark.parametrize(
    ("rules", "gap"),
    [
        ([], None),
        ([{"once": "2026-12-01T22:00:00"}], None),
        ([{"weekly": ["mon"]}], 7 * DAY),
        ([{"weekly": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]}], DAY),
        # From Friday 19:30, the last start before the window ends, to Monday 07:00.
        ([{"weekly": ["mon", "tue", "wed", "thu", "fri"], "window": ["07:00", "20:00"], "every": "30m"}], 59.5 * HOUR),
        ([{"weekly": ["mon"]}, {"weekly": ["thu"], "window": ["12:00", "13:00"]}], 3.5 * DAY),
        ([{"weekly": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], "every": "7h"}], 7 * HOUR),
        # 22:00, 00:00, 02:00, and then nothing until the next evening.
        (
            [
                {
                    "weekly": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"],
                    "window": ["22:00", "04:00"],
                    "every": "2h",
                }
            ],
            20 * HOUR,
        ),
        ([{"monthly": [1]}], 31 * DAY),
        ([{"monthly": ["last"]}], 31 * DAY),
        # July and August have 31 days, but from March to May and others there are 61.
        ([{"monthly": [31]}], 61 * DAY),
        ([{"monthly": [1, 15, "last"]}], 16 * DAY),
    ],
)
def test_objective_is_twice_the_longest_gap(rules: list[dict[str, Any]], gap: float | None) -> None:
    spec = read_json(minimal(time_zone="Europe/Rome", schedule=rules))
    assert longest_gap(spec.schedules) == gap
    assert spec.objective.point_seconds == (None if gap is None else 2 * gap)


def test_bootable_objective_follows_the_boot_check() -> None:
    assert read_json(minimal(check={"boot": "12h"})).objective.bootable_seconds == DAY
    assert read_json(minimal(check={"boot": "never"})).objective.bootable_seconds is None


def test_starts_of_a_day() -> None:
    (rule,) = schedule(weekly=["mon"], window=["22:00", "01:00"], every="1h").schedules
    assert rule.starts() == (22 * HOUR, 23 * HOUR, 24 * HOUR)
    assert Schedule(weekly=(0,)).starts() == (0.0,)
    assert Schedule(weekly=(0,), every_seconds=6 * HOUR).starts() == (0.0, 6 * HOUR, 12 * HOUR, 18 * HOUR)


def test_last_day_of_the_month() -> None:
    rule = Schedule(monthly=(LAST_DAY,))
    assert rule.falls_on(datetime(2028, 2, 29).date())  # noqa: DTZ001 - a day has no zone
    assert not rule.falls_on(datetime(2028, 2, 28).date())  # noqa: DTZ001 - likewise
