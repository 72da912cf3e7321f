"""Power cuts in the midst of runs, and what has to be true after each of them.

While the power is off: the journal can be read, every point in it is what its source was, none is missing that was
recorded as committed, and an open layer holds everything below its watermark. Once it is on again: the run goes on
from there, and its point is what its source was.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest

from bootpoint_common.store.run import Run
from bootpoint_common.units import GRAIN, MiB
from bootpoint_worker import reaper
from bootpoint_worker.targets.kvm import journal
from tests.service.component import absent, need
from tests.service.fleet import Fleet, fleet
from tests.service.libvirt import LibvirtHost
from tests.service.power import Power
from tests.service.powercut import PowerCutStorage
from tests.service.standby import POOL, Protected, add_kvm_host, assert_equal, assert_identical

#: Size of the protected disk.
SIZE = 24 * MiB

#: Grains that change between two runs: several flushes' worth.
CHANGED = 128

#: Size of the host's storage: a hundred points fit. Its file is sparse.
STORAGE = 2048 * MiB

#: Credit window: so small that a run has many flushes.
WINDOW = 4 * MiB

#: Moments at which the power is cut, every one in turn, and how long after it at the most, in seconds.
MOMENTS = (
    ("write", 0.05),
    ("flush", 0.01),
    ("flush:done", 0.01),
    ("commit:close", 0.02),
    ("script", 0.03),
    ("commit:publish", 0.01),
    ("commit:published", 0.03),
    ("remake:define", 0.03),
)


@dataclass
class Blackout:
    """A protected disk on a host that loses its power again and again.

    Attributes:
        fleet: The installation.
        power: The host's power.
        protected: The disk's job.
        source: The disk.
        rng: Decides what is written, and when the power is cut.
        usual: How often each moment comes in an undisturbed run.
        reached: Moments at which the power was cut.
    """

    fleet: Fleet
    power: Power
    protected: Protected
    source: Path
    rng: Random
    usual: dict[str, int] = field(default_factory=dict)
    reached: list[str] = field(default_factory=list)
    resumed: int = 0

    def prepare(self) -> None:
        """Make the first point, and a second one that shows how often each moment comes."""
        self._write()
        self.protected.protect()
        self._write()
        self.power.count()
        self.protected.protect()
        self.usual = dict(self.power.seen)

    def round(self, number: int) -> None:
        """Do a run in whose midst the power is cut."""
        self._write()
        moment, late = MOMENTS[number % len(MOMENTS)]
        run = self.protected.begin()
        # A host without power is said by the preflight, and the run does not begin: so the cut comes after it.
        begun = "SELECT 1 FROM run WHERE uid = %s AND state <> 'waiting'"
        self.fleet.wait_until(lambda: self.fleet.row(begun, run.uid))
        nth = self.rng.randint(1, max(1, self.usual[moment] // 2))
        hold = self.rng.random() < 0.5
        self.power.arm(moment, nth, hold=hold)
        assert self.power.reached.wait(60.0), f"{moment} {nth} of {self.usual[moment]} did not come"
        if not hold:
            # Not a wait for anything: the worker is to be somewhere after the moment.
            self.power.reached.clear()
            self.power.reached.wait(self.rng.uniform(0, late))
        with self.power.cut(self.rng):
            self._check_storage(run)
        self.reached.append(moment)
        self.fleet.wait(run, seconds=120.0)
        (layer,) = [file for uid, _, file in self.protected.committed() if uid == run.uid]
        assert_identical(layer, self._copy(run), self.protected.scratch / "converted.raw")

    def _write(self) -> None:
        with self.source.open("r+b") as stream:
            for grain in self.rng.sample(range(SIZE // GRAIN), CHANGED):
                stream.seek(grain * GRAIN)
                stream.write(bytes(GRAIN) if self.rng.random() < 0.1 else self.rng.randbytes(GRAIN))

    def _copy(self, run: Run) -> Path:
        return self.protected.copies[run.uid]["system"]

    def _check_storage(self, run: Run) -> None:
        replica = self.protected.directory()
        manifest = journal.decode((replica / "manifest.json").read_bytes(), host="kvm1")
        runs = {row["id"]: row["run_uid"] for row in self.fleet.rows("SELECT id, run_uid FROM boot_point")}
        for point in manifest.points:
            expected = self.protected.copies[runs[point.point_id]]
            for disk in point.disks:
                assert_equal(replica / disk.file, expected[disk.slot])
        files = {disk.file for point in manifest.points for disk in point.disks}
        assert {file.name for _, _, file in self.protected.committed()} <= files
        row = self.fleet.row(
            "SELECT d.layer, d.applied_bytes FROM boot_point_disk d JOIN boot_point p ON p.id = d.point_id"
            " WHERE p.run_uid = %s AND p.state IN ('open', 'sealed', 'committing') AND d.applied_bytes > 0",
            run.uid,
        )
        if row is not None:
            self._check_watermark(replica / row["layer"], run, row["applied_bytes"])

    def _check_watermark(self, layer: Path, run: Run, applied_bytes: int) -> None:
        """Changed grains travel in their order: as many as the watermark stands for are in the layer."""
        before, now = list(self.protected.copies.values())[-2]["system"].read_bytes(), self._copy(run).read_bytes()
        grains = [at for at in range(0, SIZE, GRAIN) if before[at : at + GRAIN] != now[at : at + GRAIN]]
        assert applied_bytes <= len(grains) * GRAIN
        raw = self.protected.scratch / "open.raw"
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(layer), str(raw)], check=True)
        shown = raw.read_bytes()
        for at in grains[: applied_bytes // GRAIN]:
            assert shown[at : at + GRAIN] == now[at : at + GRAIN], f"{layer.name} lost the grain at {at}"
        self.resumed += 1


#: Makes a protected disk on the host.
Make = Callable[[str, Random], Blackout]


@contextmanager
def blackouts(database: str, libvirt: LibvirtHost, directory: Path) -> Iterator[Make]:
    """Make an installation whose KVM host can lose its power."""
    need("root", "fuse", "loop", "libnbd", "qemu-img", "qemu-nbd")
    if find_spec("mfusepy") is None:
        absent("needs mfusepy, which this machine lacks: make setup")
    with ExitStack() as stack:
        storage = stack.enter_context(PowerCutStorage(directory / "storage", size_bytes=STORAGE))
        installation = stack.enter_context(fleet(database, directory))
        power = Power(storage)
        installation.add_worker("w1", pools=(POOL,), window_bytes=WINDOW, opener=power.target)
        host_id = add_kvm_host(installation, libvirt)

        def make(name: str, rng: Random) -> Blackout:
            source = directory / f"{name}.raw"
            with source.open("wb") as stream:
                stream.truncate(SIZE)
            disks = {"system": source}
            protected = Protected(installation, name, disks, host_id, storage.path, directory / f"{name}-copies")
            stack.callback(protected.remove)
            made = Blackout(installation, power, protected, source, rng)
            made.prepare()
            return made

        yield make


@pytest.fixture
def make(
    database: str, libvirt_host: LibvirtHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Make]:
    """Makes a protected disk on a host of the test's own."""
    # A commit that met a host that was away is tried again after half a minute.
    monkeypatch.setattr(reaper, "RESEND_SECONDS", 2.0)
    with blackouts(database, libvirt_host, tmp_path) as made:
        yield made
