"""Measure everything, print the table, and write docs/benchmarks.md."""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from bootpoint_common.units import GiB, MiB
from bootpoint_ops.exposition import pause_after
from tests.bench import (
    case,
    conversion,
    exporter,
    fleet,
    history,
    life,
    schedule,
    smb,
    tracking,
    used,
    verification,
    vhdx,
)
from tests.bench.report import Line, Report
from tests.bench.rig import Rig, rig, scratch
from tests.bench.source import RATIO, Disk
from tests.service import crowd, takeover

#: Longest that the whole may take, in seconds; then it ends everything that it started.
LONGEST, LONGEST_QUICK = 2400, 600

PAGE = Path(__file__).parents[2] / "docs/benchmarks.md"

CASES = (
    "full", "increment", "tracker", "verify", "used", "scan", "memory", "backlog", "life", "start", "schedule",
    "history", "exporter", "fleet", "smb", "vhdx",
)  # fmt: skip


def main() -> int:
    """Run the measurements that the command line asks for; returns 1 when a bar is missed."""
    options = _options()
    # Whatever hangs, this ends: the exception passes through every context, and each ends what it started.
    signal.signal(signal.SIGALRM, _too_long)
    signal.signal(signal.SIGTERM, _too_long)
    signal.alarm(LONGEST_QUICK if options.quick else LONGEST)
    rng = random.Random(options.seed)
    rounds = options.rounds or (2 if options.quick else 7)
    size, data = (2 * GiB, 600 * MiB) if options.quick else (8 * GiB, 2400 * MiB)
    report = Report(f"disk of {size // GiB} GiB with {data / GiB:.1f} GiB of data", list(options.only))
    with scratch(options.tmpfs) as storage, scratch(options.sources) as sources:
        bench = Bench(report, rng, rounds, Disk(sources / "disk.raw", size_bytes=size, data_bytes=data))
        bench.grains = 5_000 if options.quick else 100_000
        if {"full", "increment", "verify"} & set(options.only):
            report.title += f" (zstd level 1 makes 1/{bench.disk.build():.2f} of it; mixed for 1/{RATIO})"
        disks = [bench.disk.path, bench.stale, bench.huge, bench.waiting, bench.deep, *bench.followed]
        with rig(storage, disks) as made:
            for name in options.only:
                getattr(bench, name)(made)
                report.missing.remove(name)
                if not options.quick and set(options.only) == set(CASES):
                    PAGE.write_text(report.markdown())
    print("\n" + report.markdown())
    return 0 if report.met else 1


@dataclass
class Bench:
    """The cases, each with its bars; a method for each name of `CASES`."""

    report: Report
    rng: random.Random
    rounds: int
    disk: Disk
    grains: int = 0

    @property
    def stale(self) -> Path:
        """The disk whose free blocks hold what was deleted."""
        return self.disk.path.with_name("stale.raw")

    @property
    def huge(self) -> Path:
        """The huge disk, made when it is measured."""
        return self.disk.path.with_name("huge.raw")

    @property
    def waiting(self) -> Path:
        """The disk whose stream nobody reads."""
        return self.disk.path.with_name("waiting.raw")

    @property
    def deep(self) -> Path:
        """The disk of the replica with as many points as it can have."""
        return self.disk.path.with_name("deep.raw")

    @property
    def followed(self) -> tuple[Path, Path]:
        """Links to the devices whose writes are followed."""
        return self.disk.path.with_name("small.dev"), self.disk.path.with_name("large.dev")

    def full(self, made: Rig) -> None:
        """Full copies against nbdcopy."""
        results, share = case.full(made, self.disk, self.rounds)
        ratios = results.faster("bootpoint", "nbdcopy")
        self.report.at_least("full copy, speed / nbdcopy's", ratios, 0.25, _beside(results, "nbdcopy"))
        self.report.at_most("full copy, bytes on the wire / data", share, 0.45, "", "")
        self._profile("full copy", results)

    def increment(self, made: Rig) -> None:
        """Increments against rsync, and against copying anew."""
        results, share = case.increment(made, self.disk, self.rounds, self.rng)
        for peer, bar in (("rsync", 5.0), ("nbdcopy recopy", 2.5)):
            name = f"increment of 5 % at random, speed / {peer}'s"
            self.report.at_least(name, results.faster("bootpoint", peer), bar, _beside(results, peer))
        self.report.add(Line("increment, bytes on the wire / changed bytes", f"{share:.3f}", beside="random bytes"))
        self._profile("increment", results)

    def tracker(self, made: Rig) -> None:
        """Increments of a followed disk by its size and against a hash scan, and what following costs a writer."""
        results = tracking.increments(made, self.followed, self.rounds, self.rng)
        what = f"increment of {tracking.CHANGED // MiB} MiB"
        larger = results.seconds("16 GiB") / results.seconds("2 GiB")
        beside = "medians; " + _beside_of(results, "16 GiB", "2 GiB")
        self.report.at_most(f"{what} with ebpf, time on 16 GiB / on 2 GiB", larger, 1.2, "", beside)
        beside = _beside_of(results, "16 GiB", "16 GiB by hash")
        ratios = results.faster("16 GiB", "16 GiB by hash")
        self.report.at_least(f"{what} on 16 GiB, speed with ebpf / by hash", ratios, 4.0, beside)
        cost = tracking.overhead(self.disk.path.parent, self.rng)
        share = (statistics.median(cost.ratios) - 1) * 100
        spread = f"{(min(cost.ratios) - 1) * 100:.1f} to {(max(cost.ratios) - 1) * 100:.1f}"
        beside = f"{len(cost.ratios)} pairs, {spread}; a write takes {cost.write_us:.1f} µs"
        self.report.at_most("4 KiB random writes of fio, time that following adds, %", share, 2.0, "", beside)
        counted = cost.program_ns * cost.events / 1000
        beside = f"{cost.events:.2f} events a write, {cost.program_ns:.0f} ns each, by the kernel's own count"
        text = f"{counted / cost.write_us * 100:.2f}"
        self.report.add(Line("the same, share of a write's time in the program, %", text, beside=beside))

    def verify(self, made: Rig) -> None:
        """Verifications against b3sum over the flattened image."""
        whole, dense = verification.verification(made, self.disk, self.rounds)
        self.report.at_least(
            "verification, speed / b3sum's of the flat image", whole.faster("bootpoint", "b3sum"), 0.7,
            _beside(whole, "b3sum"),
        )  # fmt: skip
        ratios = dense.faster("bootpoint", "b3sum")
        text = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        self.report.add(Line("verification, speed / b3sum's of the data alone", text, beside=_beside(dense, "b3sum")))

    def used(self, made: Rig) -> None:
        """The first copy of an ext4 with stale free blocks."""
        size = self.disk.size_bytes
        data, stale = size // 8, size * 5 // 8
        found = used.first_copy(made, self.stale, size=size, data=data, stale=stale, rng=self.rng)
        held = f"{data / GiB:g} GiB of files and {stale / GiB:g} GiB of stale blocks"
        name = f"first copy of an ext4 of {size / GiB:g} GiB with {held}, sent"
        text = f"{found.seconds:.1f} s; {found.files} files the same through the replica, e2fsck finds nothing"
        self.report.at_most(name, found.wire_bytes / MiB, data * 1.3 / MiB, "MiB", text)

    def scan(self, made: Rig) -> None:
        """A scan of unchanged data against b3sum."""
        path = self.disk.path.with_name("warm.raw")
        results = used.hash_scan(path, self.disk.size_bytes // 4, self.rounds, self.rng)
        ratios = results.faster("bootpoint", "b3sum")
        self.report.at_least("scan of unchanged data by hash, speed / b3sum's", ratios, 0.8, _beside(results, "b3sum"))

    def _profile(self, what: str, results: case.Rounds) -> None:
        phases, parts = results.profile("bootpoint")
        self.report.add(Line(f"{what}, seconds of ours by phase", phases, beside=f"CPU seconds: {parts}"))

    def memory(self, made: Rig) -> None:
        """Memory while a huge disk is scanned that has changed everywhere."""
        found = case.memory(made, self.huge, self.grains, self.rng)
        text = f"1 TiB sparse, {found.grains} grains changed: {found.seconds:.0f} s, {found.segments} segments"
        self.report.at_most("agent's own memory (RssAnon + RssShmem)", found.agent, 200, "MiB", text)
        self.report.at_most("worker's own memory", found.worker, 250, "MiB", text)

    def backlog(self, made: Rig) -> None:
        """What piles up while no worker runs."""
        held = case.backlog(made, self.waiting, self.rng)
        self.report.at_most("workers stopped: the stream holds", held.stream, held.credit, "MiB", "bar: the credit")
        growth = 2 * held.credit + 100
        self.report.at_most("workers stopped: the broker grows by", held.growth, growth, "MiB", "resident memory")

    def life(self, made: Rig) -> None:
        """Merging a point, committing and reading at the greatest depth."""
        place = self.disk.path.parent  # a real file system: on tmpfs nothing has to become durable
        merged = life.merge(made, place, self.rounds, self.rng)
        beside = f"{len(merged.ratios)} rounds of {life.DELTA // MiB} MiB; {merged.ours:.2f} s, {merged.copy:.2f} s"
        self.report.at_most("merging a point, time / cp and sync's", statistics.median(merged.ratios), 1.5, "", beside)
        read = life.reading(made, place, self.rounds, self.rng)
        beside = f"{len(read.ratios)} rounds of {life.SIZE // MiB} MiB; {read.deep:.2f} s, {read.flat:.2f} s"
        self.report.at_least(f"reading at depth {life.DEPTH}, speed / a flat image's", read.ratios, 0.35, beside)
        seconds = life.committing(made, self.deep, self.rounds, self.rng)
        beside = f"{len(seconds)} commits, {min(seconds):.2f} to {max(seconds):.2f} s; bar in seconds"
        self.report.at_most(
            f"last seal to committed at depth {life.DEPTH}", statistics.median(seconds), 1.0, "", beside
        )

    def schedule(self, made: Rig) -> None:
        """Ten thousand jobs that are due in one minute."""
        found = schedule.storm(made)
        beside = f"one scheduler, {found.cpu:.1f} CPU s of its own; {schedule.HOSTS} hosts, {found.promised} places"
        what = f"{schedule.JOBS} jobs due in one minute: seconds until all are admitted or in line"
        self.report.at_most(what, found.seconds, 15, "", beside)
        beside = f"all next runs planned in {found.planned:.1f} s"
        self.report.at_most("scheduler's own memory meanwhile", found.memory / MiB, 200, "MiB", beside)
        beside = f"{schedule.HOSTS * schedule.PLACES} places that are free at once, the others in line"
        what = "free places: seconds until the next ones of the line have them"
        self.report.at_most(what, found.next_line, 2, "", beside)
        self.report.add(Line("state of all jobs read (v_job), seconds", f"{found.listed:.2f}"))

    def start(self, made: Rig) -> None:
        """A start by the light conversion, and one without."""
        found = conversion.measure(made, self.rounds)
        rounds = f"{len(found.own)} rounds, median"
        create = f"{rounds}; libvirt's call: {statistics.median(found.create):.2f} s"
        own = round(statistics.median(found.own), 2)
        light = round(statistics.median(found.conversion), 2)
        self.report.at_most("start of a standby, beyond libvirt's call that creates it, seconds", own, 1.0, "", create)
        self.report.at_most("light conversion of a small Debian, seconds", light, 15, "", rounds)


    def exporter(self, made: Rig) -> None:
        """A scrape of a large installation."""
        found = exporter.measure(made, self.disk.path.parent)
        what = f"a scrape of the exporter with {crowd.JOBS:,} jobs"
        beside = f"{len(found.scrapes)} scrapes, slowest {max(found.scrapes):.0f} ms; {found.series:,} series, "
        beside += f"{found.plain_bytes / MiB:.1f} MiB, packed {found.packed_bytes / MiB:.1f} MiB"
        self.report.at_most(what, statistics.median(found.scrapes), 100, "ms", beside)
        took = statistics.median(found.pictures)
        beside = f"{len(found.pictures)} pictures; the exporter waits {pause_after(took):.0f} s between them"
        self.report.add(Line("what the exporter does for it: a picture, seconds", f"{took:.2f}", beside=beside))
        self.report.add(Line("of that, all queries, seconds", f"{statistics.median(found.queries):.2f}"))

    def history(self, made: Rig) -> None:
        """Status and pages of the history of a large installation."""
        found = history.measure(made, self.disk.path.parent)
        size = f"{crowd.JOBS:,} jobs and {crowd.EVENTS:,} events"
        beside = f"{found.bad} jobs not ok; the whole command: {found.command:.2f} s"
        self.report.at_most(f"status with {size}, seconds", round(found.status, 3), 1.0, "", beside)
        slowest = max(found.pages, key=lambda page: found.pages[page])
        beside = f"slowest of {len(found.pages)} pages, medians: by {slowest}; the newest events: "
        beside += f"{found.pages['time:desc, first']:.1f} ms"
        self.report.at_most(f"a page of the history with {size}", found.pages[slowest], 100, "ms", beside)


    def fleet(self, made: Rig) -> None:
        """Workers that are restarted, added and killed during ten runs."""
        found = fleet.measure(made, self.disk.path.parent)
        rolled = found.rolled
        what = f"all of {len(fleet.WORKERS)} workers restarted during {takeover.RUNS} runs"
        beside = f"{rolled.moved} disks applied by several processes; {rolled.failed} runs failed"
        self.report.at_most(f"{what}: points given up", rolled.aborted, 0, "", beside)
        beside = f"slowest end of a worker: {rolled.slowest:.1f} s"
        self.report.add(Line(f"{what}, seconds", f"{rolled.seconds:.1f}", beside=beside))
        beside = f"from its start, until what it applied is durable; it serves after {found.serves:.2f} s"
        self.report.at_most("a worker is added: seconds until it takes work", found.takes, 3, "", beside)
        beside = f"{found.disks} disks, until all of them have moved on"
        self.report.at_most("a worker is killed: seconds until others go on", found.killed, 10, "", beside)


    def smb(self, made: Rig) -> None:
        """Writes to an administrative share against smbclient's."""
        for encrypted in (False, True):
            found = smb.measure(made.fleet.storage, self.rounds, self.rng, encrypted=encrypted)
            how = "encrypted" if encrypted else "signed"
            put = statistics.median(found.put)
            for name, bar in (("sequential", 0.6), ("random", 0.4)):
                speed = smb.SIZE / MiB / statistics.median(getattr(found, name))
                beside = f"{len(found.put)} rounds; {speed:.0f} MiB/s, smbclient {smb.SIZE / MiB / put:.0f} MiB/s"
                what = f"{how} SMB 3.1.1, {name} writes of {'1 MiB' if name == 'sequential' else '64 KiB'}"
                self.report.at_least(f"{what}, speed / smbclient's put", found.faster(name), bar, beside)

    def vhdx(self, made: Rig) -> None:
        """Updates of a leaf of VHDX against plain writes, and over SMB against smbclient."""
        local = vhdx.measure(self.disk.path.parent, self.rounds, self.rng)
        shared = vhdx.over_samba(made.fleet.storage, self.rounds, self.rng)
        for found, size, where, peer, bars in (
            (local, vhdx.SIZE, "", "pwrite", (0.5, 0.5)),
            (shared, smb.SIZE, " over signed SMB 3.1.1", "smbclient's put", (0.6, 0.4)),
        ):
            for name, block, bar in (("sequential", "1 MiB", bars[0]), ("random", "64 KiB", bars[1])):
                ours, other = (statistics.median(times) for times in zip(*getattr(found, name), strict=True))
                beside = f"{self.rounds} rounds of {size // MiB} MiB; {ours:.2f} s, {peer} {other:.2f} s; "
                beside += f"flushed every {vhdx.FLUSHED // MiB} MiB"
                what = f"updating a leaf of VHDX{where}, {name} blocks of {block}, speed / {peer}"
                self.report.at_least(what, found.faster(name), bar, beside)


def _beside(results: case.Rounds, peer: str) -> str:
    return _beside_of(results, "bootpoint", peer)


def _beside_of(results: case.Rounds, *names: str) -> str:
    return f"{len(results.of[names[0]])} rounds; " + "; ".join(
        f"{who} {results.seconds(who):.2f} s, {results.cpu_seconds(who):.1f} CPU s" for who in names
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small disk, few rounds; writes no page")
    parser.add_argument("--rounds", type=int, default=0, help="interleaved rounds (default 7)")
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES, help="what to measure (default all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"), help="where replicas go (default /dev/shm)")
    parser.add_argument("--sources", type=Path, default=Path("/var/tmp"), help="where disks are (default /var/tmp)")
    return parser.parse_args()


def _too_long(number: int, frame: object) -> None:
    raise TimeoutError(f"ended by signal {signal.Signals(number).name}")


if __name__ == "__main__":
    sys.exit(main())
