"""Whatever is wrong in a job file is named: the key, the value, and the nearest right one; a secret never is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.job import SpecError, as_json, read_json, read_toml
from bootpoint_common.job.key import SECTIONS
from bootpoint_common.near import nearest

DOCS = Path(__file__).parents[2] / "docs"

#: A job with the required keys, in parts that a case replaces.
HEAD, SOURCE, TARGET = 'name = "erp"\n', '[source]\nagent = "erp"\n', '[[target]]\nhost = "kvm1"\n'


@dataclass(frozen=True, slots=True)
class Case:
    """Something wrong in a job file.

    Attributes:
        key: The key's path, as the error has it.
        value: What the error repeats; None for a key that is missing, or a table.
        head: Lines at the top.
        source: Lines of ``[source]`` besides agent, or all of it if they name a source.
        target: Lines of the target.
        tables: Further tables.
        says: What stands in the message or the hint: the nearest right value, or the way out.
    """

    key: str
    value: object
    says: str
    head: str = ""
    source: str = ""
    target: str = ""
    tables: str = ""

    @property
    def text(self) -> str:
        head = self.head if self.head.startswith("name =") else HEAD + self.head
        source = f"[source]\n{self.source}\n" if re.search("^(agent|vm|image) =", self.source, re.MULTILINE) else SOURCE
        source += "" if source.endswith(f"{self.source}\n") else f"{self.source}\n"
        target = self.target if "[[target]]" in self.target else TARGET + self.target
        return f"{head}\n{source}\n{target}\n{self.tables}\n"

    @property
    def plain_key(self) -> str:
        return re.sub(r"\[\d+\]", "", self.key)


ZONE = 'time_zone = "UTC"'


def scheduled(key: str, value: object, says: str, rule: str) -> Case:
    return Case(f"schedule[0]{key}", value, says, head=ZONE, tables=f"[[schedule]]\n{rule}")


def script(stage: str, key: str, value: object, says: str, keys: str) -> Case:
    run = "" if key.startswith("run") else 'run = ["/bin/true"], '
    return Case(f"scripts.{stage}.{key}", value, says, tables=f"[scripts]\n{stage} = {{ {run}{keys} }}")


CASES = [
    Case("name", "Erp DB", "small letters", head='name = "Erp DB"'),
    Case("enabled", "yes", "true or false", head='enabled = "yes"'),
    Case("enabeld", None, "did you mean 'enabled'?", head="enabeld = true"),
    Case("time_zone", "Europe/Rom", "'Europe/Rome'", head='time_zone = "Europe/Rom"'),
    Case("time_zone", "europe/rome", "'Europe/Rome'", head='time_zone = "europe/rome"'),
    Case("time_zone", "UTC+2", "IANA", head='time_zone = "UTC+2"'),
    Case("objective.point", "60 hours", "'30m'", head='objective = { point = "60 hours" }'),
    Case("objective.bootable", 4, "in quotes", head="objective = { bootable = 4 }"),
    Case("group.name", "ERP", "small letters", head='group = { name = "ERP" }'),
    Case("group.order", -1, "from 0 to 9999", head='group = { name = "erp", order = -1 }'),
    Case("group.wait", "udp:53", "tcp:PORT", head='group = { name = "erp", wait = "udp:53" }'),
    Case("group.timeout", "5 min", "'30m'", head='group = { name = "erp", timeout = "5 min" }'),
    Case("source", None, "exactly one of agent, vm and image", source='agent = "a"\nimage = "/i.qcow2"'),
    Case("source.agent", "erp db", "letters, digits", source='agent = "erp db"'),
    Case("source.vm.host", "-", "bootpoint host list", source='vm = { host = "-", name = "erp" }'),
    Case("source.vm.name", None, "add source.vm.name", source='vm = { host = "kvm1" }'),
    Case("source.image", "i.qcow2", "absolute path", source='image = "i.qcow2"'),
    Case("source.consistency", "apps", "did you mean 'app'?", source='consistency = "apps"'),
    Case("source.disks", "every", '"all"', source='disks = "every"'),
    Case(
        "source.disks[0].slot", "System Disk", "small letters", source='disks = [{slot = "System Disk", id = "path:a"}]'
    ),
    Case(
        "source.disks[1].slot",
        "s",
        "taken",
        source='disks = [{slot = "s", id = "path:a"}, {slot = "s", id = "path:b"}]',
    ),
    Case("source.disks[0].id", "seral:S3", "'serial:'", source='disks = [{slot = "s", id = "seral:S3"}]'),
    Case("source.skip[0]", "hibernate", "did you mean 'hibernation'?", source='skip = ["hibernate"]'),
    Case("target[0].host", "kvm 1", "bootpoint host list", target='[[target]]\nhost = "kvm 1"'),
    Case("target[0].pool", "a b", "letters, digits", target='pool = "a b"'),
    Case("target[0].points", 31, "from 3 to 30", target="points = 31"),
    Case("target[0].point", None, "did you mean 'points'?", target="point = 5"),
    Case("target[0].lag_limit", "1s", "between 1m", target='lag_limit = "1s"'),
    Case("target[0].vm.name", "a/b", "letters, digits", target='vm = { name = "a/b" }'),
    Case("target[0].vm.cpus", 0, "from 1 to 1024", target="vm = { cpus = 0 }"),
    Case("target[0].vm.memory", "16 G", "'16GiB'", target='vm = { memory = "16 G" }'),
    Case("target[0].vm.firmware", "efi", "did you mean 'uefi'?", target='vm = { firmware = "efi" }'),
    Case("target[0].storage.name", "a\nb", "one line", target='storage = { name = "a\\nb" }'),
    Case("target[0].storage.folder", "../x", "below the storage", target='storage = { folder = "../x" }'),
    Case("target[0].storage.disk_name", "{vm}-{disk}", "{slot}", target='storage = { disk_name = "{vm}-{disk}" }'),
    Case(
        "target[0].storage.provisioning", "thinn", "did you mean 'thin'?", target='storage = { provisioning = "thinn" }'
    ),
    Case("target[0].storage.bus", "virtio-scsi", "did you mean 'virtio'?", target='storage = { bus = "virtio-scsi" }'),
    Case("target[0].storage.resource_pool", 7, "in quotes", target="storage = { resource_pool = 7 }"),
    Case("target[0].nic[0].network", "", "one line", target='[[target.nic]]\nnetwork = ""'),
    Case("target[0].nic[0].model", "e 1000", "device model", target='[[target.nic]]\nmodel = "e 1000"'),
    Case("target[0].nic[0].mac", "newest", "did you mean 'new'?", target='[[target.nic]]\nmac = "newest"'),
    Case("target[0].nic[0].connect", "on", "true or false", target='[[target.nic]]\nconnect = "on"'),
    Case(
        "target[0].nic[0].ip.mode", "statc", "did you mean 'static'?", target='[[target.nic]]\nip = { mode = "statc" }'
    ),
    Case(
        "target[0].nic[0].ip.address",
        "10.9.0.300/24",
        "10.9.0.300",
        target='[[target.nic]]\nip = { mode = "static", address = "10.9.0.300/24" }',
    ),
    Case(
        "target[0].nic[0].ip.gateway",
        "10.9.1",
        "10.9.1",
        target='[[target.nic]]\nip = { mode = "static", address = "10.9.0.3/24", gateway = "10.9.1" }',
    ),
    Case(
        "target[0].nic[0].ip.dns[0]",
        "dns.example.org",
        "dns.example.org",
        target='[[target.nic]]\nip = { mode = "static", address = "10.9.0.3/24", dns = ["dns.example.org"] }',
    ),
    scheduled(".weekly[0]", "thursday", "did you mean 'thu'?", 'weekly = ["thursday"]'),
    scheduled(".monthly[0]", "lst", "did you mean 'last'?", 'monthly = ["lst"]'),
    scheduled(".monthly[0]", 32, "from 1 to 31", "monthly = [32]"),
    scheduled(".once", "2036-12-01T22:00:00+00:00", "time_zone", "once = 2036-12-01T22:00:00Z"),
    scheduled(".window", '["07:00", "07:00"]', "no part of the day", 'weekly = ["mon"]\nwindow = ["07:00", "07:00"]'),
    scheduled(".window", '["7am", "8:00"]', "HH:MM", 'weekly = ["mon"]\nwindow = ["7am", "8:00"]'),
    scheduled(".every", "2h", "longer than the window", 'weekly = ["mon"]\nwindow = ["07:00", "08:00"]\nevery = "2h"'),
    scheduled(
        ".effective",
        "a list",
        "must end after it begins",
        'weekly = ["mon"]\neffective = [2036-12-01T00:00:00, 2035-12-01T00:00:00]',
    ),
    scheduled("", None, "exactly one of weekly, monthly and once", 'window = ["07:00", "08:00"]'),
    Case("time_zone", None, "add time_zone", tables='[[schedule]]\nweekly = ["mon"]'),
    Case("run.on_shutdown.enabled", 1, "true or false", tables="[run]\non_shutdown = { enabled = 1 }"),
    Case("run.on_shutdown.deadline", "60", "'30m'", tables='[run]\non_shutdown = { deadline = "60" }'),
    Case("run.on_restart", "never", "true or false", tables='[run]\non_restart = "never"'),
    Case("run.retry.times", 101, "from 0 to 100", tables="[run]\nretry = { times = 101 }"),
    Case("run.retry.wait", "5 minutes", "'30m'", tables='[run]\nretry = { wait = "5 minutes" }'),
    Case("run.catch_up", "24 h ago", "'30m'", tables='[run]\ncatch_up = "24 h ago"'),
    script("before_snapshot", "run[0]", "db-pause", "full path", 'run = ["db-pause"]'),
    script("before_snapshot", "user", "a b", "user's name", 'user = "a b"'),
    script("before_snapshot", "timeout", 60, "in quotes", "timeout = 60"),
    script("before_snapshot", "abort", "no", "true or false", 'abort = "no"'),
    script("after_snapshot", "run", None, "write run = ", 'user = "root"'),
    script("after_snapshot", "usr", None, "did you mean 'user'?", 'usr = "root"'),
    script("after_snapshot", "user", 0, "user's name", "user = 0"),
    script("after_snapshot", "timeout", "0s", "between 1s", 'timeout = "0s"'),
    script("after_snapshot", "abort", 0, "true or false", "abort = 0"),
    script("after_point", "run[0]", "./tell", "full path", 'run = ["./tell"]'),
    script("after_point", "user", "0", "user's name", 'user = "0"'),
    script("after_point", "timeout", "2days", "'30m'", 'timeout = "2days"'),
    script("after_point", "abort", "abort", "true or false", 'abort = "abort"'),
    Case("limits.nice", 20, "from 0 to 19", tables="[limits]\nnice = 20"),
    Case("limits.read_bytes_per_second", "10MiB", "whole number", tables='[limits]\nread_bytes_per_second = "10MiB"'),
    Case(
        "limits.network_kb_per_second[0].from",
        "8",
        "HH:MM",
        head=ZONE,
        tables='[limits]\nnetwork_kb_per_second = [{ from = "8", to = "18:00", value = 1 }]',
    ),
    Case(
        "limits.network_kb_per_second[0].to",
        None,
        "both from and to",
        head=ZONE,
        tables='[limits]\nnetwork_kb_per_second = [{ from = "08:00", value = 1 }]',
    ),
    Case(
        "limits.network_kb_per_second[0].value",
        -1,
        "whole number",
        tables="[limits]\nnetwork_kb_per_second = [{ value = -1 }]",
    ),
    Case("check.verify", "nevr", "did you mean 'never'?", tables='[check]\nverify = "nevr"'),
    Case("check.boot", "daily", "'never'", tables='[check]\nboot = "daily"'),
    Case("notify.mail.to[0]", "ops@", "ops@example.org", tables='[notify]\nmail = { to = ["ops@"] }'),
    Case(
        "notify.mail.to[0]",
        "Ops <ops@x.org>",
        "ops@example.org",
        tables='[notify]\nmail = { to = ["Ops <ops@x.org>"] }',
    ),
    Case(
        "notify.mail.on", "fail", "did you mean 'failure'?", tables='[notify]\nmail = { to = ["o@x.org"], on = "fail" }'
    ),
    Case(
        "notify.webhook.url", "htps://h/x", "did you mean 'https'?", tables='[notify]\nwebhook = { url = "htps://h/x" }'
    ),
    Case(
        "notify.webhook.url",
        "https://h:port/x",
        "https://hooks.example.org",
        tables='[notify]\nwebhook = { url = "https://h:port/x" }',
    ),
    Case(
        "notify.webhook.on",
        "always",
        "'success', 'failure', 'both'",
        tables='[notify]\nwebhook = { url = "https://h/x", on = "always" }',
    ),
]


def problems_of(text: str) -> tuple[BootpointError, ...]:
    with pytest.raises(SpecError) as caught:
        read_toml(text, "erp.toml")
    return caught.value.problems


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.key}={case.value}")
def test_an_error_names_key_value_and_the_way_out(case: Case) -> None:
    (problem,) = problems_of(case.text)
    assert (problem.code, problem.key, problem.value) == (Code.SPEC_INVALID, case.key, case.value)
    assert f"erp.toml: {case.key}" in problem.message
    assert case.says in f"{problem.message} {problem.hint}"


def test_every_key_of_the_contract_has_a_case() -> None:
    full = re.findall(r"```toml\n(.*?)```", (DOCS / "job.md").read_text(), re.DOTALL)[1]
    wanted = set(_keys(as_json(read_toml(full))))
    tried = {case.plain_key for case in CASES} | {"notify.webhook.secret_file"}  # a secret in its place: below
    assert {key for key in wanted if not any(f"{each}.".startswith(f"{key}.") for each in tried)} == set()


def _keys(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _keys(item, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for item in value:
            yield from _keys(item, path)
    else:
        yield path


def test_the_keys_that_are_explained_are_those_that_are_read() -> None:
    full = re.findall(r"```toml\n(.*?)```", (DOCS / "job.md").read_text(), re.DOTALL)[1]
    below = re.compile(r"^source\.(vm|disks)\..*|^limits\.network_kb_per_second\..*")
    read = {below.sub("", key) for key in _keys(as_json(read_toml(full)))}
    explained = {f"{path}.{key.name}".lstrip(".") for path, section in SECTIONS.items() for key in section.keys}
    lists = {"source.vm", "source.disks", "limits.network_kb_per_second"}
    assert explained - lists == read - {""} - lists


# --- secrets

#: What each secret below holds, and no message may.
HIDDEN = "hunter2"

KEY_BLOCK = f"-----BEGIN OPENSSH PRIVATE KEY-----\\n{HIDDEN}\\n-----END OPENSSH PRIVATE KEY-----"

SECRETS = [
    ("password", HEAD + f'password = "{HIDDEN}"\n' + SOURCE + TARGET),
    ("target[0].ssh_key_passphrase", HEAD + SOURCE + TARGET + f'ssh_key_passphrase = "{HIDDEN}"\n'),
    ("notify.webhook.secret", f'[notify]\nwebhook = {{ url = "https://h/x", secret = "{HIDDEN}" }}'),
    ("notify.webhook.secret_file", f'[notify]\nwebhook = {{ url = "https://h/x", secret_file = "{HIDDEN}" }}'),
    ("notify.webhook.secret_file", f'[notify]\nwebhook = {{ url = "https://h/x", secret_file = "{KEY_BLOCK}" }}'),
    ("notify.webhook.url", f'[notify]\nwebhook = {{ url = "https://bp:{HIDDEN}@h/x" }}'),
    ("notify.webhook.url", f'[notify]\nwebhook = {{ url = "https://{HIDDEN}@h/x" }}'),
    ("notify.webhook.url", f'[notify]\nwebhook = {{ url = "https://h/x?token={HIDDEN}" }}'),
    ("notify.webhook.url", f'[notify]\nwebhook = {{ url = "https://h/x?a=1&X-Api-Key={HIDDEN}" }}'),
    ("scripts.after_point.run[1]", f'[scripts]\nafter_point = {{ run = ["/bin/x", "--password={HIDDEN}"] }}'),
    ("scripts.after_point.run[2]", f'[scripts]\nafter_point = {{ run = ["/bin/x", "--token", "{HIDDEN}"] }}'),
    ("scripts.after_point.run[2]", f'[scripts]\nafter_point = {{ run = ["/bin/sh", "-c", "PGPASSWORD={HIDDEN} x"] }}'),
    ("scripts.after_point.run[1]", f'[scripts]\nafter_point = {{ run = ["/bin/x", "mysql://u:{HIDDEN}@h/db"] }}'),
    (
        "scripts.after_point.run[2]",
        f'[scripts]\nafter_point = {{ run = ["/bin/x", "-H", "Authorization: Bearer {HIDDEN}"] }}',
    ),
    ("name", f'name = "token={HIDDEN}"\n' + SOURCE + TARGET),
    (None, f"# -----BEGIN RSA PRIVATE KEY-----\n# {HIDDEN}\n" + HEAD + SOURCE + TARGET),
]


@pytest.mark.parametrize(("key", "text"), SECRETS, ids=range(len(SECRETS)))
def test_a_secret_is_refused_with_the_way_out_and_never_repeated(key: str | None, text: str) -> None:
    whole = text if SOURCE in text else HEAD + SOURCE + TARGET + text
    with pytest.raises(SpecError) as caught:
        read_toml(whole, "erp.toml")
    first = caught.value.problems[0]
    assert (first.code, first.key) == (Code.SECRET_IN_SPEC, key)
    assert "file" in (first.hint or "") or "host set" in (first.hint or "")
    said = "".join(f"{problem.message}{problem.hint}{problem.as_json()}" for problem in caught.value.problems)
    assert HIDDEN not in f"{said}{caught.value}{caught.value.as_json()}"


@pytest.mark.parametrize(
    "argument",
    [
        "--password-file=/etc/pw",
        "--password=/etc/pw",
        "ssh://backup@host/x",
        "compass=north",
        "--token",
        "PASSWORD=$PW",
    ],
)
def test_what_only_names_a_secret_is_taken(argument: str) -> None:
    text = HEAD + SOURCE + TARGET + f'[scripts]\nafter_point = {{ run = ["/bin/x", "{argument}"] }}'
    spec = read_toml(text)
    assert spec.scripts.after_point is not None
    assert spec.scripts.after_point.run[1] == argument


@pytest.mark.parametrize("address", ["ops@example.org", "a.b+c@sub-domain.example", "root@localhost"])
def test_mail_addresses_are_taken(address: str) -> None:
    spec = read_json(
        {"name": "e", "source": {"agent": "e"}, "target": [{"host": "h"}], "notify": {"mail": {"to": [address]}}}
    )
    assert spec.notify.mail is not None
    assert spec.notify.mail.to == (address,)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("Europe/Rom", "Europe/Rome"), ("THU", "thu"), ("thursday", "thu"), ("memry", "memory"), ("qqq", None), (7, None)],
)
def test_the_nearest_name(wrong: object, right: str | None) -> None:
    assert nearest(wrong, ["Europe/Rome", "Europe/Riga", "thu", "tue", "memory"]) == right
