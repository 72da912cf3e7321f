"""Debian's Prometheus over real jobs: every expression has data, each alert fires with a fault and ends with it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from bootpoint_common.units import GRAIN
from bootpoint_ops.monitoring.rule import Alert, heading
from bootpoint_ops.monitoring.rulebook import alerts, groups
from bootpoint_producer.trackers.ebpf import program
from tests.service.component import need
from tests.service.process import wait_for
from tests.service.prometheus import PACE, filled, panel_expressions
from tests.service.rabbitmq import VirtualHost
from tests.service.tracked import bpf_mount
from tests.service.tracker_workload import loop_device
from tests.service.watched import SIZE, WIDE, Watched, watched

PAGE = (Path(__file__).parents[2] / "docs/alerts.md").read_text()

#: Alerts of what is copied, which fire while the work goes on.
OF_POINTS = (
    "BootpointBootableObjectiveBroken", "BootpointPointObjectiveBroken", "BootpointObjectiveSlipping",
    "BootpointNoSuccess", "BootpointBootCheckFailed", "BootpointVerificationMismatch", "BootpointRetentionBlocked",
    "BootpointCreditWait", "BootpointAgentSilent", "BootpointTargetStorageFilling", "BootpointTargetStorageFull",
    "BootpointNoticesWait", "BootpointRejectedMessages",
)  # fmt: skip
OF_TRACKERS = ("BootpointTrackerMissedBlock", "BootpointTrackerFallbackLoop")
OF_BROKER = ("BootpointBrokerMemoryAlarm", "BootpointBrokerDiskAlarm")


@pytest.fixture
def subject(
    database: str, vhost: VirtualHost, tmp_path: Path, rng: Random, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Watched]:
    need("prometheus", "root", "loop", "bpf", "fio")
    with (
        bpf_mount(tmp_path) as pins,
        loop_device(tmp_path / "disk.img", SIZE) as device,
        monkeypatch.context() as patch,
    ):
        patch.setattr(program, "PINS", pins)
        with watched(database, vhost, tmp_path, rng) as made:
            made.add_workers()
            made.add_job("erp", device, points=3)
            for name in ("full", "slow", "idle"):
                disk = tmp_path / f"{name}.raw"
                with disk.open("wb") as stream:
                    stream.truncate(SIZE)
                made.add_job(name, disk)
            for name in made.jobs:
                made.write(name, 40)
                made.run(name)
            yield made


@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # as in Watched.close
def test_every_expression_has_data_and_each_alert_fires_and_ends(subject: Watched) -> None:
    healthy(subject)
    look_at(subject, "BootpointExporterDown")
    seen: set[str] = set()
    for phase in (points, trackers, processes, broker_alarms, broker_down, exporter_down):
        subject.watch.seen.clear()
        seen |= phase(subject)
    assert seen == {alert.name for alert in alerts()}
    subject.watch.wait_clear(*seen)


def healthy(subject: Watched) -> None:
    """Let everything happen that is measured; then every expression has numbers, and nothing fires."""
    for _ in range(3):
        subject.write("erp", 10)
        subject.run("erp")
    assert subject.check("erp") == "boots"
    assert subject.verify("erp") == "verified"
    for name in subject.jobs:
        subject.bootpoint("host", "check", subject.host(name).name)
    empty = expressions()

    def look() -> bool:
        empty.difference_update([text for text in empty if subject.watch.query(text)])
        return not empty

    try:
        wait_for(look, "numbers", 120)
    except TimeoutError:
        pytest.fail("no data: " + "\n".join(sorted(empty)))
    assert subject.watch.firing() == {}


def expressions() -> set[str]:
    """Return every expression of every panel and rule; of an alert what it measures."""
    rules = [rule for group in groups(PACE) for rule in group.rules]
    found = {rule.measured if isinstance(rule, Alert) else rule.expression for rule in rules}
    return {filled(text, "erp") for text in found} | panel_expressions("erp")


def look_at(subject: Watched, name: str) -> None:
    """Paste the first block that the page has for an alert, as who is woken does."""
    section = re.search(rf"^## {heading(name)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section
    (block, *_) = re.findall(r"^```sh\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)
    environment = {
        **subject.environment, "JOB": "erp", "AGENT": "erp", "HOST": subject.host("erp").name, "POOL": "fake"
    }  # fmt: skip
    done = subprocess.run(["bash", "-euc", block], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"


def fires(subject: Watched, *names: str) -> set[str]:
    """Wait until alerts fire, and require that what they say is whole."""
    for name, alert in subject.watch.wait_seen(*names).items():
        for text in alert["annotations"].values():
            assert "error" not in text, f"{name}: {text}"
            assert "<no value>" not in text, f"{name}: {text}"
    return set(names)


def points(subject: Watched) -> set[str]:
    """Everything goes wrong with points at once, and is put right."""
    subject.set("erp", objective={"point": "90s", "bootable": "90s"})
    subject.fleet.agents.pop("idle").stop()
    subject.panic("erp")
    assert subject.check("erp") == "does_not_boot"
    written = subject.points("erp")[-1]
    subject.rot("erp", written_grain(subject))
    assert subject.verify("erp") == "damaged", written
    subject.pin("erp")
    subject.slow("slow")
    subject.receiver.answers[:] = [500] * 10_000
    subject.set(
        "full",
        notify={"webhook": {"url": subject.receiver.url, "on": "failure"}},
        scripts={"before_snapshot": {"run": ["/bin/false"]}},
    )
    subject.fill("idle", 0.02)
    subject.publish_rubbish("erp", 40)
    for _ in range(2):
        subject.run("full", state="failed")
    seen = fires(subject, *OF_POINTS)
    for name in OF_POINTS:
        look_at(subject, name)

    subject.fast.set()
    subject.receiver.answers.clear()
    subject.fill("idle", 0.7)
    subject.set("full", scripts={})
    subject.execute("UPDATE notification SET not_before = now() WHERE state = 'waiting'")
    subject.fleet.start_agent("idle", [subject.disks["idle"]])
    subject.panic("erp", until=True)
    subject.unpin("erp")
    subject.write("erp", 10)
    subject.run("erp")
    assert subject.check("erp") == "boots"
    subject.watch.wait_clear(*OF_POINTS)
    subject.set("erp", objective=WIDE)
    return seen


def written_grain(subject: Watched) -> int:
    """Return a grain of the disk of erp that holds something."""
    content = subject.disks["erp"].read_bytes()
    return next(grain for grain in range(SIZE // GRAIN) if any(content[grain * GRAIN : (grain + 1) * GRAIN]))


def trackers(subject: Watched) -> set[str]:
    """Something is written past the device; then the tracker is taken out of the kernel before each run."""
    subject.write("erp", SIZE // GRAIN // 2, subject.fleet.directory / "disk.img")
    subject.run("erp")
    seen = fires(subject, "BootpointTrackerMissedBlock")
    look_at(subject, "BootpointTrackerMissedBlock")
    while "BootpointTrackerFallbackLoop" not in subject.watch.seen:
        for link in program.PINS.glob("*/*-link"):
            link.unlink()
        subject.write("erp", 2)
        subject.run("erp")
    seen |= fires(subject, "BootpointTrackerFallbackLoop")
    look_at(subject, "BootpointTrackerFallbackLoop")
    subject.watch.wait_clear(*OF_TRACKERS)
    return seen


def processes(subject: Watched) -> set[str]:
    """No worker and no scheduler runs any more, and a run is to begin."""
    subject.stop_workers()
    begun = subject.fleet.run(subject.jobs["erp"])
    seen = fires(subject, "BootpointPoolWithoutWorkers")
    look_at(subject, "BootpointPoolWithoutWorkers")
    subject.add_workers()
    subject.fleet.wait(begun)
    subject.watch.wait_clear("BootpointPoolWithoutWorkers")
    return seen


def broker_alarms(subject: Watched) -> set[str]:
    """The broker has less memory and disk than it needs."""
    server = subject.vhost.broker
    server.ctl("set_vm_memory_high_watermark", "absolute", "1MiB")
    server.ctl("set_disk_free_limit", "999GB")
    seen = fires(subject, *OF_BROKER)
    server.ctl("set_vm_memory_high_watermark", "absolute", "1GiB")
    server.ctl("set_disk_free_limit", "100MB")
    subject.watch.wait_clear(*OF_BROKER)
    return seen


def broker_down(subject: Watched) -> set[str]:
    """The broker ends while a run is to begin, and comes back; then the run goes on."""
    names = ("BootpointBrokerDown", "BootpointOutboxLag")
    subject.vhost.broker.stop()
    begun = subject.fleet.run(subject.jobs["erp"])
    seen = fires(subject, *names)
    look_at(subject, "BootpointOutboxLag")
    subject.vhost.broker.start()
    subject.fleet.wait(begun, seconds=120)
    subject.watch.wait_clear(*names)
    return seen


def exporter_down(subject: Watched) -> set[str]:
    """The exporter is killed, and another one takes its place."""
    exporter = subject.running["exporter"]
    port = int(re.findall(r"metrics on http://127\.0\.0\.1:(\d+)/", exporter.log.read_text())[-1])
    exporter.kill()
    seen = fires(subject, "BootpointExporterDown")
    subject.start("exporter", ["exporter"], "exporter runs", metrics=port)
    subject.watch.wait_clear("BootpointExporterDown")
    return seen
