"""One kept session to an ESXi host or a vCenter: calls, reads, tasks and files, each with a time limit.

Nothing is read through the attributes of pyVmomi's objects, which cost a round trip each and fetch whole trees: a
read is one ``RetrievePropertiesEx`` with the paths that are wanted. A session that the host has ended (after 30 minutes
of silence, or when its management agent restarts) is renewed once; the call that met its end was not carried out. Of a
connection that the host has closed nobody knows that: only what reads is repeated.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from http.client import BadStatusLine, HTTPException, HTTPSConnection
from ssl import SSLEOFError, SSLZeroReturnError
from typing import TYPE_CHECKING, Any, TypeVar
from xml.parsers.expat import ExpatError

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.certificate import CONNECT_TIMEOUT, fingerprint_of, pinned
from bootpoint_worker.targets.esxi.fault import error_of, mapped
from bootpoint_worker.targets.esxi.query import Query
from bootpoint_worker.targets.esxi.version import VERSIONS, newest_common, require_version
from bootpoint_worker.targets.host import HostAccess

if TYPE_CHECKING:
    from pyVmomi import vim
    from pyVmomi.SoapAdapter import SoapStubAdapter

T = TypeVar("T")

#: Seconds that the answer to one call may take: what takes long is a task, and only begun by a call.
CALL_TIMEOUT = 120.0

#: Seconds after which an idle connection isn't used again: hosts close theirs after some minutes, without a word.
IDLE_TIMEOUT = 30

#: Seconds that a task may take by default: making a snapshot, or a VM, on a busy host.
TASK_TIMEOUT = 600.0

#: Seconds between two looks at a task: at first, and at most.
TASK_TICKS = 0.05, 1.0

#: What a call meets on a connection that the host has closed since the last one: at once, unlike a host that is away.
_CLOSED = (ConnectionError, BadStatusLine, SSLEOFError, SSLZeroReturnError)


class Client:
    """One host; not thread-safe. Nothing is sent before the first use.

    Args:
        access: Address, port, account, password, and the fingerprint of the certificate.

    Attributes:
        host: Name of the host.
    """

    def __init__(self, *, access: HostAccess) -> None:
        self.host = access.name
        self._access = access
        self._context = pinned(access)
        self._stub: SoapStubAdapter | None = None
        self._content: vim.ServiceInstanceContent | None = None

    @property
    def content(self) -> vim.ServiceInstanceContent:
        """The host's managers and its root, once logged in.

        Raises:
            RetryableError: ``host_unreachable``.
            FatalError: ``host_auth``, ``host_key_changed``, ``host_unsupported``, ``credentials_not_saved``.
        """
        if self._content is not None:
            return self._content
        with mapped(self.host):
            return self._log_in()

    @property
    def is_vcenter(self) -> bool:
        """Whether it is a vCenter, which manages hosts, and not a host itself."""
        return bool(self.content.about.apiType == "VirtualCenter")

    @property
    def thumbprint(self) -> str:
        """SHA-1 of the accepted certificate with colons, by which VDDK knows a host."""
        _ = self.content
        return fingerprint_of(self._context.shown, "sha1")

    def managed(self, kind: str, moref: str) -> Any:
        """Return the object of a kind (``VirtualMachine``) with an id (``42``); whether it is there isn't asked."""
        _ = self.content
        from pyVmomi import VmomiSupport

        return VmomiSupport.GetWsdlType("urn:vim25", kind)(moref, self._stub)

    def call(self, function: Callable[[], T], *, safe: bool = False) -> T:
        """Make a call; repeat it once with a new session when the old one was ended.

        Args:
            function: Makes the call, with objects of this client.
            safe: Whether it only reads: it is repeated, too, when the host has closed a connection that was kept.

        Returns:
            What it returns.

        Raises:
            BootpointError: See `fault.MEANINGS`.
        """
        kept = self._content is not None
        _ = self.content
        from pyVmomi import vim

        with mapped(self.host):
            try:
                return function()
            except vim.fault.NotAuthenticated:
                self._log_in()
                return function()
            except (OSError, HTTPException) as exc:
                # The session is left to the host: a goodbye would wait for it as long again.
                self._content = None
                if not (kept and safe and isinstance(exc, _CLOSED)):
                    raise
            self._log_in()
            return function()

    def run(self, function: Callable[[], vim.Task], *, timeout: float = TASK_TIMEOUT) -> Any:
        """Make a call that begins a task, and wait for its end; see `call` and `wait`."""
        return self.wait(self.call(function), timeout=timeout)

    def wait(self, task: vim.Task, *, timeout: float = TASK_TIMEOUT) -> Any:
        """Wait until a task has ended.

        Args:
            task: The task.
            timeout: Seconds.

        Returns:
            Its result; None when it has none.

        Raises:
            RetryableError: ``busy``: it hasn't ended in time, and goes on.
            BootpointError: What it failed with; see `fault.MEANINGS`.
        """
        deadline = time.monotonic() + timeout
        tick, longest = TASK_TICKS
        while True:
            # Never `info` as a whole: it names the entity, and not every host gives that the type that pyVmomi expects.
            seen = self.read(task, "info.state", "info.error", "info.result")
            if seen["info.state"] == "success":
                return seen.get("info.result")
            if seen["info.state"] == "error":
                raise error_of(self.host, seen["info.error"]) from seen["info.error"]
            if time.monotonic() > deadline:
                raise error(Code.BUSY, f"host {self.host} has not ended a task within {timeout:.0f} s", host=self.host)
            time.sleep(tick)
            tick = min(2 * tick, longest)

    def read(self, entity: Any, *paths: str, optional: Sequence[str] = ()) -> dict[str, Any]:
        """Read some properties of one object.

        Args:
            entity: The object.
            paths: Paths of properties (``config.name``).
            optional: Paths that the account may have no right to read; they are left out then.

        Returns:
            Path -> value; those without a value are left out.

        Raises:
            RetryableError: ``layer_lost``: it is gone.
            FatalError: ``host_permission``.
        """
        found = self.read_each([entity], *paths, optional=optional)
        return found[0][1] if found else {}

    def read_each(
        self, entities: Iterable[Any], *paths: str, optional: Sequence[str] = ()
    ) -> list[tuple[Any, dict[str, Any]]]:
        """Read the same properties of several objects of one kind; see `read`."""
        chosen = list(entities)
        if not chosen:
            return []
        asked = Query.of_each(chosen, paths, optional)
        return self.call(lambda: asked.fetch(self.content.propertyCollector), safe=True)

    def read_all(
        self, kind: str, *paths: str, optional: Sequence[str] = (), root: Any = None
    ) -> list[tuple[Any, dict[str, Any]]]:
        """Read properties of all objects of a kind, with the objects; see `read`.

        Args:
            kind: Name of the kind: ``VirtualMachine``.
            paths: Paths of properties.
            optional: Paths that the account may have no right to read.
            root: Folder, datacenter, … below which to look; None for everywhere.
        """
        content = self.content
        from pyVmomi import VmomiSupport

        wanted = VmomiSupport.GetWsdlType("urn:vim25", kind)
        within = root or content.rootFolder

        def fetched() -> list[tuple[Any, dict[str, Any]]]:
            view = content.viewManager.CreateContainerView(container=within, type=[wanted], recursive=True)
            found = Query.of_view(view, wanted, paths, optional).fetch(content.propertyCollector)
            # After an error it is left to the session's end, which may be what the error is about.
            view.DestroyView()
            return found

        return self.call(fetched, safe=True)

    def http(self, method: str, target: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send a request of HTTP with the session, such as for a file of a datastore.

        Args:
            method: ``GET``, ``PUT``, ``DELETE``.
            target: Path and query, quoted: ``/folder/vm/a.json?dcPath=…&dsName=…``.
            body: What to send.

        Returns:
            Status and body; a session that was ended was renewed once.

        Raises:
            RetryableError: ``host_unreachable``.
        """
        _ = self.content
        status, answer = self._request(method, target, body)
        if status == 401:
            with mapped(self.host):
                self._log_in()
            status, answer = self._request(method, target, body)
        return status, answer

    def close(self) -> None:
        """End the session; may be called twice, and never fails."""
        stub, self._stub = self._stub, None
        content, self._content = self._content, None
        if stub is None:
            return
        from pyVmomi import vmodl

        stub.DropConnections()
        stub.schemeArgs["timeout"] = CONNECT_TIMEOUT
        # What isn't ended here ends by itself after 30 minutes.
        with contextlib.suppress(OSError, HTTPException, ExpatError, BootpointError, vmodl.MethodFault):
            if content is not None:
                content.sessionManager.Logout()
        stub.DropConnections()

    def _log_in(self) -> vim.ServiceInstanceContent:
        """Begin a session, or a new one in place of one that was ended: objects that are in use stay valid."""
        from pyVmomi import vim

        access = self._access
        if access.password is None:
            raise error(Code.CREDENTIALS_NOT_SAVED, f"host {self.host} has no password", host=self.host)
        if self._stub is None:
            self._stub = self._connect()
        self._stub.cookie = ""
        try:
            content = vim.ServiceInstance("ServiceInstance", self._stub).RetrieveContent()
            # Before the password is sent.
            require_version(access, content.about)
            content.sessionManager.Login(userName=access.user, password=access.password, locale=None)
        except BaseException:
            self._stub.DropConnections()
            raise
        self._content = content
        return content

    def _connect(self) -> SoapStubAdapter:
        from pyVmomi import SoapAdapter

        return SoapAdapter.SoapStubAdapter(
            host=self._access.address,
            port=self._access.port,
            version=newest_common(self._access, *self._request("GET", VERSIONS)),
            poolSize=1,
            sslContext=self._context,
            httpConnectionTimeout=CALL_TIMEOUT,
            connectionPoolTimeout=IDLE_TIMEOUT,
        )

    def _request(self, method: str, target: str, body: bytes = b"") -> tuple[int, bytes]:
        access = self._access
        connection = HTTPSConnection(access.address, access.port, timeout=CONNECT_TIMEOUT, context=self._context)
        cookie = {"Cookie": self._stub.cookie.partition(";")[0]} if self._stub is not None else {}
        with mapped(self.host):
            try:
                connection.connect()
                connection.sock.settimeout(CALL_TIMEOUT)
                connection.request(method, target, body=body or None, headers=cookie)
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                connection.close()
