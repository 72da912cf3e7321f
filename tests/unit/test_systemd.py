"""What systemd hears of a process: ready, alive while every vital loop moves, about to end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bootpoint_common.systemd import Manager, manager_option
from bootpoint_worker.loop import Loop, stuck
from tests.service.process import wait_for

#: Seconds of a watchdog of the tests.
PATIENCE = 0.4

#: Seconds beyond which a loop hangs: longer than a failed one waits.
LONG = 1.3


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(5 * PATIENCE)
        yield made


def heard(ear: socket.socket) -> str:
    return ear.recv(100).decode()


def test_words_go_to_the_socket_and_to_nobody_without_one(ear: socket.socket) -> None:
    Manager(ear.getsockname()).tell("READY=1")
    assert heard(ear) == "READY=1"
    Manager().tell("READY=1")
    Manager("/nowhere/notify").tell("READY=1")


def test_names_of_the_abstract_kind() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind("")  # the kernel gives it an abstract name
        Manager("@" + ear.getsockname()[1:].decode()).tell("STOPPING=1")
        assert heard(ear) == "STOPPING=1"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "600000000"}])
def test_a_command_is_given_what_its_environment_says(environment: dict[str, str]) -> None:
    given: list[Manager] = []

    @click.command()
    @manager_option
    def command(manager: Manager) -> None:
        given.append(manager)

    done = CliRunner().invoke(command, env=environment, catch_exceptions=False)
    assert done.exit_code == 0
    assert given == [Manager("/run/notify", 600.0) if environment else Manager()]


def test_a_vital_loop_that_hangs_is_found_and_one_that_fails_is_not() -> None:
    stop, hanging, release = threading.Event(), threading.Event(), threading.Event()

    def work(_loop: Loop) -> None:
        if hanging.is_set():
            release.wait()

    def fail(_loop: Loop) -> None:
        raise OSError("the database is away")

    loops = [Loop("relay", work, stop, pause=0.01, vital=True), Loop("reaper", fail, stop, vital=True)]
    loops.append(Loop("mail", lambda _: release.wait(), stop))  # a slow mail server is no reason to start anew
    for loop in loops:
        loop.start()
    wait_for(lambda: loops[2].silence > LONG, "the slow one")
    # What fails begins anew after a second, which is a move: no restart brings a database back.
    assert stuck(loops, LONG) is None
    hanging.set()
    wait_for(lambda: loops[0].silence > LONG, "the loop to hang")
    assert stuck(loops, LONG) == "relay"
    stop.set()
    release.set()
    for loop in loops:
        loop.join(5.0)


def test_ready_then_alive_while_all_loops_move_then_ending(ear: socket.socket) -> None:
    stop, asked = threading.Event(), []
    names: list[str | None] = [None, "relay", None]

    def look(seconds: float) -> str | None:
        asked.append(seconds)
        if len(asked) == len(names):
            stop.set()
        return names[len(asked) - 1]

    Manager(ear.getsockname(), PATIENCE).attend(stop, look)
    assert [heard(ear) for _ in range(4)] == ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]
    assert asked == [PATIENCE / 2] * 3


def test_without_a_watchdog_the_end_is_all_that_is_waited_for(ear: socket.socket) -> None:
    stop = threading.Event()
    stop.set()
    Manager(ear.getsockname()).attend(stop, lambda _: pytest.fail("nobody asked"))
    assert [heard(ear), heard(ear)] == ["READY=1", "STOPPING=1"]
