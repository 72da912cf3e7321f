"""Why a notice did not arrive, as far as that matters to what happens next."""

from __future__ import annotations


class Undelivered(Exception):  # noqa: N818 - what became of a notice
    """A notice could not be sent.

    Args:
        why: One sentence for people, without secrets.
        final: Nothing is gained by trying again.
        away: The server as a whole did not take it: what else goes there would fare no better now.
        elsewhere: This process lacks something that another may have.
    """

    def __init__(self, why: str, *, final: bool = False, away: bool = False, elsewhere: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.final = final
        self.away = away
        self.elsewhere = elsewhere
