"""What a refusal of a host means here: each protocol has a table of them, by the names or numbers that it knows."""

from __future__ import annotations

from dataclasses import dataclass

from bootpoint_common.errors import Code


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one kind of refusal means.

    Attributes:
        code: Ours.
        text: What is the matter, as the sentence of an error goes on that begins with the host, or with what was tried.
        hint: The way out; None for the code's own.
    """

    code: Code
    text: str
    hint: str | None = None
