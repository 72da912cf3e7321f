"""Whatever a job says survives being written as JSON and as a file."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bootpoint_common.job import as_json, read_json, read_toml, write_toml

names = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,29}[a-z0-9])?", fullmatch=True)  # a VM's ends so, too
booleans = st.booleans()
durations = st.one_of(
    st.builds("{}{}".format, st.integers(60, 3000), st.sampled_from("sm")),
    st.builds("{:.3f}{}".format, st.floats(60, 3000), st.just("s")),
    st.builds("{}{}".format, st.integers(1, 300), st.sampled_from("hd")),
)
sizes = st.builds("{}{}".format, st.integers(64, 9000), st.sampled_from(["MiB", "GiB"]))
clocks = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
windows = st.lists(clocks, min_size=2, max_size=2, unique=True).filter(lambda pair: pair[1] != "00:00")
instants = st.datetimes().map(lambda moment: moment.replace(microsecond=0).isoformat())
lines = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=12)
ons = st.sampled_from(["success", "failure", "both"])


def table(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=optional)


def with_program(script: dict[str, Any]) -> dict[str, Any]:
    return script | {"run": ["/bin/true", *script["run"]]}


scripts = st.fixed_dictionaries(
    {"run": st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), max_size=3)},
    optional={"user": st.sampled_from(["root", "nobody"]), "timeout": st.just("90s"), "abort": booleans},
).map(with_program)

disks = st.dictionaries(names, st.sampled_from(["serial:", "path:", "file:/srv/"]), min_size=1, max_size=3).map(
    lambda slots: [{"slot": slot, "id": f"{kind}{slot}"} for slot, kind in slots.items()]
)
nics = table(
    network=lines,
    model=names,
    mac=st.sampled_from(["new", "keep", "52:54:00:00:00:21"]),
    ip=st.sampled_from(
        [
            {"mode": "dhcp"},
            {"mode": "static", "address": "10.9.0.21/24", "gateway": "10.9.0.1", "dns": ["10.9.0.2"]},
            {"mode": "static", "address": "2001:db8::1/64"},
        ]
    ),
    connect=booleans,
)
targets = table(
    pool=names,
    points=st.integers(3, 30),
    lag_limit=durations,
    vm=table(name=names, cpus=st.integers(1, 64), memory=sizes, firmware=st.sampled_from(["bios", "uefi"])),
    storage=table(
        name=lines,
        folder=st.sampled_from(["", "a", "a/b c"]),
        disk_name=st.just("d-{slot}"),
        provisioning=st.sampled_from(["thin", "thick"]),
        bus=st.sampled_from(["virtio", "sata"]),
        resource_pool=lines,
    ),
)
schedules = st.one_of(
    st.fixed_dictionaries(
        {"weekly": st.lists(st.sampled_from(["mon", "wed", "sun"]), min_size=1, unique=True)},
        optional={"every": st.just("1m"), "effective": st.just(["2026-01-01T00:00:00", "2027-01-01T00:00:30"])},
    ),
    st.fixed_dictionaries(
        {"monthly": st.lists(st.sampled_from([1, 28, 31, "last"]), min_size=1, unique=True)},
        optional={"window": windows},
    ),
    st.fixed_dictionaries({"once": instants}),
)
jobs = st.fixed_dictionaries(
    {
        "name": names,
        "source": st.fixed_dictionaries(
            {},
            optional={
                "consistency": st.sampled_from(["app", "fs", "crash"]),
                "disks": st.one_of(st.just("all"), disks),
                "skip": st.lists(st.sampled_from(["swap", "hibernation"]), unique=True),
            },
        ),
        "target": st.dictionaries(names, st.tuples(targets, st.lists(nics, max_size=1)), min_size=1, max_size=2).map(
            lambda hosts: [{"host": host, "nic": cards} | target for host, (target, cards) in hosts.items()]
        ),
        "time_zone": st.sampled_from(["Europe/Rome", "UTC"]),
    },
    optional={
        "enabled": booleans,
        "objective": table(point=durations, bootable=durations),
        "group": st.fixed_dictionaries(
            {"name": names}, optional={"order": st.integers(0, 99), "wait": st.just("tcp:5432"), "timeout": durations}
        ),
        "schedule": st.lists(schedules, max_size=2),
        "run": table(
            on_shutdown=table(enabled=booleans, deadline=st.just("2m")),
            on_restart=booleans,
            retry=table(times=st.integers(0, 9), wait=durations),
            catch_up=durations,
        ),
        "scripts": table(before_snapshot=scripts, after_snapshot=scripts, after_point=scripts),
        "limits": table(
            nice=st.integers(0, 19),
            read_bytes_per_second=st.integers(0, 10**9),
            network_kb_per_second=st.just([{"from": "22:00", "to": "06:00", "value": 0}, {"value": 512}]),
        ),
        "check": table(verify=st.one_of(durations, st.just("never")), boot=st.one_of(durations, st.just("never"))),
        "notify": table(
            mail=st.fixed_dictionaries({"to": st.just(["ops@example.org"])}, optional={"on": ons}),
            webhook=st.fixed_dictionaries(
                {"url": st.just("https://h.example.org/x")}, optional={"secret_file": st.just("/etc/k"), "on": ons}
            ),
        ),
    },
)
sources = st.sampled_from([{"agent": "a"}, {"image": "/srv/i.qcow2"}, {"vm": {"host": "h", "name": "n"}}])


@given(jobs, sources)
def test_job_survives_json_and_file(job: dict[str, Any], source: dict[str, Any]) -> None:
    spec = read_json(job | {"source": job["source"] | source})
    assert read_json(json.loads(json.dumps(as_json(spec)))) == spec
    assert read_toml(write_toml(spec)) == spec


def switched_on(text: str) -> str:
    """Return a file with every key that isn't set set to what stands there."""
    return re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE)


@settings(max_examples=40)
@given(jobs, sources)
def test_the_keys_that_are_not_set_can_be_set_as_they_stand_there(job: dict[str, Any], source: dict[str, Any]) -> None:
    spec = read_json(job | {"source": job["source"] | source})
    values = tomllib.loads(switched_on(write_toml(spec)))
    read_json(values)


def test_file_holds_what_differs_and_what_is_useful() -> None:
    spec = read_json({"name": "erp", "source": {"agent": "erp"}, "target": [{"host": "kvm1", "vm": {"cpus": 4}}]})
    text = write_toml(spec)
    values = tomllib.loads(text)
    assert values == {
        "name": "erp",
        "source": {"agent": "erp", "consistency": "fs", "disks": "all"},
        "target": [
            {"host": "kvm1", "points": 14, "vm": {"name": "erp-standby", "cpus": 4}, "storage": {"name": "default"}}
        ],
        "check": {"verify": "7d", "boot": "1d"},
        "objective": {},
        "limits": {},
        "run": {"on_shutdown": {}, "retry": {}},
    }
    assert "#[[schedule]]" in text
    assert text.count("# What is protected") == 1


def test_every_key_of_a_job_stands_in_its_file_with_a_word_about_it() -> None:
    spec = read_json({"name": "erp", "source": {"agent": "erp"}, "target": [{"host": "kvm1"}]})
    text = write_toml(spec)
    given = as_json(read_toml(switched_on(text)))
    # One source excludes the others, and one way to an address another: those are shown as comments.
    assert _nulls(given) == {
        *("source.vm", "source.image", "target.nic.ip.address", "target.nic.ip.gateway"),
        *("schedule.weekly", "schedule.monthly", "schedule.once", "schedule.window", "schedule.every"),
        *("schedule.effective", "limits.network_kb_per_second.from", "limits.network_kb_per_second.to"),
    }
    for key in ("vm", "image", "address", "gateway", "dns"):
        assert re.search(rf"^# {key} = ", text, re.MULTILINE), key
    bare = [line for line in text.splitlines() if "=" in line and not line.startswith("# ") and "  # " not in line]
    above = text.splitlines()
    assert all(above[above.index(line) - 1].startswith("# ") for line in bare), bare


def _nulls(value: Any, path: str = "") -> set[str]:
    if isinstance(value, dict):
        return {name for key, item in value.items() for name in _nulls(item, f"{path}.{key}".lstrip("."))}
    if isinstance(value, list):
        return {name for item in value for name in _nulls(item, path)}
    return {path} if value is None else set()
