"""The fixed part of the inventory: folders, the host itself, pools, networks, licences."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from bootpoint_common.units import GiB
from tests.esxi.guise import Guise
from tests.esxi.managed import Managed, operation, task

if TYPE_CHECKING:
    from tests.esxi.world import World

#: The host's hardware; all of it is made up.
CORES, MEMORY_BYTES, MHZ = 16, 64 * GiB, 2400


def product(guise: Guise, *, vcenter: bool) -> Any:
    """Return what a host, or the vCenter above it, says of its release."""
    name = "VMware vCenter Server" if vcenter else "VMware ESXi"
    return vim.AboutInfo(
        name=name, fullName=f"{name} {guise.version} build-{guise.build}", vendor="VMware, Inc.", build=guise.build,
        version=guise.version, apiVersion=guise.api, osType="linux-x64" if vcenter else "vmnix-x86",
        productLineId="vpx" if vcenter else "embeddedEsx", apiType="VirtualCenter" if vcenter else "HostAgent",
        licenseProductVersion=guise.version[:3],
        licenseProductName="VMware VirtualCenter Server" if vcenter else "VMware ESX Server",
    )  # fmt: skip


class ServiceInstance(Managed):
    """Where every client begins."""

    kind = vim.ServiceInstance

    @property
    def content(self) -> Any:
        """The managers."""
        world = self.world
        return vim.ServiceInstanceContent(
            rootFolder=world.root.reference, propertyCollector=world.collector.reference,
            about=product(world.guise, vcenter=world.guise.vcenter),
            viewManager=world.views.reference, sessionManager=world.session_manager.reference,
            authorizationManager=world.authorization.reference, licenseManager=world.licences.reference,
            fileManager=world.file_manager.reference, virtualDiskManager=world.disk_manager.reference,
            searchIndex=world.index.reference,
        )  # fmt: skip

    @property
    def server_clock(self) -> datetime:
        """The host's time."""
        return datetime.now(UTC)

    @operation
    def retrieve_service_content(self) -> Any:
        """Return `content`."""
        return self.content

    @operation
    def current_time(self) -> datetime:
        """Return the host's time."""
        return datetime.now(UTC)


class Entity(Managed):
    """Something with a name and a parent."""

    kind: Any = vim.ManagedEntity
    overall_status = "green"

    def __init__(self, world: World, moid: str, name: str, parent: Managed | None) -> None:
        super().__init__(world, moid)
        self.name = name
        self.above = parent

    @property
    def parent(self) -> Any:
        """What it is in."""
        return None if self.above is None else self.above.reference


def part(name: str) -> property:
    """Return a property of a managed object: the reference of a part of the world.

    Args:
        name: The world's attribute.
    """
    return property(lambda self: getattr(self.world, name).reference)


class Folder(Entity):
    """A folder: of datacenters, machines, hosts, datastores or networks."""

    kind = vim.Folder

    @property
    def child_entity(self) -> list[Any]:
        """What is in it."""
        return [each.reference for each in self.world.children(self)]

    @property
    def child_type(self) -> list[str]:
        """What may be in it."""
        return ["VirtualMachine"] if self is self.world.machines else ["ManagedEntity"]

    @task
    def create_vm(self, config: Any, pool: Any, host: Any = None) -> Any:
        """Make a machine."""
        return self.world.create(config, pool).reference

    @task
    def register_vm(
        self, path: str, as_template: bool, name: str | None = None, pool: Any = None, host: Any = None
    ) -> Any:
        """Take a machine into the inventory whose files are there."""
        return self.world.register(path, name).reference


class Place(Entity):
    """Something that has all datastores and networks."""

    @property
    def datastore(self) -> list[Any]:
        """All datastores."""
        return [each.reference for each in self.world.datastores]

    @property
    def network(self) -> list[Any]:
        """All networks."""
        return [each.reference for each in self.world.networks]


class Datacenter(Place):
    """The datacenter; a host has just one, for form's sake."""

    kind = vim.Datacenter
    vm_folder = part("machines")
    host_folder = part("hosts")
    datastore_folder = part("datastore_folder")
    network_folder = part("network_folder")


class ComputeResource(Place):
    """What runs machines: the host, with its pools."""

    kind = vim.ComputeResource
    resource_pool = part("pool")
    environment_browser = part("environment")

    @property
    def summary(self) -> Any:
        """What it has."""
        mhz = CORES * MHZ
        return vim.ComputeResource.Summary(
            totalCpu=mhz, totalMemory=MEMORY_BYTES, numCpuCores=CORES, numCpuThreads=2 * CORES, effectiveCpu=mhz,
            effectiveMemory=MEMORY_BYTES // 2**20, numHosts=1, numEffectiveHosts=1, overallStatus="green",
        )  # fmt: skip


class HostSystem(Place):
    """The host itself."""

    kind = vim.HostSystem

    @property
    def vm(self) -> list[Any]:
        """All machines."""
        return [each.reference for each in self.world.children(self.world.machines)]

    @property
    def summary(self) -> Any:
        """What it is, and who manages it."""
        hardware = vim.host.Summary.HardwareSummary(
            vendor="Bootpoint", model="Stand-in", uuid="5f0e9d3c-1111-2222-3333-444455556666", memorySize=MEMORY_BYTES,
            cpuModel="A processor of tests", cpuMhz=MHZ, numCpuPkgs=1, numCpuCores=CORES, numCpuThreads=2 * CORES,
            numNics=1, numHBAs=1,
        )  # fmt: skip
        shown = product(self.world.guise, vcenter=False)
        return vim.host.Summary(
            host=self.reference, hardware=hardware, managementServerIp=self.world.trouble.managed_by,
            config=vim.host.Summary.ConfigSummary(name=self.name, port=443, product=shown, vmotionEnabled=False),
            quickStats=vim.host.Summary.QuickStats(overallCpuUsage=100, overallMemoryUsage=2048), overallStatus="green",
            rebootRequired=False, runtime=self.runtime,
        )  # fmt: skip

    @property
    def runtime(self) -> Any:
        """Its state."""
        return vim.host.RuntimeInfo(connectionState="connected", powerState="poweredOn", inMaintenanceMode=False)

    @property
    def hardware(self) -> Any:
        """Processors and memory."""
        return vim.host.HardwareInfo(
            systemInfo=vim.host.SystemInfo(vendor="Bootpoint", model="Stand-in", uuid=self.summary.hardware.uuid),
            cpuInfo=vim.host.CpuInfo(
                numCpuPackages=1, numCpuCores=CORES, numCpuThreads=2 * CORES, hz=MHZ * 10**6
            ),
            cpuPkg=[vim.host.CpuPackage(index=0, vendor="intel", hz=MHZ * 10**6, busHz=10**8, description="tests")],
            memorySize=MEMORY_BYTES, smcPresent=False,
        )  # fmt: skip


class ResourcePool(Entity):
    """A share of the host."""

    kind = vim.ResourcePool
    owner = part("compute")

    @property
    def resource_pool(self) -> list[Any]:
        """The pools below it."""
        return [each.reference for each in self.world.pools if each.above is self]

    @property
    def vm(self) -> list[Any]:
        """Its machines."""
        return [each.reference for each in self.world.children(self.world.machines) if each.pool is self]


class Network(Entity):
    """A port group of a standard switch."""

    kind = vim.Network

    @property
    def host(self) -> list[Any]:
        """Hosts that have it."""
        return [self.world.system.reference]

    @property
    def summary(self) -> Any:
        """Its name, and that it can be had."""
        return vim.Network.Summary(network=self.reference, name=self.name, accessible=True, ipPoolName="")
