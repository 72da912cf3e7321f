"""Webhooks with a real receiver: what arrives, how it is signed, and what happens when it isn't taken."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import re
import select
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootpoint_common.notice import NoticeSettings
from bootpoint_common.store import delivery
from bootpoint_common.store.notice import Channel
from bootpoint_ops import read
from bootpoint_worker.notice.undelivered import Undelivered
from bootpoint_worker.notice.webhook import Webhook
from tests.service.certificate import make_authority
from tests.service.fleet import Fleet
from tests.service.guide import REPOSITORY
from tests.service.notices import Newsroom
from tests.service.web_server import Request, receiver

NOTICES = REPOSITORY / "docs/notices.md"

SECRET = b"the secret of this test"


@pytest.fixture
def newsroom(installation: Fleet, tmp_path: Path) -> Newsroom:
    return Newsroom(installation, tmp_path)


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "hook.key"
    path.write_bytes(SECRET + b"\n")
    return path


def hook(url: str, secret_file: Path | None = None, on: str = "failure") -> dict[str, Any]:
    return {"webhook": {"url": url, "secret_file": None if secret_file is None else str(secret_file), "on": on}}


def is_signed(request: Request, secret: bytes = SECRET) -> bool:
    """Check a signature as docs/notices.md says, with nothing but the standard library."""
    head = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode()
    expected = base64.b64encode(hmac.new(secret, head + request.body, hashlib.sha256).digest()).decode()
    return request.headers["webhook-signature"] == f"v1,{expected}"


def test_a_request_says_what_run_show_says_and_is_signed(newsroom: Newsroom, secret_file: Path) -> None:
    with receiver() as kept:
        newsroom.add_job("erp", notify=hook(kept.url, secret_file))
        number = newsroom.fail("erp", "host »kvm1« does not answer")
        newsroom.hook_post().round()
        (request,) = kept.requests
    body = json.loads(request.body)
    with newsroom.database.transaction() as connection:
        shown = read.run(connection, number)
    assert (request.path, request.headers["content-type"]) == ("/bp", "application/json")
    assert set(body) == {"id", "kind", "at", "job", "run", "event", "next_run_at"}
    assert (body["kind"], body["job"], body["event"]) == ("run_failed", "erp", None)
    assert body["run"] == shown
    assert body["id"] == request.headers["webhook-id"]
    assert is_signed(request)


def test_a_server_that_never_comes_to_an_end_holds_up_nobody_for_long(newsroom: Newsroom) -> None:
    newsroom.add_job("slow", notify=hook("http://127.0.0.1:1/"))
    newsroom.fail("slow")
    with newsroom.database.transaction() as connection:
        notice = delivery.claim(connection, Channel.WEBHOOK)
    assert notice is not None
    with socket.create_server(("127.0.0.1", 0)) as server:
        slow = replace(notice, address=f"http://127.0.0.1:{server.getsockname()[1]}/")
        dripping = threading.Thread(target=_drip, args=(server,))
        dripping.start()
        with pytest.raises(Undelivered, match="more than 1 s") as caught:
            Webhook(NoticeSettings(), longest=1.0).send(slow)
        dripping.join(30.0)
    assert caught.value.away


def _drip(server: socket.socket) -> None:
    """Answer a byte every 50 ms, until the other side has had enough, or 20 s."""
    taken, _ = server.accept()
    with taken, contextlib.suppress(OSError):
        taken.sendall(b"HTTP/1.1 200 OK\r\nx: ")
        for _ in range(400):
            taken.sendall(b"x")
            if select.select([taken], [], [], 0.05)[0] and not taken.recv(65536):
                return


def test_a_request_that_is_changed_or_sent_again_later_is_found_out(newsroom: Newsroom, secret_file: Path) -> None:
    with receiver() as kept:
        newsroom.add_job("erp", notify=hook(kept.url, secret_file))
        newsroom.fail("erp")
        newsroom.hook_post().round()
        (request,) = kept.requests
    assert is_signed(request)
    assert not is_signed(request, b"another secret")
    later = str(int(request.headers["webhook-timestamp"]) + 600)
    assert not is_signed(Request(request.path, request.headers | {"webhook-timestamp": later}, request.body))
    assert not is_signed(Request(request.path, request.headers | {"webhook-id": "another"}, request.body))
    assert not is_signed(Request(request.path, request.headers, request.body.replace(b"failed", b"sucked")))


def test_the_receiver_of_the_docs_tells_right_from_wrong(newsroom: Newsroom, secret_file: Path) -> None:
    block = re.search(r"^```python\n(.*?)^```$", NOTICES.read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {}
    exec(block[1], names)
    with receiver() as kept:
        newsroom.add_job("erp", notify=hook(kept.url, secret_file))
        newsroom.fail("erp")
        newsroom.hook_post().round()
        (request,) = kept.requests
    is_right, sent = names["is_right"], float(request.headers["webhook-timestamp"])
    assert not is_right(request.headers, request.body, b"another secret", set())
    assert not is_right(request.headers, request.body + b" ", SECRET, set())
    assert not is_right(request.headers, request.body, SECRET, set(), now=sent + 301)
    known: set[str] = set()
    assert is_right(request.headers, request.body, SECRET, known)
    assert not is_right(request.headers, request.body, SECRET, known), "it came twice"


def test_a_request_that_is_not_taken_comes_again_with_its_id(newsroom: Newsroom, secret_file: Path) -> None:
    with receiver() as kept:
        newsroom.add_job("erp", notify=hook(kept.url, secret_file))
        newsroom.fail("erp")
        kept.answers = [500, 200]
        post = newsroom.hook_post()
        assert post.round() == 1
        (row,) = newsroom.notices()
        assert (row["state"], row["problem"]) == ("waiting", f"{kept.url.removesuffix('/bp')} answered 500")
        assert post.round() == 0, "tried again without a pause"
        newsroom.pass_the_pause()
        assert post.round() == 1
        first, second = kept.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == str(row["id"])
    assert first.body == second.body
    assert is_signed(first)
    assert is_signed(second)
    assert newsroom.notices()[0]["state"] == "sent"


def test_a_receiver_that_is_away_holds_up_no_other(newsroom: Newsroom) -> None:
    with receiver() as kept:
        newsroom.add_job("away", notify=hook("http://127.0.0.1:9/bp"))
        newsroom.add_job("erp", notify=hook(kept.url))
        for name in ("away", "away", "erp"):
            newsroom.fail(name)
        post = newsroom.hook_post()
        post._clock = lambda: 0.0  # its pause lasts
        assert post.round() == 2, "each of the waiting ones would cost the time of a connection"
        (request,) = kept.requests
    assert json.loads(request.body)["job"] == "erp"
    assert "webhook-signature" not in request.headers


def test_redirects_are_not_followed(newsroom: Newsroom) -> None:
    with receiver() as kept:
        newsroom.add_job("erp", notify=hook(kept.url))
        newsroom.fail("erp")
        post = newsroom.hook_post()
        for status, location in ((307, "file:///etc/passwd"), (307, "/elsewhere"), (302, kept.url)):
            kept.answers, kept.location = [status], location
            newsroom.pass_the_pause()
            post.round()
        assert [request.path for request in kept.requests] == ["/bp"] * 3
    (row,) = newsroom.notices()
    assert row["state"] == "waiting"
    assert "answered 302, and redirects are not followed" in row["problem"]


def test_certificates_are_checked(newsroom: Newsroom, tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    with receiver(authority.server_context()) as kept:
        newsroom.add_job("erp", notify=hook(kept.url))
        newsroom.fail("erp")
        newsroom.hook_post().round()
        assert kept.requests == []
        assert "certificate verify failed" in newsroom.notices()[0]["problem"]
        newsroom.pass_the_pause()
        newsroom.hook_post(authorities=authority.file).round()
        assert len(kept.requests) == 1


def test_a_process_without_the_secret_leaves_the_request_to_one_that_has_it(
    newsroom: Newsroom, secret_file: Path
) -> None:
    with receiver() as kept:
        newsroom.add_job("erp", notify=hook(kept.url, secret_file))
        newsroom.fail("erp")
        secret = secret_file.read_bytes()
        secret_file.unlink()
        scheduler = newsroom.hook_post()
        scheduler._clock = lambda: 0.0  # its pause lasts
        assert scheduler.round() == 1
        (row,) = newsroom.notices()
        assert (row["state"], row["attempts"]) == ("waiting", 0)
        assert str(secret_file) in row["problem"]
        secret_file.write_bytes(secret)
        assert newsroom.hook_post().round() == 1
        (request,) = kept.requests
    assert is_signed(request)


def test_a_secret_in_the_form_of_standard_webhooks(newsroom: Newsroom, secret_file: Path) -> None:
    secret_file.write_text("whsec_" + base64.b64encode(b"\x00\xffbinary").decode())
    with receiver() as kept:
        newsroom.add_job("erp", notify=hook(kept.url, secret_file))
        newsroom.fail("erp")
        newsroom.hook_post().round()
        (request,) = kept.requests
    assert is_signed(request, b"\x00\xffbinary")


def test_the_path_of_a_url_is_not_shown(newsroom: Newsroom) -> None:
    """Who knows it may post there: it is as good as a secret."""
    with receiver() as kept:
        newsroom.add_job("erp", notify=hook(kept.url + "/T0/hunter2"))
        newsroom.fail("erp")
        kept.answers = [500]
        newsroom.execute("UPDATE notification SET created_at = now() - interval '4 days'")
        newsroom.hook_post().round()
    (said,) = newsroom.events("notice_failed")
    assert "hunter2" not in str(said)
