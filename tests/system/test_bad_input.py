"""What comes in is hostile until it is proved: every queue that an agent can reach gets what should not be there.

The victim's run is under way meanwhile, with its agent frozen, so that nothing but the bad input could move it.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from bootpoint_common import message
from bootpoint_common.bundle import Kind, Sealer, encode
from bootpoint_common.cipher import AgentKey, Direction
from bootpoint_common.enrolment import Token
from bootpoint_common.envelope import MAX_ENVELOPE
from bootpoint_common.extent import Extent
from bootpoint_common.identity import new_id
from bootpoint_common.metric import REFUSED, REPLAYED
from bootpoint_common.store.run import Run
from bootpoint_common.stream import rabbit
from bootpoint_common.stream.carrier import CarrierLost
from bootpoint_common.stream.rabbit_access import parameters
from bootpoint_common.stream.rabbit_part import AGENT_EXCHANGE, RabbitConsumer, RabbitPublisher
from bootpoint_common.units import GRAIN
from bootpoint_producer.state import AgentState, Identity
from tests.service.component import need
from tests.service.forger import Forger
from tests.service.libvirt import LibvirtHost
from tests.service.processes import POOL, Processes, processes
from tests.service.rabbitmq import VirtualHost
from tests.service.round import LARGE, Subject

pytestmark = pytest.mark.timeout(300)

#: The agent whose run is to be disturbed, and the one that misuses its own rights.
VICTIM, MALLORY = "victim", "mallory"


@pytest.fixture
def fleet(database: str, vhost: VirtualHost, libvirt_host: LibvirtHost, storage_directory: Path) -> Iterator[Processes]:
    need("qemu-img", "qemu-nbd", "libnbd")
    with processes(database, vhost, libvirt_host, storage_directory) as made:
        made.add_worker("w1")
        yield made


@pytest.fixture
def subject(fleet: Processes, tmp_path: Path, rng: random.Random) -> Subject:
    source = tmp_path / "victim.raw"
    source.touch()
    fleet.add_agent(VICTIM, [source])
    made = Subject(fleet, VICTIM, source, rng, lambda: None)
    made.make()
    return made


def joined(fleet: Processes, name: str) -> Identity:
    """Let an agent join that the test itself plays."""
    fleet.configure_agent(name, [])
    fleet.agent_command(name, "join", "-", text=fleet.enroll(name))
    return identity_of(fleet, name)


def identity_of(fleet: Processes, name: str) -> Identity:
    identity = AgentState(fleet.agent_state(name)).identity()
    assert identity is not None
    return identity


def held_in_midst(subject: Subject) -> tuple[Run, dict[str, Any]]:
    """Begin a run, freeze its agent in the midst, and return the disk once all that was sent is applied."""
    subject.write(LARGE)
    run = subject.begin()
    subject.midst(run)
    subject.fleet.running[VICTIM].freeze()
    query = (
        "SELECT idle >= 2 AS idle FROM boot_point p JOIN boot_point_disk d ON d.point_id = p.id WHERE p.run_uid = %s"
    )
    subject.fleet.wait_for(
        lambda: row if (row := subject.fleet.row(query, run.uid)) and row["idle"] else None, "an idle slice"
    )
    subject.require_midst(run)
    row = subject.fleet.row(
        "SELECT d.id, d.point_id, d.sequence, d.watermark_bytes FROM boot_point p"
        " JOIN boot_point_disk d ON d.point_id = p.id WHERE p.run_uid = %s",
        run.uid,
    )
    assert row is not None
    return run, row


def goes_on_and_commits(subject: Subject, run: Run) -> None:
    subject.require_midst(run)
    subject.fleet.running[VICTIM].thaw()
    subject.fleet.succeeded(run)
    subject.check()


def refusals(fleet: Processes, kind: str, count: int) -> Counter[str]:
    """Wait until the history holds this many refusals, and return how often each reason stands there."""
    query = "SELECT details->>'reason' AS reason FROM event WHERE kind = %s"
    fleet.wait_for(lambda: {"all": 1} if len(fleet.rows(query, kind)) >= count else None, f"{count} refusals")
    return Counter(row["reason"] for row in fleet.rows(query, kind))


def forged_commit(point_id: UUID) -> bytes:
    """Return what a task of dramatiq looks like on its queue."""
    task = {"queue_name": f"pool.{POOL}.tasks", "actor_name": "commit", "args": [str(point_id)], "kwargs": {}}
    return json.dumps({**task, "options": {}, "message_id": str(new_id()), "message_timestamp": 0}).encode()


def test_bad_control_messages_are_refused_counted_and_written_down(subject: Subject, rng: random.Random) -> None:
    fleet = subject.fleet
    forger = Forger(joined(fleet, MALLORY), POOL)
    run, disk = held_in_midst(subject)
    problem = message.Problem(code="cancelled", message="forged")
    now = datetime.now(UTC)
    offer = message.Offer(run=run.uid, instant=now, consistency="fs", snapshot="none", disks=[], replicas=[])
    flipped = bytearray(forger.envelope(forger.hello()))
    flipped[-1] ^= 1
    bad = [
        (b"", "truncated"),
        (b"\x01\x01", "truncated"),
        (b"\x7f" + rng.randbytes(500), "version"),
        (b"\x01\x01" + bytes(MAX_ENVELOPE), "oversized"),
        (forged_commit(disk["point_id"]), "version"),
        (bytes(flipped), "altered"),
        (forger.envelope(forger.hello(), key=AgentKey(1, os.urandom(32))), "altered"),
        (forger.envelope(forger.hello(), name=VICTIM), "agent"),
        (forger.envelope(forger.hello(), pool="another"), "altered"),
        (forger.envelope(forger.hello(), key=AgentKey(77, forger.identity.key.secret)), "key"),
        (forger.envelope(forger.hello(), name="nobody"), "agent"),
        (forger.envelope(forger.hello(), direction=Direction.TO_AGENT), "direction"),
        (forger.envelope(b"no message"), "malformed"),
        (forger.envelope(forger.hello(protocol=99)), "agent_too_old"),
        (forger.envelope(forger.hello(machine={"smbios_uuid": "another", "disk_serials": ["x"]})), "agent_is_a_copy"),
    ]
    foreign: list[tuple[message.FromAgent, str]] = [
        (message.Failed(run=run.uid, problem=problem), "no_such_run"),
        (offer, "no_such_run"),
        (message.Answer(request=new_id(), answer={}), "agent"),
    ]
    ignored: list[message.FromAgent] = [
        message.More(disks=[disk["id"]]),
        message.CreditQuery(disks=[disk["id"]]),
        message.Report(run=run.uid, scripts=[]),
    ]
    with closing(rabbit.connect_agent(forger.identity.broker_url, MALLORY)) as carrier:
        for body, _ in bad:
            carrier.send(POOL, body)
        carrier.send(POOL, forger.envelope(forger.hello()))
        for told, _ in foreign:
            carrier.send(POOL, forger.envelope(told))
        for told in ignored:
            carrier.send(POOL, forger.envelope(told))
        twice = forger.envelope(message.Heartbeat())
        carrier.send(POOL, twice)
        carrier.send(POOL, twice)
    expected = Counter(reason for _, reason in (*bad, *foreign))
    assert refusals(fleet, "message_refused", expected.total()) == expected
    fleet.wait_for(
        lambda: {"n": 1} if fleet.counted(REFUSED, REPLAYED) == 1.0 else None,
        "a replay",
    )
    for reason, count in expected.items():
        assert fleet.counted(REFUSED, reason) == count, reason
    goes_on_and_commits(subject, run)


def test_bad_bundles_in_a_stream_are_refused_and_the_point_is_right(subject: Subject, rng: random.Random) -> None:
    fleet = subject.fleet
    run, disk = held_in_midst(subject)
    victim, point, stream = identity_of(fleet, VICTIM), disk["point_id"], disk["id"]
    payload = encode(Kind.DATA, [Extent(0, GRAIN)], rng.randbytes(GRAIN))

    def sealed(key: AgentKey, of_point: UUID = point, of_stream: UUID = stream) -> bytes:
        """Seal a bundle that stands where the stream is expected to go on."""
        sealer = Sealer(key, of_point, of_stream)
        sealer.sequence, sealer.offset = disk["sequence"], disk["watermark_bytes"]
        return sealer.seal(payload)

    altered = bytearray(sealed(victim.key))
    altered[len(altered) // 2] ^= 1
    bad = [
        (rng.randbytes(20), "truncated"),
        (b"\x7f" + rng.randbytes(5000), "version"),
        (b"\x01\x01" + bytes(4 << 20), "oversized"),
        (forged_commit(point), "version"),
        (bytes(altered), "altered"),
        (sealed(AgentKey(victim.key.key_id, os.urandom(32))), "altered"),
        (sealed(AgentKey(77, victim.key.secret)), "key"),
        (sealed(victim.key, of_point=new_id()), "point"),
        (sealed(victim.key, of_stream=new_id()), "point"),
    ]
    publisher = RabbitPublisher(parameters(victim.broker_url, "forger"))
    with closing(publisher):
        publisher.open()
        for body, _ in bad:
            publisher.send(AGENT_EXCHANGE, f"{VICTIM}.stream.{stream}", body)
    expected = Counter(reason for _, reason in bad)
    assert refusals(fleet, "bundle_refused", expected.total()) == expected
    fleet.wait_for(
        lambda: {"n": 1} if sum(fleet.counted(REFUSED, reason) for reason in expected) >= expected.total() else None,
        "all to be counted",
    )
    for reason, count in expected.items():
        assert fleet.counted(REFUSED, reason) == count, reason
    goes_on_and_commits(subject, run)


def test_an_agents_login_reaches_nothing_that_is_not_its_own(subject: Subject) -> None:
    fleet = subject.fleet
    run, disk = held_in_midst(subject)
    url = joined(fleet, MALLORY).broker_url
    task = forged_commit(disk["point_id"])
    for exchange, key in [
        ("", f"pool.{POOL}"),
        ("", f"pool.{POOL}.tasks"),
        ("", f"pool.{POOL}.in"),
        ("", f"agent.{VICTIM}"),
        ("", f"stream.{disk['id']}"),
        ("amq.topic", "anything"),
        ("bp.events", f"source.{VICTIM}.shutdown"),
        (AGENT_EXCHANGE, f"{VICTIM}.control.{POOL}"),
        (AGENT_EXCHANGE, f"{VICTIM}.stream.{disk['id']}"),
        (AGENT_EXCHANGE, f"{MALLORY}.stream.{disk['id']}"),
        (AGENT_EXCHANGE, f"{MALLORY}.control.{POOL}.tasks"),
    ]:
        publisher = RabbitPublisher(parameters(url, "forger"))
        with closing(publisher):
            publisher.open()
            with pytest.raises(CarrierLost):
                publisher.send(exchange, key, task)
    for queue in (
        f"pool.{POOL}",
        f"pool.{POOL}.tasks",
        f"pool.{POOL}.in",
        f"agent.{VICTIM}",
        f"stream.{disk['id']}",
        "another",
    ):
        consumer = RabbitConsumer(parameters(url, "thief"), queue, 1)
        with closing(consumer), pytest.raises(CarrierLost):
            consumer.open()
    assert fleet.rows("SELECT 1 AS n FROM event WHERE kind IN ('message_refused', 'bundle_refused')") == []
    goes_on_and_commits(subject, run)


def test_wrong_spent_and_expired_tokens_and_revoked_keys_open_nothing(fleet: Processes, tmp_path: Path) -> None:
    def join(token: str, place: str) -> subprocess.CompletedProcess[str]:
        words = [*fleet.agent_words(MALLORY, "join", "-", "--timeout", "2")[:-1], str(tmp_path / place)]
        return subprocess.run(words, input=token, env=fleet.environment, capture_output=True, text=True)

    fleet.configure_agent(MALLORY, [])
    right = fleet.enroll(MALLORY)
    token = Token.decode(right)
    wrong = Token(token.agent, token.pool, token.broker_url, token.fingerprint, os.urandom(32)).encode()
    assert join(wrong, "wrong").returncode == 1
    with fleet.database.transaction() as connection:
        connection.execute("UPDATE agent SET join_expires_at = now() - interval '1 second'")
    assert join(right, "expired").returncode == 1
    assert fleet.row("SELECT 1 AS n FROM agent WHERE key IS NOT NULL") is None
    with fleet.database.transaction() as connection:
        connection.execute("UPDATE agent SET join_expires_at = now() + interval '1 hour'")
    assert join(right, "right").returncode == 0
    key = fleet.row("SELECT key FROM agent")
    assert join(right, "spent").returncode == 1
    assert fleet.row("SELECT key FROM agent") == key
    assert refusals(fleet, "message_refused", 3) == Counter({"altered": 1, "key": 2})

    identity = AgentState(tmp_path / "right").identity()
    assert identity is not None
    fleet.bootpoint("agent", "revoke", MALLORY)
    forger = Forger(identity, POOL)
    with closing(rabbit.connect_agent(identity.broker_url, MALLORY)) as carrier:
        carrier.send(POOL, forger.envelope(forger.hello()))
    assert refusals(fleet, "message_refused", 4)["key"] == 3
