"""Fingerprints of certificates as people type them."""

from __future__ import annotations

import hashlib

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.targets.certificate import fingerprint_of, normalised

SHA1 = fingerprint_of(b"certificate", "sha1")
SHA256 = fingerprint_of(b"certificate")


def test_a_fingerprint_is_written_as_openssl_writes_it() -> None:
    assert SHA256.replace(":", "").lower() == hashlib.sha256(b"certificate").hexdigest()
    assert SHA256.count(":") == 31
    assert SHA1.count(":") == 19


@pytest.mark.parametrize(
    ("typed", "recorded"),
    [
        (SHA256, SHA256),
        (SHA256.lower().replace(":", ""), SHA256),
        (f"SHA256 Fingerprint={SHA256}", SHA256),
        (f"sha256 Fingerprint={SHA256}\n", SHA256),
        (f"SHA256:{SHA256}", SHA256),
        (f"SHA-1:{SHA1}", SHA1),
        (SHA1.replace(":", " "), SHA1),
        (SHA256.replace(":", "-"), SHA256),
    ],
)
def test_a_fingerprint_may_be_typed_in_many_ways(typed: str, recorded: str) -> None:
    assert normalised(typed) == recorded


@pytest.mark.parametrize(
    "typed", ["", SHA256[:-1], SHA256.replace(SHA256[0], "G"), "SHA256:uNiR1xk4yqeoq8IBQ0fC3g", "yes"]
)
def test_what_is_no_fingerprint_is_refused(typed: str) -> None:
    with pytest.raises(BootpointError) as problem:
        normalised(typed)
    assert problem.value.code is Code.SPEC_INVALID
    assert problem.value.key == "--fingerprint"
