"""Structured logs: what a collector and what a person reads."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.config import LogFormat, LogLevel
from bootpoint_common.log import Log, bind, bound, configure

LOG = Log("bootpoint_common.example")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_line_has_event_and_bound_fields() -> None:
    stream = io.StringIO()
    configure(LogFormat.JSON, stream=stream)
    with bind(job="erp", run=4711):
        with bind(disk="system", run=4712):
            LOG.info("watermark recorded", watermark_bytes=512)
        LOG.warning("100 % done", path=Path("/a"), event="x")
    LOG.error("after")
    first, second, third = lines(stream)
    assert first.pop("at").endswith("Z")
    assert first == {
        "level": "info",
        "event": "watermark recorded",
        "logger": "bootpoint_common.example",
        "job": "erp",
        "run": 4712,
        "disk": "system",
        "watermark_bytes": 512,
    }
    assert (second["event"], second["event_"], second["path"], second["run"]) == ("100 % done", "x", "/a", 4711)
    assert "disk" not in second
    assert "job" not in third


def test_traceback_stays_on_its_line() -> None:
    stream = io.StringIO()
    configure(LogFormat.JSON, stream=stream)
    try:
        raise ValueError("no\nway")
    except ValueError:
        LOG.exception("slice failed")
    (line,) = lines(stream)
    assert line["level"] == "error"
    assert "ValueError: no\nway" in line["traceback"]


def test_text_line_quotes_what_needs_it() -> None:
    stream = io.StringIO()
    configure(LogFormat.TEXT, stream=stream)
    with bind(job="erp"):
        LOG.info("run started", reason="base lost", path="a\nb", number=1.5, nothing=None)
    (line,) = stream.getvalue().splitlines()
    assert line.endswith('run started  job=erp reason="base lost" path="a\\nb" number=1.5 nothing=None')


def test_levels_are_ours_and_libraries_only_warn() -> None:
    stream = io.StringIO()
    configure(LogFormat.JSON, LogLevel.DEBUG, stream)
    LOG.debug("seen")
    logging.getLogger("paramiko").info("unseen")
    logging.getLogger("paramiko").warning("seen %s", "too")
    logging.getLogger("pika").error("unseen: what it meets is raised, and logged by us")
    configure(LogFormat.JSON, LogLevel.WARNING, stream)
    LOG.info("unseen")
    assert [line["event"] for line in lines(stream)] == ["seen", "seen too"]


def test_thread_takes_fields_along_when_told() -> None:
    stream = io.StringIO()
    configure(LogFormat.JSON, stream=stream)

    def work(fields: dict[str, object]) -> None:
        LOG.info("bare")
        with bind(**fields):
            LOG.info("bound")

    with bind(job="erp"):
        thread = threading.Thread(target=work, args=(bound(),))
        thread.start()
        thread.join()
    bare, full = lines(stream)
    assert "job" not in bare
    assert full["job"] == "erp"
