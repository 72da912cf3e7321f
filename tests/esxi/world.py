"""All that a host has, and how its parts find each other."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from pyVmomi import vim, vmodl

from bootpoint_common.units import GiB
from tests.esxi import chain, config
from tests.esxi.datastore import PATH, Datastore
from tests.esxi.environment import EnvironmentBrowser
from tests.esxi.files import FileManager, VirtualDiskManager
from tests.esxi.guise import GUISES
from tests.esxi.inventory import (
    ComputeResource,
    Datacenter,
    Entity,
    Folder,
    HostSystem,
    Network,
    ResourcePool,
    ServiceInstance,
)
from tests.esxi.job import Job, Jobs
from tests.esxi.lease import Leases
from tests.esxi.machine import Machine
from tests.esxi.managed import Managed
from tests.esxi.managers import LicenceManager, SearchIndex
from tests.esxi.names import CenterNames, HostNames
from tests.esxi.places import Places
from tests.esxi.query import PropertyCollector, ViewManager
from tests.esxi.session import AuthorizationManager, Rights, Session, SessionManager, Sessions, User
from tests.esxi.trouble import Trouble

#: The administrator whom every host knows.
ROOT = User("root", "vmware-Secret:1")

#: Seconds between two looks at whether the host goes down.
BEAT = 0.05


class World(Places):
    """One host.

    Args:
        directory: Where its datastores and sockets are.
        guise: A key of `GUISES`.
        datastores: Names and capacities in bytes.
        networks: Names of its port groups.
        pools: Names of resource pools below the root's.
        users: Who may log in.
        runs_guests: Whether a machine that is powered on is run by a QEMU.

    Attributes:
        objects: All managed objects, by their ids.
        starter: Its thread starts what is to live as long as the host.
        trouble: What is to go wrong.
    """

    def __init__(
        self,
        directory: Path,
        guise: str = "8.0",
        *,
        datastores: dict[str, int] | None = None,
        networks: tuple[str, ...] = ("VM Network", "Isolated"),
        pools: tuple[str, ...] = (),
        users: tuple[User, ...] = (ROOT,),
        runs_guests: bool = False,
    ) -> None:
        self.guise = GUISES[guise]
        self.names = CenterNames() if self.guise.vcenter else HostNames()
        self.objects: dict[str, Any] = {}
        self.trouble = Trouble()
        self.sessions = Sessions(list(users))
        self.rights = Rights()
        self.runs_guests = runs_guests
        self.sockets = directory / "run"
        self.sockets.mkdir(parents=True, exist_ok=True)
        self.stopping = threading.Event()
        self.lock = threading.RLock()
        self.starter = ThreadPoolExecutor(max_workers=1)
        self._asker: ContextVar[Session | None] = ContextVar("asker", default=None)
        self._admitted: ContextVar[Session | None] = ContextVar("admitted", default=None)
        self._order = itertools.count()
        self.tasks = Jobs(self)
        self.leases = Leases(self)
        self._make_managers()
        self._make_tree()
        self.datastores = [
            Datastore(self, name, directory / name, capacity)
            for name, capacity in (datastores or {"datastore1": 100 * GiB}).items()
        ]
        self.networks = [Network(self, self.names.network(name), name, self.network_folder) for name in networks]
        below = [ResourcePool(self, self.names.pool_below(name), name, self.pool) for name in pools]
        self.pools = [self.pool, *below]

    def _make_managers(self) -> None:
        self.service = ServiceInstance(self, "ServiceInstance")
        self.collector = PropertyCollector(self, "ha-property-collector")
        self.views = ViewManager(self, "ViewManager")
        self.session_manager = SessionManager(self, "ha-sessionmgr")
        self.authorization = AuthorizationManager(self, "ha-authmgr")
        self.licences = LicenceManager(self, "ha-license-manager")
        self.file_manager = FileManager(self, "ha-nfc-file-manager")
        self.disk_manager = VirtualDiskManager(self, "ha-vdiskmanager")
        self.index = SearchIndex(self, "ha-searchindex")
        self.environment = EnvironmentBrowser(self, "environmentBrowser")

    def _make_tree(self) -> None:
        names = self.names
        self.root = Folder(self, names.root, "ha-folder-root", None)
        self.datacenter = Datacenter(self, names.datacenter, names.datacenter_name, self.root)
        self.machines = Folder(self, names.machines, "vm", self.datacenter)
        self.hosts = Folder(self, names.hosts, "host", self.datacenter)
        self.datastore_folder = Folder(self, names.datastores, "datastore", self.datacenter)
        self.network_folder = Folder(self, names.networks, "network", self.datacenter)
        self.compute = ComputeResource(self, names.compute, "esx.test", self.hosts)
        self.system = HostSystem(self, names.host, "esx.test", self.compute)
        self.pool = ResourcePool(self, names.pool, "Resources", self.compute)

    # --- finding

    def find(self, moid: str, kind: str) -> Managed:
        """Return a managed object.

        Raises:
            vmodl.fault.ManagedObjectNotFound: There is none with this id.
        """
        found = self.objects.get(moid)
        if not isinstance(found, Managed):
            text = f"The object 'vim.{kind}:{moid}' has already been deleted or has not been completely created"
            raise vmodl.fault.ManagedObjectNotFound(obj=vim.ManagedEntity(moid, None), msg=text)
        return found

    def children(self, parent: Entity) -> list[Any]:
        """Return what is directly below something."""
        return [each for each in list(self.objects.values()) if isinstance(each, Entity) and each.above is parent]

    def below(self, moid: str, *, recursive: bool) -> list[Entity]:
        """Return what is below something."""
        found = []
        for child in self.children(self.objects[moid]):
            found.append(child)
            if recursive:
                found += self.below(child.moid, recursive=True)
        return found

    # --- machines

    def running_leaves(self, but: Machine | None = None) -> set[Path]:
        """Return the files that running machines write to, all but one of them."""
        machines = [each for each in self.children(self.machines) if each is not but]
        return {leaf for each in machines if each.guest.on for leaf in each.leaves}

    def running_below(self, path: Path, but: Machine | None = None) -> bool:
        """Tell whether a running machine, but for one, needs a file, or one in a folder."""
        files = {link.path for leaf in self.running_leaves(but) for link in chain.links(leaf)}
        return any(file.is_relative_to(path) for file in files)

    def need_free_name(self, name: str) -> None:
        """Check that no machine has a name.

        Raises:
            vim.fault.DuplicateName: One has.
        """
        for each in self.children(self.machines):
            if each.name == name:
                text = f"The name '{name}' already exists."
                raise vim.fault.DuplicateName(name=name, object=each.reference, msg=text)

    def create(self, spec: Any, pool: Any) -> Machine:
        """Make a machine, with its folder and files; when that fails, nothing of them is left."""
        with self.lock:
            if not spec.name or spec.files is None or not spec.files.vmPathName:
                raise vmodl.fault.InvalidArgument(
                    invalidProperty="configSpec.name", msg="A name and a place are needed."
                )
            self.need_free_name(spec.name)
            vmx = self._place(spec.name, spec.files.vmPathName)
            vmx.parent.mkdir(parents=True)
            try:
                settings = config.new_config(self, spec, self.name_of(vmx))
                config.apply(self, settings, spec, vmx.parent)
            except BaseException:
                shutil.rmtree(vmx.parent)
                raise
            made = Machine(self, settings, vmx.parent, self.find(pool._moId, "ResourcePool"))
            made.save()
            return made

    def _place(self, name: str, wish: str) -> Path:
        """Return where the .vmx is to be: given only a datastore, in a new folder with the machine's name."""
        start = self.locate(wish)
        if start.suffix == ".vmx":
            if start.parent.exists():
                raise self.file_exists(wish)
            return start
        base = start if PATH.match(wish)[2] else start / name  # type: ignore[index] # `locate` has looked
        folders = (Path(f"{base}{f'_{number}' if number else ''}") for number in range(1000))
        folder = next(each for each in folders if not each.exists())
        return folder / f"{name}.vmx"

    def register(self, path: str, name: str | None, pool: Any = None) -> Machine:
        """Take a machine into the inventory whose files are there."""
        with self.lock:
            vmx = self.locate(path)
            if not vmx.is_file():
                raise self.file_not_found(path)
            settings, kept, moved = config.read_config(vmx, f"{self.name_of(vmx.parent)}/")
            if any(each.directory == vmx.parent for each in self.children(self.machines)):
                raise vim.fault.AlreadyExists(
                    name=path, msg=f"The specified key, name, or identifier '{path}' already exists."
                )
            self.need_free_name(name or settings.name)
            settings.name, settings.files.vmPathName = name or settings.name, path
            made = Machine(self, settings, vmx.parent, self.pool if pool is None else self.find(pool._moId, ""))
            made.moved = moved
            if kept:
                made.snapshots.restore(kept)
            made.save()
            return made

    # --- who asks, and who works

    @property
    def asker(self) -> Session | None:
        """Whose call is carried out."""
        return self._asker.get()

    @contextlib.contextmanager
    def asking(self, session: Session | None) -> Iterator[None]:
        """Remember whose call is carried out, while a block lasts."""
        token = self._asker.set(session)
        try:
            yield
        finally:
            self._asker.reset(token)

    def admit(self, session: Session) -> None:
        """Let the answer that is being made carry a session's cookie."""
        self._admitted.set(session)

    def admitted(self) -> Session | None:
        """Return the session that the answer is to carry, once."""
        session = self._admitted.get()
        self._admitted.set(None)
        return session

    @contextlib.contextmanager
    def occupied(self, entity: Managed, job: Job) -> Iterator[None]:
        """Keep other tasks from a machine while one works on it.

        Raises:
            vim.fault.TaskInProgress: Another works on it.
        """
        busy = entity if isinstance(entity, Machine) else getattr(entity, "machine", None)
        if busy is None:
            yield
            return
        with busy.lock:
            if busy.busy is not None:
                raise vim.fault.TaskInProgress(task=busy.busy.reference, msg="Another task is already in progress.")
            busy.busy = job
        try:
            yield
        finally:
            busy.busy = None

    def wait(self, event: threading.Event) -> None:
        """Wait for something, unless the host goes down.

        Raises:
            vmodl.fault.HostCommunication: It does.
        """
        while not event.wait(BEAT):
            if self.stopping.is_set():
                raise vmodl.fault.HostCommunication(msg="the host goes down")

    def stop(self) -> None:
        """End all tasks and guests."""
        self.stopping.set()
        self.tasks.stop()
        for each in self.children(self.machines):
            each.guest.power_off()
        self.starter.shutdown()
