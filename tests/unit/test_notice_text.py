"""What notices say: texts of mail by templates, the letter around them, the body and the signature of a webhook."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import SMTP
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from bootpoint_common.errors import BootpointError
from bootpoint_common.notice import MailServer, NoticeSettings, Security, Sender
from bootpoint_common.store.delivery import Notice
from bootpoint_common.store.notice import Channel
from bootpoint_worker.notice.mail import Mail
from bootpoint_worker.notice.text import Texts
from bootpoint_worker.notice.undelivered import Undelivered
from bootpoint_worker.notice.webhook import body_of, signature

SETTINGS = NoticeSettings(
    mail=MailServer(security=Security.PLAIN, host="127.0.0.1", port=25), sender=Sender("Böotpoint", "bp@example.org")
)

RUN: dict[str, Any] = {
    "id": 4711, "job": "erp-db", "trigger": "schedule", "requested_by": "scheduler", "state": "failed",
    "reason": "host_full", "message": "storage 'default' on kvm1 has 1.2 GiB free, this run needs 5.0 GiB",
    "hint": "free space, lower points, or name another storage", "retryable": False, "attempt": 1,
    "due_at": "2026-12-03T10:00:00Z", "started_at": "2026-12-03T10:00:02Z", "ended_at": "2026-12-03T10:00:45Z",
    "plan": None, "consistency": None,
    "targets": [{"host": "kvm1", "point": None, "state": None, "reason": "host_full", "disks": []}],
    "scripts": [{"stage": "before_snapshot", "exit_code": 3, "duration_seconds": 1.25, "output": None}],
}  # fmt: skip

DISK = {"slot": "system", "scanned_bytes": 4 << 30, "changed_bytes": 120 << 20, "wire_bytes": 48 << 20}


def facts(**changed: Any) -> dict[str, Any]:
    return {
        "kind": "run_failed", "at": "2026-12-03T10:00:45Z", "job": "erp-db", "run": RUN, "event": None,
        "next_run_at": "2026-12-03T10:30:00Z", **changed,
    }  # fmt: skip


def event(kind: str, text: str, **changed: Any) -> dict[str, Any]:
    known = {
        "id": 7, "at": "2026-12-03T10:00:45.120Z", "kind": kind, "actor": "scheduler", "origin": None, "job": "erp-db",
        "run": None, "point": None, "host": None, "agent": None, "code": None, "text": text, "details": None,
    }  # fmt: skip
    return facts(kind=kind, run=None, event=known | changed)


def notice(values: dict[str, Any], address: str = "ops@example.org") -> Notice:
    return Notice(
        id=UUID(int=7), channel=Channel.MAIL, address=address, kind=values["kind"], job=values["job"], run=None,
        message_id="<7@notice.bootpoint.invalid>", facts=values, secret_file=None,
        created_at=datetime(2026, 12, 3, 10, 0, 45, tzinfo=UTC), attempts=1, age=0.0,
    )  # fmt: skip


def test_a_failure_says_what_happened_and_what_to_do() -> None:
    subject, text = Texts().write("run_failed", facts())
    assert subject == "[bootpoint] erp-db: run 4711 failed (host_full)"
    assert text == (
        "Run 4711 of job erp-db failed.\n"
        "\n"
        "storage 'default' on kvm1 has 1.2 GiB free, this run needs 5.0 GiB (host_full)\n"
        "What to do: free space, lower points, or name another storage\n"
        "\n"
        "trigger   schedule by scheduler\n"
        "started   2026-12-03 10:00:02 UTC\n"
        "ended     2026-12-03 10:00:45 UTC\n"
        "took      43 s\n"
        "attempt   1\n"
        "next run  2026-12-03 10:30:00 UTC\n"
        "\n"
        "on kvm1: no boot point (host_full)\n"
        "\n"
        "script before_snapshot ended with 3 after 1.2 s\n"
        "\n"
        "`bootpoint run log 4711` has all that happened in it.\n"
    )


def test_a_success_names_points_hosts_and_bytes() -> None:
    target = {"host": "kvm1", "point": "V20261203_100002", "state": "committed", "reason": None, "disks": [DISK, DISK]}
    done = RUN | {"state": "succeeded", "reason": None, "message": None, "hint": None, "targets": [target]}
    subject, text = Texts().write("run_succeeded", facts(kind="run_succeeded", run=done | {"scripts": []}))
    assert subject == "[bootpoint] erp-db: run 4711 succeeded"
    assert "on kvm1: V20261203_100002, committed\n  changed 240.0 MiB, sent 96.0 MiB, read 8.0 GiB\n" in text
    assert "took      43 s" in text
    assert "What to do" not in text


def test_an_alert_says_what_to_do_for_its_job() -> None:
    found = event("point_damaged", "V1 is damaged: system, segment 4", host="kvm1", point="V1")
    subject, text = Texts().write("point_damaged", found)
    assert subject == "[bootpoint] erp-db: a boot point is damaged"
    assert text.startswith("V1 is damaged: system, segment 4\n\nWhat to do: the next run brings")
    assert "`bootpoint point show erp-db V1`" in text
    assert "host  kvm1\npoint V1\nkind  point_damaged\nat    2026-12-03 10:00:45 UTC\n" in text


@pytest.mark.parametrize("bad", ["line\r\nBcc: all@example.org\r\n\r\nBuy", "esc\x1b[2J", "a\u2028b", "\x00"])
def test_what_is_put_in_adds_no_header_and_no_line(bad: str) -> None:
    values = event("drift", bad) | {"job": bad}
    named = values | {"job": "erp-db"}  # a job's name has no such characters
    letter, plain = (Mail(SETTINGS, Texts()).letter(notice(each)) for each in (named, event("drift", "x")))
    subject, text = Texts().write("drift", values)
    assert subject.isprintable()
    assert letter.keys() == plain.keys()
    assert text.count("\n") == Texts().write("drift", event("drift", "x"))[1].count("\n")
    assert all(line.isprintable() for line in text.splitlines())


def test_a_letter_is_plain_ascii_on_its_way_and_right_at_its_end() -> None:
    words = "Größe: 日本語 " * 400
    letter = Mail(SETTINGS, Texts()).letter(notice(event("drift", words), "ops@exämple.org"))
    travelling = letter.as_bytes()
    assert travelling.isascii()
    assert max(map(len, travelling.split(b"\r\n"))) <= 78
    read = message_from_bytes(travelling, policy=SMTP)
    assert words.strip() in read.get_content()
    assert str(read["From"]) == "Böotpoint <bp@example.org>"
    assert str(read["To"]) == "ops@xn--exmple-cua.org"
    assert (read["Message-ID"], read["Auto-Submitted"]) == ("<7@notice.bootpoint.invalid>", "auto-generated")
    assert read["Date"].datetime == datetime(2026, 12, 3, 10, 0, 45, tzinfo=UTC)
    assert travelling == Mail(SETTINGS, Texts()).letter(notice(event("drift", words), "ops@exämple.org")).as_bytes()


def test_a_very_long_message_makes_no_long_subject() -> None:
    letter = Mail(SETTINGS, Texts()).letter(notice(facts(run=RUN | {"reason": "x" * 5000})))
    assert len(letter["Subject"]) == 200


@pytest.mark.parametrize("address", ["ops@" + "x" * 70 + ".org", "ops@a..b"])
def test_an_address_that_no_server_could_take_is_given_up(address: str) -> None:
    with pytest.raises(Undelivered) as caught:
        Mail(SETTINGS, Texts()).letter(notice(facts(), address))
    assert caught.value.final


def test_texts_of_the_installation_take_the_place_of_ours(tmp_path: Path) -> None:
    (tmp_path / "run.txt").write_text("Subject: {{ job }} {{ run.state }}\n\nKäse: {{ run.message }}\n")
    texts = Texts(tmp_path)
    texts.check()
    assert texts.write("run_failed", facts()) == ("erp-db failed", f"Käse: {RUN['message']}\n")
    assert texts.write("drift", event("drift", "x"))[0].startswith("[bootpoint]")


def test_a_wrong_text_is_met_at_start_and_never_costs_a_notice(tmp_path: Path) -> None:
    (tmp_path / "run.txt").write_text("Subject: {{ job }\n\n")
    with pytest.raises(BootpointError, match=r"run\.txt can't be used"):
        Texts(tmp_path).check()
    (tmp_path / "run.txt").write_text("Subject: {{ no_such_thing }}\n\n")
    assert Texts(tmp_path).write("run_failed", facts()) == Texts().write("run_failed", facts())


def test_files_that_settings_name_are_looked_at(tmp_path: Path) -> None:
    logs_in = MailServer(security=Security.TLS, host="127.0.0.1", port=465, user="bp")
    password = tmp_path / "password"
    settings = NoticeSettings(mail=logs_in, sender=SETTINGS.sender, password_file=password)
    with pytest.raises(BootpointError) as missing:
        Mail(settings, Texts()).check()
    assert missing.value.key == "BOOTPOINT_MAIL_PASSWORD_FILE"
    password.write_text("hunter2\n")
    Mail(settings, Texts()).check()
    no_certificate = NoticeSettings(mail=logs_in, sender=SETTINGS.sender, password_file=password, authorities=password)
    with pytest.raises(BootpointError) as wrong:
        Mail(no_certificate, Texts()).check()
    assert wrong.value.key == "BOOTPOINT_NOTICE_CA"
    assert "hunter2" not in f"{wrong.value}{wrong.value.as_json()}"


def test_a_webhooks_body_has_every_key_and_is_the_same_each_time() -> None:
    found = json.loads(body_of(notice(facts())))
    assert found == {"id": "00000000-0000-0000-0000-000000000007", **facts()}
    assert body_of(notice(dict(reversed(facts().items())))) == body_of(notice(facts()))


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of the specification's reference libraries, and the formula with the standard library alone."""
    secret, body = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), b'{"test": 2432232314}'
    found = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    digest = hmac.new(secret, b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330." + body, hashlib.sha256).digest()
    assert found == "v1," + base64.b64encode(digest).decode()
