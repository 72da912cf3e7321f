"""What the host answers to HTTP: the API, the datastores' files, screens, and the way to the disks."""

from __future__ import annotations

import base64
import binascii
import contextlib
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pyVmomi import VmomiSupport, vim, vmodl

from tests.esxi import dispatch, wire
from tests.esxi.lease import RefusedError, Wish
from tests.esxi.session import Session
from tests.esxi.trouble import LostError
from tests.esxi.world import World

#: The cookie of a session.
COOKIE = "vmware_soap_session"


class Handler(BaseHTTPRequestHandler):
    """Answers one client, for as long as its connection lasts; a subclass knows the world."""

    protocol_version = "HTTP/1.1"
    # Header and body go in two pieces, and the second would wait for the first one's acknowledgement.
    disable_nagle_algorithm = True
    world: World

    def setup(self) -> None:
        self.request.do_handshake()
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is http.server's
        """Say nothing."""

    def _answer(self, status: int, body: bytes = b"", kind: str = "text/xml; charset=utf-8", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if session := self.world.admitted():
            self.send_header("Set-Cookie", f'{COOKIE}="{session.cookie}"; Path=/; HttpOnly; Secure')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _session(self) -> Session | None:
        cookies = SimpleCookie(self.headers.get("Cookie", ""))
        return self.world.sessions.find(cookies[COOKIE].value) if COOKIE in cookies else None

    # --- the API

    def do_POST(self) -> None:
        if self.path == "/disk":
            self._lend()
            return
        if self.path.rstrip("/") != "/sdk":
            self._answer(404)
            return
        try:
            self._call(self._body())
        except LostError:
            self.close_connection = True

    def _call(self, body: bytes) -> None:
        version = self._version()
        try:
            call = wire.read_call(body)
            if self.world.trouble.loses(self.world.trouble.deaf, call.method):
                raise LostError
            value = dispatch.answer(self.world, call, self._session())
            text = wire.result(call, value, version)
            if self.world.trouble.loses(self.world.trouble.dumb, call.method):
                raise LostError
        except LostError:
            raise
        except vmodl.MethodFault as raised:
            # Faults come with status 500 (SOAP 1.1, section 6.2).
            self._answer(500, wire.fault(raised, version))
        except Exception as exc:
            # It is the stand-in's own: the client is told, and the test's output shows it.
            mistake = vmodl.fault.SystemError(reason=str(exc), msg=f"mistake of the stand-in: {exc!r}")
            self._answer(500, wire.fault(mistake, version))
            raise
        else:
            self._answer(200, text)

    def _version(self) -> str:
        spoken = self.headers.get("SOAPAction", "").strip('"').removeprefix("urn:")
        version = VmomiSupport.versionMap.get(spoken, "vim.version.version1")
        # A client that knows a newer version than the host is spoken to in the host's.
        return version if VmomiSupport.IsChildVersion(self.world.guise.spoken, version) else self.world.guise.spoken

    def do_GET(self) -> None:
        path = urlsplit(self.path)
        if path.path == "/sdk/vimServiceVersions.xml":
            self._answer(200, _versions(self.world.guise.uri))
        elif path.path == "/screen":
            self._screen(parse_qs(path.query))
        elif path.path.startswith("/folder"):
            self._file()
        else:
            self._answer(404)

    do_HEAD = do_GET  # noqa: N815 - likewise

    # --- files of datastores ("/folder": "Access to datastore files by HTTP", vSphere Web Services SDK Programming
    # Guide)

    def _login(self, privilege: str) -> bool:
        """Tell whether the client may, by its session or by its login; answer when it may not."""
        user = None
        if session := self._session():
            user = session.user
        elif (given := self.headers.get("Authorization", "")).startswith("Basic "):
            with contextlib.suppress(binascii.Error, UnicodeDecodeError, vim.fault.InvalidLogin):
                name, _, password = base64.b64decode(given[6:]).decode().partition(":")
                user = self.world.sessions.authenticate(name, password)
        if user is None:
            self._answer(401, WWW_Authenticate='Basic realm="VMware HTTP server"')
            return False
        if not user.may(privilege):
            self._answer(403)
            return False
        return True

    def _place(self) -> Path | None:
        """Return the file that is asked for; answer when there is no such datastore."""
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        inside = unquote(parts.path.removeprefix("/folder")).strip("/")
        try:
            if query.get("dcPath", [self.world.datacenter.name]) != [self.world.datacenter.name]:
                raise vim.fault.InvalidDatastore(msg="no such datacenter")
            return self.world.locate(f"[{query.get('dsName', [''])[0]}] {inside}")
        except (vim.fault.InvalidDatastore, vim.fault.InvalidDatastorePath):
            self._answer(404)
            return None

    def _file(self) -> None:
        if not self._login("Datastore.Browse") or (path := self._place()) is None:
            return
        if path.is_dir():
            names = "".join(
                f'<tr><td><a href="{each.name}">{each.name}</a></td></tr>' for each in sorted(path.iterdir())
            )
            self._answer(200, f"<html><table>{names}</table></html>".encode(), "text/html")
        elif path.is_file():
            self._answer(200, path.read_bytes(), "application/octet-stream")
        else:
            self._answer(404)

    def do_PUT(self) -> None:
        body = self._body()
        if not self.path.startswith("/folder"):
            self._answer(404)
        elif self._login("Datastore.FileManagement") and (path := self._place()) is not None:
            if self.world.trouble.free_licence:
                self._answer(403)
            elif not path.parent.is_dir():
                self._answer(404)
            elif len(body) > self.world.datastore_of(self.world.name_of(path)).free_bytes:
                self._answer(507)
            else:
                made = not path.exists()
                path.write_bytes(body)
                self._answer(201 if made else 200)

    def do_DELETE(self) -> None:
        if not self.path.startswith("/folder"):
            self._answer(404)
        elif self._login("Datastore.FileManagement") and (path := self._place()) is not None:
            if not path.is_file():
                self._answer(404)
            else:
                path.unlink()
                self._answer(204)

    # --- screens

    def _screen(self, query: dict[str, list[str]]) -> None:
        """Answer with what a machine's screen shows: ``/screen?id=``, which hosts have and no reference names."""
        if not self._login("VirtualMachine.Interact.ConsoleInteract"):
            return
        machine = self.world.objects.get(query.get("id", [""])[0])
        if machine is None or machine.kind is not vim.VirtualMachine or not machine.guest.on:
            self._answer(404)
            return
        self._answer(200, machine.guest.screen(), "image/png")

    # --- disks

    def _lend(self) -> None:
        wish = Wish.read(self._body())
        try:
            if not wish.path:
                self.world.leases.admit(wish)
                self._answer(200)
                return
            with self.world.leases.hold(wish) as lease:
                self._answer(200, lease.answer())
                # The library says nothing more; its connection ends when it closes the disk, or dies.
                with contextlib.suppress(OSError):
                    self.rfile.read(1)
        except RefusedError as exc:
            self._answer(403, exc.answer())
        self.close_connection = True


def _versions(uri: str) -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><namespaces version="1.0"><namespace><name>urn:vim25</name>'
        f"<version>{uri}</version><priorVersions><version>2.5</version><version>2.0</version></priorVersions>"
        "</namespace></namespaces>"
    ).encode()
