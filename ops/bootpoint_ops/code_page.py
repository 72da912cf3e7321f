"""Writes docs/codes.md: ``python -m bootpoint_ops.code_page > docs/codes.md``."""

from __future__ import annotations

from bootpoint_common.errors import CODES, CodeInfo

_HEAD = """\
# Codes

<!-- Made by `python -m bootpoint_ops.code_page > docs/codes.md`; change errors.py, not this page. -->

Every failure, refusal and alert of bootpoint carries one of these codes: in `reason` of a run, in `code` of an
error, in the label `reason` of the metrics. A code never changes its meaning.

*again* says whether the same call may succeed later by itself; such runs are tried again as `run.retry` says.
*exit* is the exit code of a command that ends with it.

| code | meaning | way out | again | exit |
|---|---|---|---|---|
"""


def page() -> str:
    """Return the whole page, in the order of the alphabet."""
    rows = (_row(str(code), info) for code, info in sorted(CODES.items()))
    return _HEAD + "".join(f"{row}\n" for row in rows)


def _row(code: str, info: CodeInfo) -> str:
    cells = (
        f"`{code}`",
        info.meaning,
        info.hint,
        "yes" if info.kind.retryable else "no",
        str(info.kind.exit_code),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(page(), end="")
