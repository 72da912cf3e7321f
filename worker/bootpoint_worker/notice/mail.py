"""Notices by mail: a letter from a row, and the session with the mail server.

Every failure becomes `Undelivered`, and says what is at fault: the letter (this one won't arrive), the moment (it is
tried again), or the server (so is everything else).
"""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
from collections.abc import Iterator
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_common.notice import MailServer, NoticeSettings, Security
from bootpoint_common.store.delivery import Notice

from .deadline import Deadline
from .text import Texts
from .trust import tls_context
from .undelivered import Undelivered

#: Seconds that the server may take for each answer. Standards allow minutes (RFC 5321, section 4.5.3.2); but a letter
#: that isn't taken now is tried again, and others wait behind it.
TIMEOUT = 10.0

#: Seconds that a letter may take in all, with its session: ten answers, each of which would be just in time, took 100.
LONGEST = 60.0


#: What a server greets with (RFC 5321, section 4.2.3).
_READY = 220


class Mail:
    """Writes letters and hands them in; a session is kept until `close`. For one thread.

    Args:
        settings: The mail server and the sender.
        texts: What letters say.
        timeout: Seconds that the server may take for each answer.
        longest: Seconds that a letter may take in all.
    """

    def __init__(
        self, settings: NoticeSettings, texts: Texts, *, timeout: float = TIMEOUT, longest: float = LONGEST
    ) -> None:
        if settings.mail is None or settings.sender is None:
            raise ValueError("mail needs a server and a sender")
        self._server: MailServer = settings.mail
        self._sender = settings.sender
        self._settings = settings
        self._texts = texts
        self._timeout = timeout
        self._longest = longest
        self._session: _Session | None = None

    def check(self) -> None:
        """Look at everything that can be looked at without the server.

        Raises:
            UsageError: ``spec_invalid``: a file can't be used.
        """
        self._texts.check()
        tls_context(self._settings.authorities)
        if self._server.user is not None:
            self._password()

    def send(self, notice: Notice) -> None:
        """Hand a letter in.

        Raises:
            Undelivered: The server did not take it, or did not say so.
        """
        letter = self.letter(notice)
        with Deadline(self._longest) as deadline:
            session = self._session
            # smtplib closes a session itself where the server says 421.
            if session is None or session.sock is None:
                with _away(f"mail server {self._server.host}:{self._server.port}", deadline):
                    session = self._session = self._open(deadline)
            else:
                session.hold(deadline)
            with self._taken(notice.address, deadline):
                session.send_message(letter)

    def close(self) -> None:
        """End the session, if there is one; may be called again."""
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(OSError, smtplib.SMTPException), Deadline(self._timeout) as deadline:
                session.hold(deadline)
                session.quit()
            session.close()

    def letter(self, notice: Notice) -> EmailMessage:
        """Write the letter of a row: the same each time."""
        subject, text = self._texts.write(notice.kind, notice.facts)
        letter = EmailMessage(policy=SMTP)
        letter["From"] = _address(self._sender.name, self._sender.address)
        letter["To"] = _address("", notice.address)
        letter["Subject"] = subject
        letter["Date"] = notice.created_at
        letter["Message-ID"] = notice.message_id
        letter["Auto-Submitted"] = "auto-generated"  # no vacation notice answers it (RFC 3834)
        letter["X-Bootpoint-Kind"] = notice.kind
        if notice.job is not None and "others" not in notice.facts:
            letter["X-Bootpoint-Job"] = notice.job
        # Not 8bit: no server has to take it. Not as it is: lines may be longer than the 998 characters of SMTP.
        letter.set_content(text, charset="utf-8", cte="quoted-printable")
        return letter

    def _open(self, deadline: Deadline) -> _Session:
        server, context = self._server, tls_context(self._settings.authorities)
        session: _Session
        if server.security is Security.TLS:
            session = _TlsSession(timeout=self._timeout, context=context)
        else:
            session = _Session(timeout=self._timeout)
        session.deadline = deadline
        try:
            session.reach(server.host, server.port)
            session.ehlo_or_helo_if_needed()
            if server.security is Security.STARTTLS:
                session.starttls(context=context)
            if server.user is not None:
                session.login(server.user, self._password())
        except BaseException:
            session.close()
            raise
        return session

    def _password(self) -> str:
        file = self._settings.password_file
        try:
            found = "" if file is None else file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as exc:
            found, why = "", str(exc)
        else:
            why = "it is empty"
        if not found:
            raise error(
                Code.SPEC_INVALID, f"the mail server's password can't be read from {file}: {why}",
                key="BOOTPOINT_MAIL_PASSWORD_FILE", value=str(file), hint="let bootpoint's user read it",
            )  # fmt: skip
        return found

    @contextlib.contextmanager
    def _taken(self, address: str, deadline: Deadline) -> Iterator[None]:
        """Say what became of a letter; a session in which something went wrong is not used again."""
        try:
            yield
        except smtplib.SMTPRecipientsRefused as exc:
            code, answer = next(iter(exc.recipients.values()))
            raise Undelivered(f"{address} was refused: {_answer(code, answer)}", final=code >= 500) from exc
        except smtplib.SMTPDataError as exc:
            text = f"the letter was refused: {_answer(exc.smtp_code, exc.smtp_error)}"
            raise Undelivered(text, final=exc.smtp_code >= 500) from exc
        except smtplib.SMTPSenderRefused as exc:
            text = f"the sender {self._sender.address} was refused: {_answer(exc.smtp_code, exc.smtp_error)}"
            raise Undelivered(text, away=True) from exc
        except smtplib.SMTPNotSupportedError as exc:
            raise Undelivered(f"{address}: the server takes ASCII addresses only", final=True) from exc
        except (OSError, smtplib.SMTPException) as exc:
            self.close()
            cause = deadline.why or _cause(exc)
            raise Undelivered(f"the server did not say that it took the letter: {cause}") from exc


class _Session(smtplib.SMTP):
    """A session whose connection a deadline can end, from when it stands and before the server says a word."""

    deadline: Deadline
    _wire: socket.socket | None = None

    def reach(self, host: str, port: int) -> None:
        """Connect, and hear the greeting.

        Raises:
            SMTPConnectError: The server greets with a refusal.
        """
        self._host = host  # whose certificate TLS wants; smtplib knows it only where it connects at once
        code, answer = self.connect(host, port)
        if code != _READY:
            raise smtplib.SMTPConnectError(code, answer)

    def hold(self, deadline: Deadline) -> None:
        """Put the connection under the deadline of another delivery."""
        if self._wire is not None:
            deadline.hold(self._wire)

    def close(self) -> None:
        """May be called twice."""
        super().close()
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        made: socket.socket = super()._get_socket(host, port, timeout)  # type: ignore[misc] # typeshed leaves it out
        self._wire = made.dup()  # the socket of TLS has no copies
        self.deadline.hold(made)
        return made


class _TlsSession(smtplib.SMTP_SSL, _Session):
    """Likewise: `SMTP_SSL._get_socket` calls the one above for what is below TLS."""


@contextlib.contextmanager
def _away(server: str, deadline: Deadline) -> Iterator[None]:
    """Say that no session could be opened: everything that waits would fare alike."""
    try:
        yield
    except BootpointError as exc:
        raise Undelivered(exc.message, elsewhere=True) from exc
    except smtplib.SMTPAuthenticationError as exc:
        raise Undelivered(f"{server} refused the login: {_answer(exc.smtp_code, exc.smtp_error)}", away=True) from exc
    except smtplib.SMTPNotSupportedError as exc:
        raise Undelivered(f"{server} can't be spoken to as BOOTPOINT_MAIL says: {exc}", away=True) from exc
    except ssl.SSLCertVerificationError as exc:
        text = f"{server} has a certificate that isn't trusted: {exc.verify_message}"
        raise Undelivered(text, away=True) from exc
    except UnicodeError as exc:  # its text may show the password
        text = f"{server} can't be logged in to: user and password may have ASCII letters only"
        raise Undelivered(text, away=True) from exc
    except (OSError, smtplib.SMTPException) as exc:
        raise Undelivered(f"{server} does not answer: {deadline.why or _cause(exc)}", away=True) from exc


def _address(name: str, address: str) -> Address:
    """Return an address as it travels: a domain with letters beyond ASCII has a form within it (RFC 3490)."""
    local, _, domain = address.rpartition("@")
    try:
        return Address(name, local, domain.encode("idna").decode())
    except ValueError as exc:
        raise Undelivered(f"{address!r} is no address: {exc}", final=True) from exc


def _answer(code: int, text: bytes | str) -> str:
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return f"{code} {' '.join(words.split())}"


def _cause(exc: BaseException) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__
