"""An installation by docker-compose.yml, brought up by what docs/deploy.md says, with two agents and a KVM host.

What differs from a reader's: podman for Docker, stand-ins for images of others and no Grafana (`containers`); and times
in alert rules that are seconds instead of minutes.
"""

from __future__ import annotations

import json
import re
import secrets
import shlex
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.service.containers import REPOSITORY, Engine, copy_checkout
from tests.service.process import PATIENCE, wait_for

PAGE = REPOSITORY / "docs/deploy.md"

#: Agents of the page.
AGENTS = ("erp-db", "web")

#: Seconds for a block; the first one that builds images has to fetch packages.
BLOCK_PATIENCE = 900.0

#: Grafana is in no registry that can be reached here; the boards are tested by themselves.
WITHOUT_GRAFANA = "services: { grafana: { profiles: [unreachable] } }\n"

#: How long an alert waits here, instead of 5 minutes and more: rules of minutes are tested with promtool's clock.
SOON = {r"> 300\b": "> 15", r"\bfor: \d+m": "for: 2s", r"evaluation_interval: \d+s": "evaluation_interval: 2s",
        r"scrape_interval: \d+s": "scrape_interval: 2s"}  # fmt: skip

#: What a shell keeps for later blocks: variables and functions.
_KEPT = re.compile(r"^[A-Z_]+=\S*$|^function \w+ \{ .* \}$|^function \w+ \{ #(?:.|\n)*?^\}$", re.MULTILINE)


def blocks(page: Path = PAGE) -> list[str]:
    """Return the blocks of the page that are pasted."""
    return re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@dataclass
class Composed:
    """A clone in which the page is pasted, and what tests ask of the result.

    Attributes:
        engine: The containers.
        directory: The clone.
        given: What takes the place of the page's variables.
        environment: The shell's.
    """

    engine: Engine
    directory: Path
    given: dict[str, str]
    environment: dict[str, str]
    _before: list[str] = field(default_factory=list)

    def paste(self, block: str) -> str:
        """Run a block as a shell would that has seen the earlier ones, and return what it prints.

        Raises:
            RuntimeError: A command of it failed.
        """
        for name, value in self.given.items():
            block = re.sub(rf"^{name}=.*$", f"{name}={shlex.quote(value)}", block, flags=re.MULTILINE)
        script = "\n".join(["set -euo pipefail", *self._before, block])
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.directory, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=BLOCK_PATIENCE, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{block}\nended with {done.returncode}:\n{done.stdout}\n{self.logs()}")
        # Of a block that does something, later ones see its variables and functions only.
        self._before += _KEPT.findall(block)
        return done.stdout

    def cli(self, *words: str) -> Any:
        """Run a command of the command line and return its JSON."""
        quoted = shlex.join(["bootpoint", *words, "-o", "json"])
        return json.loads(self.engine.podman("exec", self.container("scheduler"), "sh", "-c", quoted))

    def container(self, service: str, number: int = 1) -> str:
        """Return the name of a service's container."""
        return f"{self.environment['COMPOSE_PROJECT_NAME']}_{service}_{number}"

    def kill(self, container: str) -> None:
        """End a container's process as a crash would."""
        pid = self.engine.podman("inspect", "--format", "{{.State.Pid}}", container).strip()
        subprocess.run(["kill", "-KILL", pid], check=True)

    def samples(self, expression: str) -> list[dict[str, Any]]:
        """Return what Prometheus answers to an expression at this moment."""
        return list(self._prometheus("query", query=expression)["result"])

    def firing(self) -> set[tuple[str, str]]:
        """Return name and agent of the alerts that fire."""
        alerts = self._prometheus("alerts")["alerts"]
        return {(a["labels"]["alertname"], a["labels"].get("agent", "")) for a in alerts if a["state"] == "firing"}

    def _prometheus(self, what: str, **query: str) -> Any:
        url = f"http://{self.given['LOCAL']}:9090/api/v1/{what}?{urllib.parse.urlencode(query)}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def wait_for(self, look: Any, what: str, seconds: float = PATIENCE) -> Any:
        """Wait until a look finds something; the logs explain why it did not."""
        try:
            return wait_for(look, what, seconds)
        except TimeoutError as exc:
            raise TimeoutError(f"{exc}\n{self.logs()}") from None

    def containers(self) -> Sequence[str]:
        """Return the names of all containers of this installation, the agents' too."""
        found = self.engine.podman("ps", "--all", "--format", "{{.Names}}").split()
        ours = (f"{self.environment['COMPOSE_PROJECT_NAME']}_", *(f"agent-{name}" for name in AGENTS))
        return [name for name in found if name.startswith(ours)]

    def logs(self) -> str:
        """Return the end of every container's log, to explain a failure."""
        found = []
        for name in self.containers():
            tail = subprocess.run(
                ["podman", "logs", "--tail", "15", name], env=self.engine.environment, capture_output=True, text=True
            )
            found.append(f"=== {name}\n{tail.stdout[-1500:]}{tail.stderr[-1500:]}")
        return "\n".join(found)

    def close(self) -> None:
        """End every container, and remove volumes and networks."""
        for name in self.containers():
            self.engine.remove(name)
        project = self.environment["COMPOSE_PROJECT_NAME"]
        for kind in ("volume", "network"):
            names = self.engine.podman(kind, "ls", "--format", "{{.Name}}").split()
            for name in names:
                if name.startswith(f"{project}_") or name in {f"agent-{agent}" for agent in AGENTS}:
                    self.engine.podman(kind, "rm", "--force", name)


@contextmanager
def composed(engine: Engine, given: dict[str, str], address: str) -> Iterator[Composed]:
    """Make a clone, in which nothing has been pasted yet.

    Args:
        engine: The containers.
        given: What takes the place of the page's variables.
        address: Of this machine, where containers reach the broker.
    """
    project = f"bp{secrets.token_hex(3)}"
    with tempfile.TemporaryDirectory(prefix="bootpoint-compose-") as name:
        directory = Path(name)
        copy_checkout(directory)
        (directory / "docker-compose.override.yml").write_text(WITHOUT_GRAFANA)
        for path in (directory / "ops/prometheus").glob("*.yml"):
            text = path.read_text()
            for long, short in SOON.items():
                text = re.sub(long, short, text)
            path.write_text(text)
        environment = {**engine.environment, "COMPOSE_PROJECT_NAME": project, "BOOTPOINT_VERSION": "test"}
        given = {"NAME": "backup.example.test", "ADDRESS": address, "LOCAL": address, **given}
        made = Composed(engine, directory, given, environment)
        try:
            yield made
        finally:
            made.close()
