"""Settings of notices: what the environment may say, and the hour of the digest across changes of clocks."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from bootpoint_common.config import Config
from bootpoint_common.errors import Code
from bootpoint_common.job import SpecError
from bootpoint_common.notice import DailyHour, MailServer, NoticeSettings, Security, Sender

FROM = {"BOOTPOINT_MAIL_FROM": "Böotpoint <bp@example.org>"}


def test_without_settings_there_is_no_mail_and_the_digest_has_its_hour() -> None:
    assert Config.from_environment({}).notices == NoticeSettings(digest=DailyHour(7 * 60, "UTC"))


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://127.0.0.1", MailServer(security=Security.PLAIN, host="127.0.0.1", port=25)),
        ("smtp://mail.example.org:2525", MailServer(security=Security.PLAIN, host="mail.example.org", port=2525)),
        ("smtps://[2001:db8::1]", MailServer(security=Security.TLS, host="2001:db8::1", port=465)),
        (
            "smtp+starttls://bp%40example.org@mail.example.org",
            MailServer(security=Security.STARTTLS, host="mail.example.org", port=587, user="bp@example.org"),
        ),
        (
            "smtp://bp@localhost:2500",
            MailServer(security=Security.PLAIN, host="localhost", port=2500, user="bp"),
        ),
    ],
)
def test_mail_servers(url: str, server: MailServer) -> None:
    found = Config.from_environment({"BOOTPOINT_MAIL": url, "BOOTPOINT_MAIL_PASSWORD_FILE": "/etc/bp/pw", **FROM})
    assert found.notices.mail == server
    assert found.notices.sender == Sender("Böotpoint", "bp@example.org")
    assert found.notices.password_file == Path("/etc/bp/pw")


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"BOOTPOINT_MAIL": "mail.example.org"}, "BOOTPOINT_MAIL"),
        ({"BOOTPOINT_MAIL": "http://mail.example.org"}, "BOOTPOINT_MAIL"),
        ({"BOOTPOINT_MAIL": "smtp://"}, "BOOTPOINT_MAIL"),
        ({"BOOTPOINT_MAIL": "smtps://mail.example.org:smtp"}, "BOOTPOINT_MAIL"),
        ({"BOOTPOINT_MAIL": "smtps://mail.example.org/inbox"}, "BOOTPOINT_MAIL"),
        ({"BOOTPOINT_MAIL": "smtps://bp:hunter2@mail.example.org"}, "BOOTPOINT_MAIL"),
        ({"BOOTPOINT_MAIL": "smtp://bp@mail.example.org"}, "BOOTPOINT_MAIL"),
        ({"BOOTPOINT_MAIL_FROM": ""}, "BOOTPOINT_MAIL_FROM"),
        ({"BOOTPOINT_MAIL_FROM": "bootpoint"}, "BOOTPOINT_MAIL_FROM"),
        ({"BOOTPOINT_MAIL": "smtps://bp@mail.example.org", "BOOTPOINT_MAIL_PASSWORD_FILE": ""},
         "BOOTPOINT_MAIL_PASSWORD_FILE"),
        ({"BOOTPOINT_MAIL_TEMPLATES": "texts"}, "BOOTPOINT_MAIL_TEMPLATES"),
        ({"BOOTPOINT_NOTICE_CA": "ca.pem"}, "BOOTPOINT_NOTICE_CA"),
        ({"BOOTPOINT_DIGEST": "7"}, "BOOTPOINT_DIGEST"),
        ({"BOOTPOINT_DIGEST": "24:00"}, "BOOTPOINT_DIGEST"),
        ({"BOOTPOINT_DIGEST": "07:00 Rome"}, "BOOTPOINT_DIGEST"),
        ({"BOOTPOINT_MIAL": "smtps://mail.example.org"}, "BOOTPOINT_MIAL"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_and_no_password_shown(changed: dict[str, str], key: str) -> None:
    right = {"BOOTPOINT_MAIL": "smtps://mail.example.org", "BOOTPOINT_MAIL_PASSWORD_FILE": "/etc/bp/pw", **FROM}
    with pytest.raises(SpecError) as caught:
        Config.from_environment(right | changed)
    assert caught.value.key == key
    assert "hunter2" not in f"{caught.value.message}{caught.value.as_json()}"


def test_a_password_in_the_url_is_a_secret_in_the_wrong_place() -> None:
    with pytest.raises(SpecError) as caught:
        Config.from_environment({"BOOTPOINT_MAIL": "smtps://bp:hunter2@mail.example.org", **FROM})
    assert caught.value.code is Code.SECRET_IN_SPEC
    assert "BOOTPOINT_MAIL_PASSWORD_FILE" in str(caught.value.hint)


def test_the_digest_may_be_off() -> None:
    assert Config.from_environment({"BOOTPOINT_DIGEST": "off"}).notices.digest is None
    assert Config.from_environment({"BOOTPOINT_DIGEST": "18:30"}).notices.digest == DailyHour(18 * 60 + 30, "UTC")
    assert str(Config.from_environment({"BOOTPOINT_DIGEST": "06:05 Asia/Tokyo"}).notices.digest) == "06:05 Asia/Tokyo"


def first_moments(hour: DailyHour, start: datetime, days: int) -> dict[date, datetime]:
    """Look every ten minutes, and return when each day's hour was first reached."""
    found: dict[date, datetime] = {}
    for number in range(days * 24 * 6):
        at = start + timedelta(minutes=10 * number)
        reached = hour.reached(at)
        if reached is not None:
            found.setdefault(reached[0], at)
    return found


def test_the_hour_that_is_skipped_in_spring_comes_at_the_gaps_end() -> None:
    found = first_moments(DailyHour(150, "Europe/Rome"), datetime(2026, 3, 27, 23, 0, tzinfo=UTC), 3)
    assert found == {
        date(2026, 3, 28): datetime(2026, 3, 28, 1, 30, tzinfo=UTC),
        date(2026, 3, 29): datetime(2026, 3, 29, 1, 0, tzinfo=UTC),  # 03:00 there, for 02:30 doesn't exist
        date(2026, 3, 30): datetime(2026, 3, 30, 0, 30, tzinfo=UTC),
    }


def test_the_hour_that_comes_twice_in_autumn_belongs_to_one_day() -> None:
    found = first_moments(DailyHour(150, "Europe/Rome"), datetime(2026, 10, 23, 22, 0, tzinfo=UTC), 3)
    assert found == {
        date(2026, 10, 24): datetime(2026, 10, 24, 0, 30, tzinfo=UTC),
        date(2026, 10, 25): datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
        date(2026, 10, 26): datetime(2026, 10, 26, 1, 30, tzinfo=UTC),
    }
