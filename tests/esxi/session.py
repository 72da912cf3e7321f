"""Users, what they may do, and their sessions."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from tests.esxi.managed import Managed, operation
from tests.esxi.wire import Call

if TYPE_CHECKING:
    pass

#: Seconds without a call after which a session ends: 30 minutes ("UserSession" and "SessionManager", vSphere API).
IDLE_SECONDS = 1800.0

#: What every session may do, whatever its role ("Required privileges for common tasks": System.*, vSphere Security).
ALWAYS = {"System.Anonymous", "System.View", "System.Read"}

#: What methods ask for whose definition names no privilege (their "Required Privileges" in the vSphere API's
#: reference).
FURTHER: dict[str, tuple[str, ...]] = {
    "Destroy_Task": ("VirtualMachine.Inventory.Delete",),
    "Rename_Task": ("VirtualMachine.Config.Rename",),
    "MakeDirectory": ("Datastore.FileManagement",),
    "DeleteDatastoreFile_Task": ("Datastore.FileManagement",),
    "MoveDatastoreFile_Task": ("Datastore.FileManagement",),
    "CopyDatastoreFile_Task": ("Datastore.FileManagement",),
    "DeleteVirtualDisk_Task": ("Datastore.FileManagement",),
    "CopyVirtualDisk_Task": ("Datastore.FileManagement",),
    "SearchDatastore_Task": ("Datastore.Browse",),
    "SearchDatastoreSubFolders_Task": ("Datastore.Browse",),
}


@dataclass(frozen=True, slots=True)
class User:
    """Who may log in.

    Attributes:
        name: The login.
        password: In the clear.
        privileges: Ids of what the user may do; None for an administrator, who may do all.
    """

    name: str
    password: str
    privileges: frozenset[str] | None = None

    def may(self, privilege: str) -> bool:
        """Tell whether the user has a privilege."""
        return self.privileges is None or privilege in ALWAYS or privilege in self.privileges


@dataclass
class Session:
    """What a login gave.

    Attributes:
        user: Who logged in.
        key: Id that others may know.
        cookie: What the client shows with every call.
        began: When.
        used: Clock's time of the last call, in seconds.
    """

    user: User
    used: float
    key: str = field(default_factory=lambda: secrets.token_hex(16))
    cookie: str = field(default_factory=lambda: secrets.token_hex(20))
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    def described(self) -> Any:
        """Return it as clients see it."""
        now = datetime.now(UTC)
        return vim.UserSession(
            key=self.key, userName=self.user.name, fullName=self.user.name, loginTime=self.began, lastActiveTime=now,
            locale="en", messageLocale="en", extensionSession=False, ipAddress="127.0.0.1", userAgent="", callCount=1,
        )  # fmt: skip


class Sessions:
    """All users and sessions.

    Args:
        users: Who may log in.
        clock: Gives seconds.
    """

    def __init__(self, users: list[User], clock: Callable[[], float] = time.monotonic) -> None:
        self.users = users
        self._clock = clock
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()

    def authenticate(self, name: str, password: str) -> User:
        """Return the user.

        Raises:
            vim.fault.InvalidLogin: There is no such user, or the password is another.
        """
        for user in self.users:
            if user.name == name and secrets.compare_digest(user.password, password):
                return user
        raise vim.fault.InvalidLogin(msg="Cannot complete login due to an incorrect user name or password.")

    def begin(self, user: User) -> Session:
        """Open a session."""
        session = Session(user, self._clock())
        with self._lock:
            self._open[session.cookie] = session
        return session

    def find(self, cookie: str) -> Session | None:
        """Return the session of a cookie, if it lives."""
        with self._lock:
            session = self._open.get(cookie)
            if session is None:
                return None
            if self._clock() - session.used > IDLE_SECONDS:
                del self._open[cookie]
                return None
            session.used = self._clock()
            return session

    def end(self, session: Session) -> None:
        """Close a session."""
        with self._lock:
            self._open.pop(session.cookie, None)

    def expire(self) -> None:
        """Close all sessions, as a restart of the management agent does."""
        with self._lock:
            self._open.clear()

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)


class Rights:
    """What calls ask for beyond what their definition names."""

    def further(self, call: Call, entity: Managed) -> tuple[str, ...]:
        """Return the ids of the privileges."""
        if call.method == "Rename_Task" and entity.kind is not vim.VirtualMachine:
            return ()
        if call.method == "ReconfigVM_Task":
            return tuple(_of_spec(call.arguments["spec"]))
        if call.method == "CreateVM_Task":
            disks = any(
                isinstance(change.device, vim.vm.device.VirtualDisk) for change in call.arguments["config"].deviceChange
            )
            return ("Datastore.AllocateSpace", *(("VirtualMachine.Config.AddNewDisk",) if disks else ()))
        return FURTHER.get(call.method, ())


def _of_spec(spec: Any) -> list[str]:
    """Return what a change needs ("ReconfigVM_Task", vSphere API)."""
    wanted = []
    for name, privilege in (
        ("name", "VirtualMachine.Config.Rename"), ("annotation", "VirtualMachine.Config.Annotation"),
        ("numCPUs", "VirtualMachine.Config.CPUCount"), ("memoryMB", "VirtualMachine.Config.Memory"),
        ("guestId", "VirtualMachine.Config.Settings"),
        ("changeTrackingEnabled", "VirtualMachine.Config.ChangeTracking"),
    ):  # fmt: skip
        if getattr(spec, name) is not None:
            wanted.append(privilege)
    if spec.extraConfig:
        wanted.append("VirtualMachine.Config.AdvancedConfig")
    return wanted + [_of_change(change) for change in spec.deviceChange]


def _of_change(change: Any) -> str:
    if isinstance(change.device, vim.vm.device.VirtualDisk):
        if change.operation == "remove":
            return "VirtualMachine.Config.RemoveDisk"
        if change.operation == "edit":
            return "VirtualMachine.Config.DiskExtend"
        return "VirtualMachine.Config.AddNewDisk" if change.fileOperation else "VirtualMachine.Config.AddExistingDisk"
    return "VirtualMachine.Config.EditDevice" if change.operation == "edit" else "VirtualMachine.Config.AddRemoveDevice"


class SessionManager(Managed):
    """Logs in and out."""

    kind = vim.SessionManager

    @property
    def current_session(self) -> Any:
        """The asker's session."""
        session = self.world.asker
        return None if session is None else session.described()

    @operation
    def login(self, user_name: str, password: str, locale: str | None = None) -> Any:
        """Open a session, whose cookie goes with the answer."""
        session = self.world.sessions.begin(self.world.sessions.authenticate(user_name, password))
        self.world.admit(session)
        return session.described()

    @operation
    def logout(self) -> None:
        """Close the asker's session."""
        if self.world.asker is None:
            raise vim.fault.NotAuthenticated(msg="The session is not authenticated.")
        self.world.sessions.end(self.world.asker)

    @operation
    def session_is_active(self, session_id: str, user_name: str) -> bool:
        """Tell whether a session is the asker's."""
        asker = self.world.asker
        return asker is not None and asker.key == session_id and asker.user.name == user_name


class AuthorizationManager(Managed):
    """Says who may do what."""

    kind = vim.AuthorizationManager

    @operation
    def has_privilege_on_entities(self, entity: list[Any], session_id: str, priv_id: list[str]) -> Any:
        """Tell which privileges the asker has on entities: on all the same here."""
        asker = self.world.asker
        assert asker is not None
        granted = [
            vim.AuthorizationManager.PrivilegeAvailability(privId=name, isGranted=asker.user.may(name))
            for name in priv_id
        ]
        return [vim.AuthorizationManager.EntityPrivilege(entity=each, privAvailability=granted) for each in entity]
