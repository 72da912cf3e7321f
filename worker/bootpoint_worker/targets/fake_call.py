"""A session with the fake host, and one call over it that goes through the steps of its verb."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from bootpoint_common.errors import BootpointError, Code, error
from bootpoint_worker.targets.fake_host import FakeHost
from bootpoint_worker.targets.fake_journal import Manifest
from bootpoint_worker.targets.fake_machine import TRASH, place_of
from bootpoint_worker.targets.host import HostAccess
from bootpoint_worker.targets.replica import Replica


class Session:
    """One login on the fake host; it heals by itself, as a kept and checked session does."""

    def __init__(self, access: HostAccess, host: FakeHost) -> None:
        self.host = host
        self._access = access
        self._closed = False

    def check(self) -> None:
        """Look whether the host lets this session in.

        Raises:
            RetryableError: ``host_unreachable``.
            FatalError: ``host_auth``.
            RefusedError: ``host_key_changed``.
        """
        if self._closed or not self.host.reachable:
            raise self.host.unreachable()
        expected = self._access.fingerprint
        if expected is not None and expected != self.host.fingerprint:
            message = f"host {self.host.name} shows key {self.host.fingerprint}, and {expected} was recorded"
            raise error(Code.HOST_KEY_CHANGED, message, host=self.host.name)
        if self.host.password is not None and self._access.password != self.host.password:
            raise error(Code.HOST_AUTH, f"host {self.host.name} refuses the password", host=self.host.name)

    def close(self) -> None:
        """End it, and the writers that came through it; may be called twice."""
        self._closed = True
        self.host.end_session(self)


class Call:
    """One verb on its way; made by `calling`."""

    def __init__(self, session: Session, verb: str, replica: Replica) -> None:
        self.host = session.host
        self.replica = replica
        self.place = place_of(replica)
        self._session = session
        self._verb = verb
        self._boot = session.host.boot

    def reach(self, step: str) -> None:
        """Come to a step: its fault strikes, and a power cut since the call began ends the call."""
        self.host.fire(self._verb, step, self._session)
        with self.host.lock:
            self._check()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Come to a step and do its act, atomically: no power cut falls into it."""
        self.host.fire(self._verb, name, self._session)
        with self.host.lock:
            self._check()
            yield

    def find(self) -> Manifest | None:
        """Return the replica's manifest; None when its place is empty.

        Raises:
            RefusedError: ``vm_name_taken``: the place, or the VM's name on this host, is somebody else's.
        """
        with self.host.lock:
            self._check()
            name = self.replica.vm_name
            for place, manifest in self.host.manifests.items():
                if place[1].endswith(TRASH):
                    continue
                ours = manifest.replica.replica_id == self.replica.replica_id
                if not ours and manifest.replica.vm_name == name:
                    raise self.taken(name, f"replica {manifest.replica.replica_id}")
                if ours and place == self.place:
                    # Half-way into the trash it is gone for all but who puts it there.
                    return None if manifest.removing or manifest.discarded_at is not None else manifest
            vm = self.host.vms.get(name)
            if vm is not None and vm.replica_id != self.replica.replica_id:
                raise self.taken(name, f"VM {vm.uuid}")
            return None

    def taken(self, name: str, owner: str) -> BootpointError:
        """Return the error of a name that somebody else has."""
        message = f"the name {name} on host {self.host.name} belongs to {owner}"
        return error(Code.VM_NAME_TAKEN, message, value=name, job=self.replica.job, host=self.host.name)

    def no_point(self, what: object) -> BootpointError:
        """Return the error of a point that isn't there."""
        message = f"replica {self.replica.vm_name} on host {self.host.name} has no boot point {what}"
        return error(Code.NO_SUCH_POINT, message, value=what, job=self.replica.job, host=self.host.name)

    def store(self, manifest: Manifest) -> None:
        """Replace the manifest; inside a step."""
        self.host.manifests[self.place] = manifest

    def _check(self) -> None:
        self._session.check()
        if self.host.boot != self._boot:
            raise self.host.unreachable()


@contextmanager
def calling(session: Session, verb: str, replica: Replica, *, locked: bool = True) -> Iterator[Call]:
    """Make a call from ``called`` to ``done``.

    Args:
        session: The session that it goes through.
        verb: A key of `STEPS`.
        replica: What it is about.
        locked: Whether it holds the lock of the replica's place in between, as whatever changes something does.
    """
    call = Call(session, verb, replica)
    call.reach("called")
    with session.host.locked_place(call.place) if locked else nullcontext():
        yield call
        call.reach("done")
