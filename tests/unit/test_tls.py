"""Every way in which TLS fails, met with real handshakes: messages name file or peer, the reason, and the way out."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_common.stream.carrier import CarrierLost
from bootpoint_common.stream.rabbit import connect_agent
from bootpoint_common.tls import Trust, fingerprint, read_certificates
from bootpoint_common.tls_probe import Peer, authority_of, speaks_tls, why
from bootpoint_ops.certificate import Purpose
from tests.service.tls import EXPIRED, TOMORROW, certificate, server_of, showing


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "tls"


@pytest.fixture
def trust(place: Path) -> Trust:
    return Trust(folder=certificate(place, Purpose.CLIENT, "worker"))


def reason(port: int, trust: Trust, host: str = "127.0.0.1") -> BootpointError:
    problem = why(Peer("the broker", host, port), trust)
    assert problem is not None
    assert problem.code is Code.TLS_REFUSED
    assert problem.hint
    return problem


def test_a_good_server_is_believed(place: Path, trust: Trust) -> None:
    with showing(server_of(place), demands=place / "authority/servers.pem") as port:
        assert why(Peer("the broker", "localhost", port), trust) is None


@pytest.mark.parametrize(
    ("at", "words", "hint"),
    [(EXPIRED, "certificate that has expired", "--renew"), (TOMORROW, "is not yet valid", "clocks of both machines")],
)
def test_a_server_out_of_its_time(place: Path, trust: Trust, at: object, words: str, hint: str) -> None:
    with showing(server_of(place, at=at)) as port:  # type: ignore[arg-type]
        problem = reason(port, trust)
    assert words in problem.message
    assert f"the broker 127.0.0.1:{port}" in problem.message
    assert hint in str(problem.hint)


def test_a_server_of_another_authority(place: Path, tmp_path: Path, trust: Trust) -> None:
    with showing(server_of(tmp_path / "other")) as port:
        problem = reason(port, trust)
    assert "another authority" in problem.message
    assert problem.value == str(trust.ca)


def test_a_server_of_another_name(place: Path, trust: Trust) -> None:
    with showing(server_of(place, names=("db.example.org",))) as port:
        assert "certificate of another host" in reason(port, trust).message
        assert "certificate of another host" in reason(port, trust, host="localhost").message


def test_a_client_without_a_certificate(place: Path) -> None:
    authority = Trust(authority=place / "authority/servers.pem")
    with showing(server_of(place), demands=authority.ca) as port:
        problem = reason(port, authority)
    assert "demands a client certificate, and got none" in problem.message
    assert "bootpoint tls init" in str(problem.hint)


def test_a_client_of_another_authority(place: Path, tmp_path: Path) -> None:
    other = certificate(tmp_path / "other", Purpose.CLIENT, "worker")
    server = server_of(place)
    (other / "ca.pem").write_bytes((server / "ca.pem").read_bytes())
    with showing(server, demands=server / "ca.pem") as port:
        problem = reason(port, Trust(folder=other))
    assert "doesn't know the authority of our certificate" in problem.message
    assert str(other / "cert.pem") in problem.message


@pytest.mark.parametrize(("at", "words"), [(EXPIRED, "expired at"), (TOMORROW, "is not yet valid")])
def test_our_own_certificate_out_of_its_time_names_the_file(place: Path, at: object, words: str) -> None:
    folder = certificate(place, Purpose.CLIENT, "worker", at=at)  # type: ignore[arg-type]
    with pytest.raises(BootpointError, match=words) as caught:
        Trust(folder=folder).context()
    assert caught.value.value == str(folder / "cert.pem")
    assert "copy the folder" in str(caught.value.hint) or "clock" in str(caught.value.hint)


def damage_missing(folder: Path) -> None:
    (folder / "cert.pem").unlink()


def damage_text(folder: Path) -> None:
    (folder / "ca.pem").write_text("no certificate\n")


def damage_directory(folder: Path) -> None:
    """Root could read a file without any rights; nobody can read this."""
    (folder / "key.pem").unlink()
    (folder / "key.pem").mkdir()


def damage_key(folder: Path) -> None:
    (folder / "key.pem").write_bytes((server_of(folder.parent) / "key.pem").read_bytes())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_missing, "there is no file .*cert[.]pem"),
        (damage_text, "no certificate in PEM"),
        (damage_key, "doesn't fit the certificate"),
        (damage_directory, "key[.]pem can't be read by user"),
    ],
)
def test_a_damaged_folder(place: Path, damage: Callable[[Path], None], words: str, trust: Trust) -> None:
    assert trust.folder is not None
    damage(trust.folder)
    with pytest.raises(BootpointError, match=words):
        trust.context()


@contextmanager
def plain_server(says: bytes) -> Iterator[int]:
    """Run a server that answers whatever comes with the same words; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1024)
                    connection.sendall(says)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_plain_port_spoken_to_by_tls_and_the_reverse(place: Path, trust: Trust) -> None:
    with plain_server(b"AMQP\x00\x00\x09\x01") as port:
        assert "speaks no TLS on this port" in reason(port, trust).message
        assert not speaks_tls(Peer("the broker", "127.0.0.1", port))
        with pytest.raises(CarrierLost, match="speaks no TLS on this port"):
            connect_agent(f"amqps://a:b@127.0.0.1:{port}/", "a", trust).publisher()
    with showing(server_of(place)) as port, pytest.raises(CarrierLost, match=r"speaks TLS.*use amqps://"):
        connect_agent(f"amqp://a:b@127.0.0.1:{port}/", "a").publisher()


def test_certificates_with_a_plain_url_make_no_connection(trust: Trust) -> None:
    with plain_server(b"") as port, pytest.raises(CarrierLost, match=r"is a plain amqp://.*use amqps://"):
        connect_agent(f"amqp://a:b@127.0.0.1:{port}/", "a", trust).publisher()


def test_no_word_in_a_url_turns_verification_off(place: Path, tmp_path: Path, trust: Trust) -> None:
    other = server_of(tmp_path / "other")
    options = "ssl_options=" + quote(repr({"cafile": str(other / "ca.pem")}))
    with showing(other) as port, pytest.raises(CarrierLost, match="another authority"):
        connect_agent(f"amqps://a:b@127.0.0.1:{port}/?{options}", "a", trust).publisher()


def test_the_authority_is_fetched_by_its_fingerprint_and_nothing_else_is_believed(place: Path, tmp_path: Path) -> None:
    server = server_of(place)
    root = read_certificates(place / "authority/servers.pem")[0]
    other = read_certificates(server_of(tmp_path / "other").parent / "authority/servers.pem")[0]
    with showing(server) as port:
        peer = Peer("the broker", "127.0.0.1", port)
        fetched = tmp_path / "fetched.pem"
        fetched.write_text(authority_of(peer, fingerprint(root)))
        assert read_certificates(fetched) == [root]
        assert why(peer, Trust(authority=fetched)) is None
        with pytest.raises(BootpointError, match="no certificate of the authority") as caught:
            authority_of(peer, fingerprint(other))
        assert fingerprint(root) in caught.value.message
