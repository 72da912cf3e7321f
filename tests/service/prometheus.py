"""Debian's Prometheus over an installation of a test: the files of ``ops/prometheus``, with time that goes faster."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bootpoint_ops.monitoring.boards import BOARDS, board_text
from bootpoint_ops.monitoring.rule import Pace
from bootpoint_ops.monitoring.rulebook import rules_text
from tests.service.component import need
from tests.service.process import PATIENCE, Server, free_port, wait_for

#: The configuration of plain installs.
CONFIGURATION = Path(__file__).parents[2] / "ops/prometheus/prometheus.yml"

#: An hour becomes three seconds; but agents say something every 10 seconds, and some of that must be in each window.
PACE = Pace(factor=1 / 1200, least_window=25.0, least_wait=1.0, least_age=20.0)

#: Seconds between scrapes, and between evaluations of the rules.
INTERVAL = 1

#: Age in seconds from which on a sample is too old to be shown, 5 minutes by default.
LOOKBACK = 5

#: What Grafana would put in place of its variables; a job's name is the test's.
VARIABLES = {"$__rate_interval": "30s", "$host": ".*", "$pool": ".*", "$agent": ".*"}


def panel_expressions(job: str) -> set[str]:
    """Return every expression of every panel of all boards, as Grafana asks for it with that job chosen."""
    found = set()
    for name in BOARDS:
        for panel in json.loads(board_text(name))["panels"]:
            found |= {target["expr"] for target in panel.get("targets", [])}
    return {filled(text, job) for text in found}


def filled(expression: str, job: str) -> str:
    """Return an expression with values in place of Grafana's variables."""
    for variable, value in {**VARIABLES, "$job": job}.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    assert "vector(" not in expression
    return expression


@dataclass
class Prometheus:
    """A running Prometheus.

    Attributes:
        server: Its process.
        port: Where it answers.
        seen: Alerts that have fired, by name.
    """

    server: Server
    port: int
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)

    def _api(self, path: str, **words: str) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(words)}"
        with opener.open(url, timeout=PATIENCE) as answer:
            return json.load(answer)["data"]

    def ready(self) -> bool:
        """Tell whether it answers."""
        return bool(self._api("status/runtimeinfo"))

    def query(self, expression: str) -> list[float]:
        """Return the numbers of an expression at this moment; those that aren't any (0 / 0) are left out."""
        found = [float(sample["value"][1]) for sample in self._api("query", query=expression)["result"]]
        return [value for value in found if not math.isnan(value)]

    def firing(self) -> dict[str, list[dict[str, Any]]]:
        """Return the alerts that fire, by name."""
        found: dict[str, list[dict[str, Any]]] = {}
        for alert in self._api("alerts")["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert)
        return found

    def record(self, over: threading.Event) -> None:
        """Keep what fires in ``seen``, until it is over; what is short is missed by nobody."""
        while not over.wait(INTERVAL / 2):
            with contextlib.suppress(OSError):
                self.seen.update({name: alerts[0] for name, alerts in self.firing().items()})

    def wait_seen(self, *names: str) -> dict[str, dict[str, Any]]:
        """Wait until each of these has fired since ``seen`` was emptied, and return what each said."""
        self._wait(lambda: set(names) <= set(self.seen), lambda: f"{sorted(set(names) - set(self.seen))} to fire")
        return {name: self.seen[name] for name in names}

    def wait_clear(self, *names: str) -> None:
        """Wait until each of these has been seen not to fire."""
        left = set(names)

        def look() -> bool:
            left.intersection_update(self.firing())
            return not left

        self._wait(look, lambda: f"{sorted(left)} to end")

    def _wait(self, look: Callable[[], bool], what: Callable[[], str]) -> None:
        try:
            wait_for(look, "alerts", 3 * PATIENCE)
        except TimeoutError:
            raise TimeoutError(f"waited in vain for {what()}; firing: {sorted(self.firing())}") from None


def configuration(ports: Mapping[str, int]) -> str:
    """Return the configuration of plain installs with the ports of a test, by what listens there in a real one."""
    text = CONFIGURATION.read_text()
    for usual, port in {"9109": ports["exporter"], "15692": ports["broker"]}.items():
        text = text.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{port}")
    content = yaml.safe_load(text)
    content["global"] = {"scrape_interval": f"{INTERVAL}s", "evaluation_interval": f"{INTERVAL}s"}
    del content["alerting"]
    for job in content["scrape_configs"]:
        for discovery in job.get("http_sd_configs", []):
            discovery["refresh_interval"] = "2s"
    return yaml.dump(content)


@contextmanager
def prometheus(directory: Path, ports: Mapping[str, int]) -> Iterator[Prometheus]:
    """Run Prometheus until the end of the test."""
    need("prometheus")
    (directory / "prometheus.yml").write_text(configuration(ports))
    (directory / "bootpoint.rules.yml").write_text(rules_text(PACE))
    port = free_port()
    command = [
        "prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}", f"--query.lookback-delta={LOOKBACK}s",
    ]  # fmt: skip
    made = Prometheus(Server(command, log=directory / "prometheus.log"), port)
    try:
        made.server.start(made.ready, "Prometheus")
        over = threading.Event()
        recorder = threading.Thread(target=made.record, args=(over,), name="alerts")
        recorder.start()
        try:
            yield made
        finally:
            over.set()
            recorder.join()
    finally:
        made.server.stop()
