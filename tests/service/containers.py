"""Containers for the tests: Debian's podman with a storage of its own in the cache, and images without a registry.

The base image is made of Debian's packages; what docker-compose.yml takes from others (RabbitMQ, PostgreSQL,
Prometheus, the mail catcher) is stood in for by images of Debian's packages under the same names, with the same
variables, places and ports (tests/images). Images stay in the cache, so that only what has changed is made anew.
"""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from bootpoint_ops.guest_tree import SUITE, cache_directory
from tests.service.component import need
from tests.service.process import run

REPOSITORY = Path(__file__).parents[2]

#: What stands in for others, and the programs that make Debian's podman what readers have.
IMAGES = REPOSITORY / "tests/images"

COMPOSE = REPOSITORY / "docker-compose.yml"

BASE = "debian:bookworm-slim"

#: Seconds for an image that isn't in the cache.
BUILD_PATIENCE = 900.0

#: crun refuses control groups in hybrid mode, and the default limits are more than a container's root may set.
ENGINE = """
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc=32768:32768"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
[network]
network_config_dir = "{directory}/networks"
"""

STORAGE = """
[storage]
driver = "overlay"
graphroot = "{directory}/storage"
runroot = "/run/bootpoint-containers"
"""


def compose_file() -> dict[str, dict[str, dict[str, object]]]:
    """Return docker-compose.yml as it is read."""
    read: dict[str, dict[str, dict[str, object]]] = yaml.safe_load(COMPOSE.read_text())
    return read


@dataclass(frozen=True)
class Engine:
    """Podman with a storage of its own.

    Attributes:
        directory: Where storage, networks and settings lie.
        environment: In which ``podman`` and ``docker`` mean it.
    """

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        settings = {"containers.conf": ENGINE, "storage.conf": STORAGE}
        for name, text in settings.items():
            (self.directory / name).write_text(text.format(directory=self.directory, files=files))
        self._write_pip_settings()
        self.environment.update(
            os.environ,
            PATH=f"{IMAGES / 'bin'}:{REPOSITORY / '.venv/bin'}:/usr/sbin:/usr/bin:/sbin:/bin",
            CONTAINERS_CONF=str(self.directory / "containers.conf"),
            CONTAINERS_STORAGE_CONF=str(self.directory / "storage.conf"),
            DISABLE_HC_SYSTEMD="true",
            TEST_BUILD=self._build_words(),
        )

    def podman(self, *words: str, timeout: float = 90.0) -> str:
        """Run a command of podman's and return what it prints.

        Raises:
            RuntimeError: It failed; the message holds its output.
        """
        return run(["podman", *words], environment=self.environment, timeout=timeout)

    def remove(self, container: str) -> None:
        """End a container and remove it with its volumes; one that ends by itself meanwhile is no hindrance."""
        words = ("rm", "--force", "--volumes", "--time", "2", container)
        try:
            self.podman(*words)
        except RuntimeError:
            self.podman(*words)

    def has(self, image: str) -> bool:
        """Tell whether there is an image of this name."""
        found = subprocess.run(["podman", "image", "exists", image], env=self.environment, check=False)
        return found.returncode == 0

    def make_images(self) -> None:
        """Make the base and the stand-ins, as far as they aren't there; one process at a time."""
        with (self.directory / "images.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.has(BASE):
                self._make_base()
            for service in compose_file()["services"].values():
                image = str(service["image"])
                source = IMAGES / image.partition(":")[0].rpartition("/")[2]
                if source.is_dir():
                    self.podman("build", "--quiet", "--tag", image, str(source), timeout=BUILD_PATIENCE)

    def _make_base(self) -> None:
        archive = self.directory / "base.tar"
        sources = Path("/etc/apt/sources.list")
        if not sources.exists():
            sources = next(Path("/etc/apt/sources.list.d").glob("debian*.sources"))
        words = ["mmdebstrap", "--variant=minbase", "--include=ca-certificates", SUITE, str(archive), str(sources)]
        run(words, timeout=BUILD_PATIENCE)
        self.podman("import", "--quiet", str(archive), BASE, timeout=BUILD_PATIENCE)
        archive.unlink()

    def _write_pip_settings(self) -> None:
        """Write what pip is told here by its variables into a file, for an image must not keep variables of a build."""
        told = {name[4:].lower().replace("_", "-"): value for name, value in os.environ.items() if name[:4] == "PIP_"}
        lines = [f"{name} = {value}\n" for name, value in told.items() if not value.startswith("/opt")]
        (self.directory / "pip.conf").write_text("[global]\n" + "".join(lines))

    def _build_words(self) -> str:
        # What a package writes among the certificates (ssl-cert) stays in the build.
        mounts = ["/etc/ssl/certs:/etc/ssl/certs:O", f"{self.directory / 'pip.conf'}:/etc/pip.conf:ro"]
        volumes = " ".join(f"--volume {mount}" for mount in mounts)
        return f"--layers --network host --isolation chroot {volumes}"

    def close(self) -> None:
        """Forget layers that no image uses any more, but those of the last hours, which the next build goes on from."""
        self.podman("image", "prune", "--force", "--filter", "until=2h")


@contextmanager
def engine() -> Iterator[Engine]:
    """Give podman with every image that isn't bootpoint's own."""
    need("root", "podman", "podman-compose", "mmdebstrap")
    made = Engine(cache_directory() / "containers")
    made.make_images()
    yield made
    made.close()


def copy_checkout(directory: Path) -> None:
    """Copy what a clone has of the files that the images and docker-compose.yml name."""
    for name in ("docker-compose.yml", ".dockerignore", "README.md", "pyproject.toml", "hatch_build.py"):
        shutil.copy(REPOSITORY / name, directory)
    for name in ("common", "producer", "worker", "ops"):
        shutil.copytree(REPOSITORY / name, directory / name, ignore=shutil.ignore_patterns("__pycache__", "*.o"))
