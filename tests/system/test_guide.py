"""docs/getting-started.md, pasted into a shell as it stands, and every command that the pages name.

What differs from a reader's paste: `make` says what it would do (-n), for the installation under test is there already;
the disk that `make demo` would have left is a small one, which boots in a moment and prints a marker; and where ssh
asks, a program answers. Host, address and way of virtualisation are those that the guide has.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bootpoint_ops.cli import main as bootpoint
from bootpoint_producer.command import main as bootpoint_agent
from tests.service.guide import REPOSITORY, Machine, Pasted, machine

#: Seconds for the whole guide on a loaded machine; on a quiet one it takes 40.
PATIENCE = 600.0

GUIDE = REPOSITORY / "docs/getting-started.md"

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]

#: Size of the disk: the guide changes a byte at 900 MiB.
SIZE = 1 << 30

MARKER = "marker=pasted"

#: A boot sector that writes the text behind it to the first serial port, and halts.
#: xor ax,ax; mov ds,ax; mov si,0x7c1f; cld; next: lodsb; test al,al; jz end; push ax; mov dx,0x3fd; full: in al,dx;
#: test al,0x20; jz full; pop ax; mov dl,0xf8; out dx,al; jmp next; end: hlt; jmp end
BOOT = bytes.fromhex("31c0 8ed8 be1f7c fc ac 84c0 740f 50 bafd03 ec a820 74fb 58 b2f8 ee ebec f4 ebfd")

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


# --- the guide


def make_disk(path: Path) -> None:
    """Make the disk that stands for the demo's: sparse, with a marker and some content."""
    path.parent.mkdir()
    with path.open("wb") as disk:
        disk.truncate(SIZE)
        disk.write((BOOT + f"{MARKER}\r\n\0".encode()).ljust(510, b"\0") + b"\x55\xaa")
        disk.seek(64 << 20)
        disk.write(os.urandom(16 << 20))


def blocks() -> list[str]:
    return [text for language, text in FENCED.findall(GUIDE.read_text()) if language == "sh"]


@pytest.fixture(scope="module")
def reader() -> Iterator[Machine]:
    with machine() as made:
        make_disk(made.path("/var/lib/bootpoint-demo/disk.raw"))
        yield made


@pytest.fixture(scope="module")
def pasted(reader: Machine) -> Pasted:
    """The guide, pasted from its first block to its last."""
    return reader.paste([re.sub("^make ", "make -n ", block, flags=re.MULTILINE) for block in blocks()], PATIENCE)


def output_of(pasted: Pasted, command: str) -> str:
    """Return what the only block with this command printed."""
    (number,) = [number for number, block in enumerate(blocks()) if command in block]
    assert number < len(pasted.outputs), f"never reached; before: {pasted.rest}"
    return pasted.outputs[number]


@pytest.mark.timeout(PATIENCE)
def test_every_block_can_be_pasted(pasted: Pasted) -> None:
    assert pasted.code == 0, "\n".join([*pasted.outputs, pasted.rest])
    assert len(pasted.outputs) == len(blocks())


@pytest.mark.timeout(PATIENCE)
def test_the_reader_sees_what_the_guide_says(pasted: Pasted) -> None:
    made = output_of(pasted, "bootpoint point list erp\n")
    assert re.search(r"run 1 of erp succeeded after .*: V\d{8}_\d{6} on kvm1", made)
    points = re.findall(r"^(V\d{8}_\d{6})  kvm1  committed  (\w+)", made, re.MULTILINE)
    assert [kind for _, kind in points] == ["increment", "full"]
    assert f"{points[0][0]} on kvm1 is identical to the source" in output_of(
        pasted, "bootpoint point verify erp latest"
    )
    assert MARKER in output_of(pasted, "grep -a marker= ")
    direct = output_of(pasted, "bootpoint vm points --direct")
    assert re.findall(r"^V\d{8}_\d{6}", direct, re.MULTILINE) == [name for name, _ in reversed(points)]
    fleet = output_of(pasted, "bootpoint point verify erp-fleet latest")
    assert re.search(r"V\d{8}_\d{6} on kvm1 is identical to the source", fleet)
    assert fleet.endswith("1 job, all ok\n")


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("vm", ["erp-standby", "erp-fleet-standby"])
def test_the_newest_point_is_the_readers_disk(reader: Machine, pasted: Pasted, vm: str) -> None:
    assert pasted.code == 0, pasted.rest
    replica = reader.path(f"/var/lib/libvirt/images/{vm}")
    newest = re.search(r"-b (\S+\.qcow2)", (replica / "RUNBOOK.txt").read_text())
    assert newest is not None
    disk = reader.path("/srv/erp.raw")
    subprocess.run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", replica / newest[1], disk], check=True)


@pytest.mark.timeout(PATIENCE)
def test_nothing_of_the_readers_machine_runs_on(reader: Machine, pasted: Pasted) -> None:
    assert pasted.outputs
    assert [pid for pid, mounts in mounts_of_processes() if str(reader.directory) in mounts] == []


def mounts_of_processes() -> Iterator[tuple[int, str]]:
    for path in Path("/proc").glob("[0-9]*/mountinfo"):
        with contextlib.suppress(OSError):  # it has ended
            yield int(path.parent.name), path.read_text()


# --- every command on every page


def commands(text: str) -> list[list[str]]:
    """Return the calls of our programs in shell text, as words."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(re.sub(r"\s\d?[<>]+&?\s*\S+", " ", line), posix=True, punctuation_chars="();|&")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # a line of a text within quotes, or an apostrophe in prose: no call of ours
            assert not line.startswith("bootpoint"), line
            continue
        call: list[str] = []
        for word in [*words, ";"]:
            if set(word) <= set("();|&"):
                found.append(call)
                call = []
            else:
                call.append(word)
    return [call for call in found if call and call[0] in ("bootpoint", "bootpoint-agent")]


def named(page: Path) -> Iterator[tuple[list[str], bool]]:
    """Yield the calls on a page, and whether each stands complete in a block, or may be cut short in a sentence."""
    text = page.read_text()
    given = dict(re.findall(r"^([A-Z_]+)=(\S+)$", text, re.MULTILINE))
    text = re.sub(r"\$([A-Z_]+)", lambda name: given.get(name[1], name[0]), text)
    for language, block in FENCED.findall(text):
        if language in ("", "sh"):
            yield from ((call, True) for call in commands(block))
    for span in re.findall(r"`(bootpoint(?:-agent)? [^`]+)`", FENCED.sub("", text)):
        yield from ((call, False) for call in commands(" ".join(span.split())))


def leaf(call: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that a call names, and the words for it."""
    command: click.Command = {"bootpoint": bootpoint, "bootpoint-agent": bootpoint_agent}[call[0]]
    words = call[1:]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        word, *words = words
        if word.isupper() or word == "…":  # a placeholder for any command
            return click.Command("any"), []
        known = command.commands
        assert word in known, f"`{' '.join(call)}`: {command.name} has no command {word}, but {', '.join(known)}"
        command = known[word]
    return command, words


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every file be taken as there, for the pages' are on other machines; and R stand for a run's number."""

    def walk(command: click.Command) -> None:
        for parameter in command.params:
            if isinstance(parameter, click.Argument) or isinstance(parameter.type, click.Path | click.File):
                monkeypatch.setattr(parameter, "type", click.STRING)
        for each in command.commands.values() if isinstance(command, click.Group) else ():
            walk(each)

    walk(bootpoint)
    walk(bootpoint_agent)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_a_page_exists(page: Path, anywhere: None) -> None:
    wrong = []
    for call, complete in named(page):
        try:
            command, words = leaf(call)
            command.make_context(" ".join(call[:3]), [word for word in words if word != "…"])
        except click.exceptions.Exit:  # --version, --help
            pass
        except click.MissingParameter as problem:
            if complete:
                wrong.append(f"`{' '.join(call)}`: {problem.format_message()}")
        except click.UsageError as problem:
            wrong.append(f"`{' '.join(call)}`: {problem.format_message()}")
        except AssertionError as problem:
            wrong.append(str(problem))
    assert wrong == []


def test_calls_are_found() -> None:
    """A page that is read wrongly would have none that could be wrong."""
    found = {leaf(call)[0].name for call, _ in named(GUIDE)}
    assert {"up", "add", "apply", "run", "verify", "start", "points", "migrate", "worker", "join"} <= found
