"""Whom the certificates of mail servers, webhooks and the broker's management API have to come from."""

from __future__ import annotations

import ssl
from pathlib import Path

from bootpoint_common.errors import Code, error


def tls_context(authorities: Path | None, *, key: str = "BOOTPOINT_NOTICE_CA") -> ssl.SSLContext:
    """Return what checks certificates and names: the system's authorities, and those of a file beside them.

    Args:
        authorities: The file.
        key: The setting that names it.

    Raises:
        UsageError: ``spec_invalid``: the file can't be used.
    """
    context = ssl.create_default_context()
    if authorities is not None:
        try:
            context.load_verify_locations(authorities)
        except (OSError, ssl.SSLError) as exc:
            raise error(
                Code.SPEC_INVALID, f"no certificate can be read from {authorities}: {exc}", key=key,
                value=str(authorities), hint="name a file with certificates in PEM form",
            ) from exc  # fmt: skip
    return context
