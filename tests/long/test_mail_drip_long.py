"""A mail server that says a byte now and then: a letter has its time, and the others aren't kept waiting."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from bootpoint_common.notice import MailServer, NoticeSettings, Security
from bootpoint_worker.notice.mail import Mail
from bootpoint_worker.notice.text import Texts
from bootpoint_worker.notice.undelivered import Undelivered
from tests.service.notices import SENDER
from tests.unit.test_notice_text import facts, notice

#: Seconds that a letter has, and that a byte of the server takes: well within the time of an answer.
LONGEST, ANSWER, BYTE = 1.0, 5.0, 0.05

#: Bytes after which the server gives up itself, so that a test that fails comes to an end.
MOST = 200

#: What a server answers in order: greeting, EHLO, MAIL, RCPT, DATA, the letter, QUIT.
ANSWERS = ["220 mail.test", "250 mail.test", "250 OK", "250 OK", "354 go on", "250 OK", "221 bye"]

#: The head of a record of TLS 1.2 that announces 16 KiB of a handshake (RFC 5246, section 6.2.1).
HANDSHAKE = b"\x16\x03\x03\x40\x00"


class Dripping:
    """A mail server whose answers come at once, but for one, of which a byte comes now and then.

    Args:
        stage: Number of that answer in `ANSWERS`.
        begin: What it begins with; by default an answer of several lines.
    """

    def __init__(self, stage: int, begin: bytes | None = None) -> None:
        self._stage, self._begin = stage, begin
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                come, _ = self._listener.accept()
            except OSError:
                return
            with come, come.makefile("rb") as read, suppress(OSError, StopIteration):
                self._talk(come, read)

    def _talk(self, come: socket.socket, read: Iterator[bytes]) -> None:
        for number, answer in enumerate(ANSWERS):
            if number == len(ANSWERS) - 2:
                while next(read) != b".\r\n":
                    pass
            elif number:
                next(read)
            if number == self._stage:
                come.sendall(self._begin or answer[:3].encode() + b"-")
                for _ in range(MOST):
                    if self._over.wait(BYTE):
                        break
                    come.sendall(b"x")
                return
            come.sendall(answer.encode() + b"\r\n")


@contextmanager
def mail(stage: int, security: Security = Security.PLAIN, begin: bytes | None = None) -> Iterator[Mail]:
    with closing(Dripping(stage, begin)) as server:
        where = MailServer(security=security, host="127.0.0.1", port=server.port)
        settings = NoticeSettings(mail=where, sender=SENDER)
        with closing(Mail(settings, Texts(), timeout=ANSWER, longest=LONGEST)) as made:
            yield made


@pytest.mark.parametrize("stage", [0, 1, 3, 5], ids=["greeting", "EHLO", "RCPT", "letter"])
def test_a_letter_that_takes_too_long_in_all_is_given_back(stage: int) -> None:
    with mail(stage) as made:
        began = time.monotonic()
        with pytest.raises(Undelivered, match="it took more than 1 s") as given_back:
            made.send(notice(facts()))
        assert time.monotonic() - began < ANSWER
        assert not given_back.value.final


def test_a_handshake_of_tls_that_takes_too_long_is_ended() -> None:
    with (
        mail(0, Security.TLS, HANDSHAKE) as made,
        pytest.raises(Undelivered, match="it took more than 1 s") as given_back,
    ):
        made.send(notice(facts()))
    assert given_back.value.away


def test_nobody_waits_for_the_farewell() -> None:
    with mail(len(ANSWERS) - 1) as made:
        made.send(notice(facts()))
        began = time.monotonic()
        made.close()
        assert time.monotonic() - began < 2 * ANSWER
