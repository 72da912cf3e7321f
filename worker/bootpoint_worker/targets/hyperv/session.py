r"""Operations on a Hyper-V host: each is a call of our PowerShell module, whose arguments and result are files.

::

    C:\Windows\bootpoint\bootpoint-<hash>.ps1        the module, of this version
                         calls\<id>\arguments.json   written before the call
                                    result.json      written by the module, at its end, by a rename

Nothing is ever built into the text of a script, no result has to fit into an answer of WinRM, and a call whose
connection was cut is looked up by its folder: PowerShell goes on without us. Only administrators may write to that
folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import uuid4

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.smb import SmbFiles
from bootpoint_worker.smb.path import join, parent
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.hyperv import script
from bootpoint_worker.targets.hyperv.fault import error_of
from bootpoint_worker.targets.hyperv.way import smb_access
from bootpoint_worker.targets.hyperv.winrm import Output, opened

#: Our folder on the host. Below ``C:\Windows`` only administrators may make files: no user can put a module there.
FOLDER = "C:\\Windows\\bootpoint"

#: How PowerShell is started: without anybody's profile, and whatever the host's policy for scripts says of our file.
POWERSHELL = ("-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass", "-File")

#: Files of a call.
ARGUMENTS, RESULT = "arguments.json", "result.json"

#: What PowerShell's errors are known by in every language, without the line breaks that it puts anywhere -> the way out
#: (about_Execution_Policies, about_Language_Modes).
POLICIES = {
    "FullyQualifiedErrorId:UnauthorizedAccess": (
        "a policy forbids scripts: set Turn on Script Execution to Allow all scripts for this host"
    ),
    "InConstrainedLanguage": (
        f"a policy for programs (AppLocker, App Control) holds scripts to a part of the language: allow {FOLDER} by it"
    ),
}

#: Seconds for a call by default: PowerShell loads the Hyper-V module in some, and a busy host takes its time.
CALL_TIMEOUT = 120.0

#: Seconds for the result of a call whose connection was cut; it can be looked up as soon as files can be read again.
LOOKUP_TIMEOUT = 30.0

#: Seconds between two looks for a result.
LOOKUP_TICK = 0.5

#: Age of folders that calls left behind, for somebody to look into, until they are deleted.
KEPT = timedelta(days=1)


class HyperVSession:
    """A kept session with one host: `files`, and operations of the module; not thread-safe.

    Args:
        access: How it is reached; nothing is sent before the first use.

    Attributes:
        access: How it is reached.
        files: Its files, by their paths there.
    """

    def __init__(self, access: HostAccess) -> None:
        self.access = access
        self.files = SmbFiles(smb_access(access))
        self._staged = False
        self._cleared_up = False

    def call(
        self, operation: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = CALL_TIMEOUT,
        safe: bool = False,
    ) -> Any:  # fmt: skip
        """Carry out an operation of the module.

        Args:
            operation: Its name.
            arguments: What it is given, as JSON can say it.
            timeout: Seconds; the host ends it then.
            safe: Whether it only reads: it is done once more when it was cut off. Others aren't, for the first one may
                go on beside the second.

        Returns:
            What it returned, as JSON said it.

        Raises:
            RetryableError: ``host_unreachable``; ``busy``: it has not ended in time; what the module says.
            FatalError: ``host_auth``, ``host_permission``, ``host_unsupported``; what the module says.
        """
        said = self._call(operation, arguments or {}, timeout)
        if safe and isinstance(said, BootpointError):
            said = self._call(operation, arguments or {}, timeout)
        if isinstance(said, BootpointError):
            raise said
        if said.get("ok") is True:
            return said.get("value")
        raise error_of(self.access.name, operation, said.get("error") or {})

    def close(self) -> None:
        """End the session; may be called twice, and never fails."""
        self.files.close()

    def _call(self, operation: str, arguments: Mapping[str, Any], timeout: float) -> dict[str, Any] | BootpointError:
        """Call the module once.

        Returns:
            What it wrote; why it was cut off, where nothing came of it.
        """
        module = self._stage()
        folder = join(FOLDER, "calls", uuid4().hex)
        self.files.make_folder(folder)
        self._clear_up(folder)
        self.files.put(join(folder, ARGUMENTS), json.dumps(arguments).encode())
        begun = False
        try:
            with opened(self.access, timeout=timeout) as shell:
                begun = True
                output = shell.run("powershell.exe", [*POWERSHELL, module, operation, folder], timeout=timeout)
        except BootpointError as problem:
            if not begun or problem.code is not Code.HOST_UNREACHABLE:
                self._forget(folder)
                raise
            return self._look_up(folder, min(timeout, LOOKUP_TIMEOUT)) or problem
        said = self._result(folder)
        if said is None:
            self._staged = False  # somebody may have cleared our folder up
            raise self._silent(operation, folder, output)
        self._forget(folder)
        return said

    def _stage(self) -> str:
        """Put the module onto the host, unless it is there; once in a session."""
        path = join(FOLDER, script.file_name())
        if self._staged:
            return path
        self.files.make_folder(join(FOLDER, "calls"))
        content = script.text().encode()
        if self.files.read(path) != content:
            self.files.write(path, content)
        self._staged = True
        return path

    def _clear_up(self, folder: str) -> None:
        """Delete what calls left behind long ago; once in a session.

        Args:
            folder: That of a call which was just made: it says what time the host has, which may be any. By our own
                clock the calls of other workers could be taken for old.
        """
        if self._cleared_up:
            return
        self._cleared_up = True
        left = {join(FOLDER, "calls", each.name): each for each in self.files.list(parent(folder)) or ()}
        now = left[folder].changed_at if folder in left else None
        for path, entry in left.items():
            if now is not None and entry.is_folder and entry.changed_at < now - KEPT:
                self.files.delete_folder(path)

    def _result(self, folder: str) -> dict[str, Any] | None:
        """Return what a call wrote; None when it wrote nothing."""
        found = self.files.read(join(folder, RESULT))
        if found is None:
            return None
        try:
            said: dict[str, Any] = json.loads(found.decode("utf-8-sig"))
        except ValueError as exc:
            text = f"host {self.access.name} wrote a result that is no JSON: {join(folder, RESULT)}"
            raise error(Code.HOST_UNSUPPORTED, text, host=self.access.name) from exc
        return said

    def _look_up(self, folder: str, seconds: float) -> dict[str, Any] | None:
        """Wait for the result of a call whose connection was cut; None when none came."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                said = self._result(folder)
            except BootpointError as problem:
                if problem.code is not Code.HOST_UNREACHABLE:
                    raise
                said = None
            if said is not None:
                self._forget(folder)
                return said
            if time.monotonic() > deadline:
                return None
            time.sleep(LOOKUP_TICK)

    def _forget(self, folder: str) -> None:
        try:
            self.files.delete_folder(folder)
        except BootpointError as problem:
            # What it left is deleted some day: see `_clear_up`.
            if not problem.retryable:
                raise

    def _silent(self, operation: str, folder: str, output: Output) -> BootpointError:
        """Return the error of a call that ended without a result; its folder is left to look into."""
        name = self.access.name
        said = output.stderr or output.stdout or "it says nothing"
        text = f"host {name} ended {operation} with exit code {output.exit_code} and no result in {folder}: {said}"
        squeezed = "".join(said.split())
        for identity, hint in POLICIES.items():
            if identity in squeezed:
                return error(Code.HOST_UNSUPPORTED, text, hint=hint, host=name)
        return error(Code.TARGET_WRITE_ERROR, text, hint="look into that folder on the host", host=name)
