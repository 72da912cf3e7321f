"""Job files as one change: all of them are right and go into effect, or none does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bootpoint_common.errors import BootpointError, Code, error, together
from bootpoint_common.job import Spec, SpecError, read_toml
from bootpoint_common.store.database import Connection, rows
from bootpoint_ops import job as jobs
from bootpoint_ops.job import Applied

#: What job files in a folder are called.
PATTERN = "*.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Job files that were read.

    Attributes:
        files: Those that could be read, by path, in the order given; the files of a folder are sorted.
        problems: Everything that is wrong with the others.
        folders: Whether a folder was among them: then jobs without a file are worth a word.
    """

    files: dict[Path, Spec]
    problems: tuple[BootpointError, ...]
    folders: bool


def read_all(paths: Iterable[Path]) -> Batch:
    """Read files, and all ``*.toml`` of folders; a file that is named twice is read once."""
    files: dict[Path, Spec] = {}
    problems: list[BootpointError] = []
    given = list(paths)
    for path in dict.fromkeys(file for named in given for file in _files(named, problems)):
        try:
            files[path] = read_toml(path.read_text(encoding="utf-8"), str(path))
        except SpecError as wrong:
            problems += wrong.problems
        except (OSError, UnicodeDecodeError) as wrong:
            problems.append(error(Code.SPEC_INVALID, f"{path} can't be read: {wrong}", key="FILE", value=str(path)))
    problems += _doubles(files)
    return Batch(files=files, problems=tuple(problems), folders=any(path.is_dir() for path in given))


def _files(path: Path, problems: list[BootpointError]) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    found = sorted(path.glob(PATTERN))
    if not found:
        problems.append(error(Code.SPEC_INVALID, f"{path} holds no {PATTERN} file", key="FILE", value=str(path)))
    yield from found


def _doubles(files: dict[Path, Spec]) -> Iterator[BootpointError]:
    """Yield an error for each file whose job stands in an earlier one."""
    first: dict[str, Path] = {}
    for path, spec in files.items():
        other = first.setdefault(spec.name, path)
        if other is not path:
            yield error(
                Code.SPEC_INVALID,
                f"{path}: name: job {spec.name!r} stands in {other} too",
                key="name",
                value=spec.name,
                hint="give one of them another name, or remove the file",
                job=spec.name,
            )


def plan_all(connection: Connection, batch: Batch) -> list[Applied]:
    """Say what an apply of all files would do.

    Raises:
        BootpointError: Everything that is wrong with any of them.
    """
    return _each(batch, lambda spec: jobs.plan(connection, spec))


def apply_all(connection: Connection, batch: Batch, *, actor: str) -> list[Applied]:
    """Apply all files.

    Args:
        connection: A transaction, which an error has to roll back.
        batch: The files.
        actor: Who.

    Raises:
        BootpointError: Everything that is wrong with any of them; nothing may be kept then.
    """
    return _each(batch, lambda spec: jobs.apply(connection, spec, actor=actor))


def _each(batch: Batch, do: Callable[[Spec], Applied]) -> list[Applied]:
    done: list[Applied] = []
    problems = list(batch.problems)
    for path, spec in batch.files.items():
        try:
            done.append(do(spec))
        except BootpointError as problem:
            problem.message = f"{path}: {problem.message}"
            problems.append(problem)
    if problems:
        raise together(problems)
    return done


def without_file(connection: Connection, batch: Batch) -> list[str]:
    """Return the jobs that no file of the folders names; they are left as they are."""
    if not batch.folders:
        return []
    names = [spec.name for spec in batch.files.values()]
    return [row["name"] for row in rows(connection, "SELECT name FROM job WHERE NOT name = ANY(%s) ORDER BY 1", names)]
