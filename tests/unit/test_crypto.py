"""Envelopes, joins, saved secrets, tokens: each opens in its place only."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootpoint_common.crypto import (
    JOIN_KEY_ID,
    MAX_ENVELOPE,
    AgentKey,
    Direction,
    Envelope,
    Reject,
    Token,
    Vault,
    WrongInstallationKeyError,
    envelope_agent,
    load_or_create_installation_key,
    open_envelope,
    open_join,
    seal_envelope,
    seal_join,
    subkey,
)
from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.identity import new_id

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "envelope.json").read_text())

KEY = AgentKey(3, bytes(range(32)))
KEYS = {KEY.key_id: KEY.secret}
START = UUID("0193b3a0-0000-7000-8000-00000000000a")
ROUTE = "web1.control.kvm"
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)


def sealed(body: bytes = b"hello", *, key: AgentKey = KEY, direction: Direction = Direction.TO_WORKER) -> bytes:
    return seal_envelope(key, direction, ROUTE, "web1", START, 5, body)


def refused(reason: Reject, data: bytes, *, route: str = ROUTE, direction: Direction = Direction.TO_WORKER) -> None:
    with pytest.raises(BootpointError) as caught:
        open_envelope(KEYS, direction, route, data)
    assert (caught.value.code, caught.value.value) == (Code.BUNDLE_REJECTED, reason)


@given(names, st.binary(max_size=1000), st.integers(0, 2**64 - 1), st.sampled_from(Direction), names)
def test_an_envelope_opens_to_what_was_sealed(
    agent: str, body: bytes, counter: int, direction: Direction, route: str
) -> None:
    data = seal_envelope(KEY, direction, route, agent, START, counter, body)
    assert envelope_agent(data) == (agent, KEY.key_id)
    assert open_envelope(KEYS, direction, route, data) == Envelope(agent, KEY.key_id, START, counter, body)


def test_any_flipped_bit_is_refused() -> None:
    data = sealed()
    for bit in range(len(data) * 8):
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BootpointError, match="bundle_rejected"):
            open_envelope(KEYS, Direction.TO_WORKER, ROUTE, bytes(altered))


def test_an_envelope_opens_in_its_place_only() -> None:
    refused(Reject.ALTERED, sealed(), route="web2.control.kvm")
    refused(Reject.DIRECTION, sealed(), direction=Direction.TO_AGENT)
    refused(Reject.ALTERED, sealed(key=AgentKey(3, bytes(32))))
    refused(Reject.KEY, sealed(key=AgentKey(4, KEY.secret)))
    refused(Reject.KEY, seal_join(KEY.secret, "web1", ROUTE, b""))
    mirrored = bytearray(sealed())
    mirrored[1] = Direction.TO_AGENT
    refused(Reject.ALTERED, bytes(mirrored), direction=Direction.TO_AGENT)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reject.TRUNCATED),
        (b"\x01", Reject.TRUNCATED),
        (bytes(8), Reject.VERSION),
        (sealed()[:30], Reject.TRUNCATED),
        (sealed()[:-1], Reject.ALTERED),
        (sealed() + b"\0", Reject.ALTERED),
        (sealed() + bytes(MAX_ENVELOPE), Reject.OVERSIZED),
        (bytes.fromhex("0101000000000003") + bytes(60), Reject.AGENT),
        (bytes.fromhex("0101020000000003fffe") + bytes(60), Reject.AGENT),
    ],
    ids=["empty", "short", "zeros", "cut", "one-byte-less", "one-byte-more", "huge", "no-name", "no-text"],
)
def test_garbage_is_refused_by_its_reason(data: bytes, reason: Reject) -> None:
    refused(reason, data)


def test_the_key_is_looked_up_by_agent_and_number() -> None:
    asked: list[tuple[str, int]] = []

    def lookup(agent: str, key_id: int) -> bytes | None:
        asked.append((agent, key_id))
        return KEY.secret

    assert open_envelope(lookup, Direction.TO_WORKER, ROUTE, sealed()).body == b"hello"
    assert asked == [("web1", 3)]


def test_what_goes_to_an_agent_may_be_larger() -> None:
    """A map of a large disk's segment digests goes to the agent in one message."""
    body = bytes(4 * MAX_ENVELOPE)
    data = sealed(body, direction=Direction.TO_AGENT)
    assert open_envelope(KEYS, Direction.TO_AGENT, ROUTE, data).body == body


def test_a_join_opens_with_its_own_secret_only() -> None:
    secret = bytes(range(32, 64))
    data = seal_join(secret, "web1", ROUTE, b"key and machine")
    assert envelope_agent(data) == ("web1", JOIN_KEY_ID)
    assert open_join(secret, ROUTE, data) == ("web1", b"key and machine")
    for wrong, route in ((bytes(32), ROUTE), (secret, "web2.control.kvm")):
        with pytest.raises(BootpointError, match="bundle_rejected"):
            open_join(wrong, route, data)
    with pytest.raises(BootpointError, match="no join"):
        open_join(secret, ROUTE, sealed())


def test_a_key_shows_no_secret() -> None:
    token = Token("web1", "kvm", "amqp://web1:pa55@broker/", "SHA256:x", b"\x07" * 32)
    assert "pa55" not in repr(token)
    assert repr(KEY.secret) not in repr(KEY)
    for key_id, secret in ((0, bytes(32)), (1, bytes(31))):
        with pytest.raises(ValueError, match="an agent key"):
            AgentKey(key_id, secret)


@given(names, names, st.binary(min_size=32, max_size=32))
def test_a_token_survives_being_copied(agent: str, url: str, secret: bytes) -> None:
    token = Token(agent, "kvm", url, "SHA256:abc", secret)
    line = token.encode()
    assert line.isprintable()
    assert " " not in line
    assert Token.decode(line) == token
    assert Token.decode(f"  {line[:20]}\n{line[20:]}\n") == token


def test_a_damaged_token_is_noticed() -> None:
    line = Token("web1", "kvm", "amqp://h/", "SHA256:abc", bytes(32)).encode()
    for damaged in (line[:-1], line[:-4], line[:10] + line[11:], line.replace(line[20], "-", 1), "bp1.", "bp1.!"):
        with pytest.raises(ValueError, match="damaged"):
            Token.decode(damaged)
    with pytest.raises(ValueError, match="no enrolment token"):
        Token.decode("hello")


@given(st.binary(max_size=200), st.text(max_size=20))
def test_a_saved_secret_opens_for_its_purpose_only(data: bytes, purpose: str) -> None:
    vault = Vault(bytes(32))
    saved = vault.encrypt(purpose, data)
    assert vault.decrypt(purpose, saved) == data
    assert saved != vault.encrypt(purpose, data)
    for other, at, blob in ((vault, purpose + "x", saved), (Vault(b"\1" * 32), purpose, saved), (vault, purpose, b"")):
        with pytest.raises(WrongInstallationKeyError):
            other.decrypt(at, blob)


def test_the_installation_key_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "installation.key"
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(load_or_create_installation_key(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert set(found) == {load_or_create_installation_key(path)}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["installation.key"]


def test_a_bad_installation_key_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "installation.key"
    load_or_create_installation_key(path)
    path.chmod(0o644)
    with pytest.raises(WrongInstallationKeyError, match="others may read"):
        load_or_create_installation_key(path)
    path.chmod(0o600)
    path.write_text("abc\n")
    with pytest.raises(WrongInstallationKeyError, match="64 hex digits"):
        load_or_create_installation_key(path)


def test_subkeys_differ_by_everything_they_are_for() -> None:
    made = {subkey(key, way, info) for key in (bytes(32), KEY.secret) for way in Direction for info in (b"", b"a")}
    assert len(made) == 8


@pytest.mark.parametrize("vector", GOLDEN["envelopes"], ids=lambda vector: vector["name"])
def test_golden_envelopes(vector: dict[str, str]) -> None:
    key = AgentKey(GOLDEN["key_id"], bytes.fromhex(GOLDEN["secret"]))
    direction, start = Direction(int(vector["direction"])), UUID(GOLDEN["incarnation"])
    data = bytes.fromhex(vector["data"])
    body, counter = bytes.fromhex(vector["body"]), int(vector["counter"])
    opened = open_envelope({key.key_id: key.secret}, direction, vector["routing_key"], data)
    assert opened == Envelope(vector["agent"], key.key_id, start, counter, body)
    made = seal_envelope(
        key, direction, vector["routing_key"], vector["agent"], start, counter, body, random=golden_nonce
    )
    assert made == data


def test_golden_join_vault_token_and_subkey() -> None:
    join, vault, token, derived = (GOLDEN[name] for name in ("join", "vault", "token", "subkey"))
    secret, data = bytes.fromhex(join["secret"]), bytes.fromhex(join["data"])
    assert open_join(secret, join["routing_key"], data) == (join["agent"], bytes.fromhex(join["body"]))
    made = seal_join(secret, join["agent"], join["routing_key"], bytes.fromhex(join["body"]), random=golden_nonce)
    assert made == data
    safe = Vault(bytes.fromhex(vault["key"]))
    assert safe.encrypt(vault["purpose"], bytes.fromhex(vault["clear"]), random=golden_nonce).hex() == vault["saved"]
    assert safe.decrypt(vault["purpose"], bytes.fromhex(vault["saved"])).hex() == vault["clear"]
    assert Token.decode(token["line"]) == Token(
        token["agent"], token["pool"], token["broker_url"], token["fingerprint"], bytes.fromhex(token["secret"])
    )
    assert Token.decode(token["line"]).encode() == token["line"]
    made = subkey(bytes.fromhex(derived["secret"]), Direction(derived["direction"]), bytes.fromhex(derived["info"]))
    assert made.hex() == derived["key"]


def golden_nonce(size: int) -> bytes:
    return bytes.fromhex(GOLDEN["nonce"])[:size]


def test_ids_are_uuids_of_version_7_that_ascend() -> None:
    made = [new_id() for _ in range(10_000)]
    assert made == sorted(set(made))
    assert {(one.version, one.variant) for one in made} == {(7, "specified in RFC 4122")}
