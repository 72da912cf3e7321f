"""``bootpoint selftest``: what it does to a host, what it says of a failure, and that nothing stays behind."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bootpoint_common.crypto import Vault, load_or_create_installation_key
from bootpoint_common.errors import Code, RetryableError
from bootpoint_common.identity import new_id
from bootpoint_ops.cli import main
from bootpoint_worker.selftest import Transcript, selftest
from bootpoint_worker.targets.fake import FakeHost, FakeTarget, connect
from bootpoint_worker.targets.host import HostAccess, HostInfo
from tests.service.fleet import fleet

#: What a host goes through that has all it needs.
WHOLE = [
    "inspect the host",
    "look for what it lacks",
    "choose a storage",
    "check that a standby can be made",
    "make a standby of 64 MiB",
    *(f"{what} boot point {number}" for number in (1, 2, 3) for what in ("open", "write", "commit")),
    "read all boot points",
    "revert to boot point 1",
    "revert to the newest",
    "consolidate boot point 1",
    "read what is left",
    "delete the standby",
    "see that nothing is left",
]


@pytest.fixture
def host() -> FakeHost:
    return FakeHost.install(FakeHost(f"selftest-{new_id()}"))


def tried(host: FakeHost, storage: str | None = None) -> Transcript:
    access = HostAccess(name="h1", kind="fake", address=host.name, port=0, user="root")
    with closing(connect(access)) as target:
        found = selftest(target, "h1", "fake", storage)
        assert target.find_replicas() == []
        assert target.inspect_host().vms == ()
    return found


def steps(found: Transcript) -> list[str]:
    return [step["step"] for step in found.steps]


def test_a_host_goes_through_all_of_a_standbys_life(host: FakeHost) -> None:
    found = tried(host)
    assert found.passed
    assert steps(found) == WHOLE
    committed = [name for name, step in host.trace if (name, step) == ("commit", "done")]
    assert len(committed) == 3


@pytest.mark.parametrize(
    ("verb", "failed"),
    [
        ("create", "check that a standby can be made"),
        ("commit", "commit boot point 1"),
        ("consolidate", "consolidate boot point 1"),
    ],
)
def test_a_failure_is_said_and_nothing_stays(host: FakeHost, verb: str, failed: str) -> None:
    host.fail_at(verb, "called", RetryableError(Code.TARGET_WRITE_ERROR, "the disk is on fire"))
    found = tried(host)
    assert not found.passed
    [wrong] = [step for step in found.steps if step["error"] is not None]
    assert (wrong["step"], wrong["error"]["message"]) == (failed, "the disk is on fire")
    made = WHOLE.index(failed) > WHOLE.index("check that a standby can be made")
    assert steps(found) == WHOLE[: WHOLE.index(failed) + 1] + (WHOLE[-2:] if made else [])


def test_a_host_that_shows_other_bytes_fails(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that loses what was written is found out, though every call of it succeeds."""
    kept = FakeTarget.open_writer

    def forgetful(self: FakeTarget, *arguments: object) -> object:
        writer = kept(self, *arguments)  # type: ignore[arg-type]
        monkeypatch.setattr(writer, "zero", lambda _offset, _length: None)
        return writer

    monkeypatch.setattr(FakeTarget, "open_writer", forgetful)
    found = tried(host)
    [wrong] = [step for step in found.steps if step["error"] is not None]
    assert (wrong["step"], wrong["error"]["code"]) == ("read all boot points", "target_check_failed")
    assert "at 0" in wrong["error"]["message"]


def test_a_host_that_lacks_something_is_not_touched(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FakeTarget.inspect_host

    def lacking(self: FakeTarget) -> HostInfo:
        return replace(whole(self), problems=("VDDK is missing: download it",))

    monkeypatch.setattr(FakeTarget, "inspect_host", lacking)
    found = tried(host)
    assert steps(found) == WHOLE[:2]
    assert found.steps[-1]["error"]["code"] == "host_unsupported"


def test_a_storage_that_is_not_there_is_said(host: FakeHost) -> None:
    found = tried(host, "nowhere")
    assert found.steps[-1]["step"] == "choose a storage"
    assert found.steps[-1]["error"]["key"] == "--storage"


def test_the_command_prints_and_saves_the_transcript(database: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    env = {"BOOTPOINT_STATE": str(tmp_path / "state"), "BOOTPOINT_DATABASE_URL": database, "COLUMNS": "200"}

    def call(*words: str) -> Result:
        return CliRunner().invoke(main, words, env=env | {"BOOTPOINT_INSTALLATION_KEY": str(key)})

    fake = FakeHost.install(FakeHost(f"selftest-{new_id()}"))
    saved = tmp_path / "transcript.json"
    with fleet(database, tmp_path / "fleet") as parts:
        parts.vault = Vault(load_or_create_installation_key(key))
        parts.add_worker("w", kind="up")
        parts.add_host("h1", address=fake.name)
        passed = call("selftest", "--host", "h1", "--save", str(saved))
        assert passed.exit_code == 0, passed.output
        transcript = json.loads(saved.read_text())
        assert (transcript["passed"], transcript["kind"], transcript["version"]) == (True, "fake", "fake 1")
        assert [step["step"] for step in transcript["steps"]] == WHOLE
        assert all(name in passed.stdout for name in WHOLE)

        fake.fail_at("commit", "check", RetryableError(Code.TARGET_CHECK_FAILED, "it is torn"))
        failed = call("selftest", "--host", "h1")
        assert failed.exit_code == 1
        assert "it is torn" in failed.stdout
        assert "selftest of host h1 failed" in call("history").stdout
