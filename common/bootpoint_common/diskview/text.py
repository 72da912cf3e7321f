"""Names of a machine's disks as they may go to a terminal, and into how many of its cells they fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size

_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def printable(value: object) -> str:
    """Return a value as one line without anything that a terminal would obey: a mount point may be called anything."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _SHORT.get(char) or _escape(ord(char)) for char in text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def cut(text: str, width: int, more: str = "…") -> str:
    """Shorten a text to some cells; what is left out is in its middle, for paths end in what tells them apart."""
    if cell_len(text) <= width:
        return text
    if width <= 3:
        return set_cell_size(text, max(0, width))
    front = (width - cell_len(more)) // 2
    back = width - cell_len(more) - front
    # A wide character that doesn't fit leaves a cell free.
    end = text[len(text) - _fitting(reversed(text), back) :]
    return set_cell_size(text, front) + more + end + " " * (back - cell_len(end))


def _fitting(text: Iterable[str], width: int) -> int:
    """Return how many characters from the beginning on fit into some cells."""
    cells = count = 0
    for char in text:
        cells += cell_len(char)
        if cells > width:
            break
        count += 1
    return count


def flowed(words: Sequence[str], width: int, *, indent: str = "", gap: str = "  ", more: str = "…") -> list[str]:
    """Put words beside one another, as many as fit into each line.

    Args:
        words: None of them is parted; one that is longer than a line is cut.
        width: Cells of a line.
        indent: Begins each line but the first one.
        gap: Parts two words.
        more: Stands for what is cut out.
    """
    lines: list[str] = []
    line = ""
    for word in words:
        room = width - (cell_len(indent) if lines or line else 0)
        short = cut(word, room, more)
        joined = f"{line}{gap}{short}" if line.strip() else line + short
        if line.strip() and cell_len(joined) > width:
            lines.append(line)
            line = indent + cut(word, width - cell_len(indent), more)
        else:
            line = joined
    return [*lines, line] if line else lines


def folded(text: str, width: int, indent: str = "  ") -> list[str]:
    """Part a text that must stay whole, such as an id to be copied, where a line ends."""
    lines, rest = [], text
    while cell_len(rest) > width:
        fits = _fitting(rest, width)
        lines.append(rest[:fits])
        rest = indent + rest[fits:]
    return [*lines, rest]
