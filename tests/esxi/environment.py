"""What the host can run: versions of virtual hardware, guests, limits."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim

from tests.esxi.inventory import CORES, MEMORY_BYTES
from tests.esxi.managed import Managed, operation
from tests.esxi.wire import filled

Device = vim.vm.device

#: Guests, with the version of virtual hardware that first knew them (``VirtualMachineGuestOsIdentifier``, vSphere
#: API; VMware Compatibility Guide), and whether they boot from a paravirtual SCSI adapter.
GUESTS: dict[str, tuple[str, str, int]] = {
    "otherGuest": ("otherGuestFamily", "Other (32-bit)", 4), "otherGuest64": ("otherGuestFamily", "Other (64-bit)", 4),
    "otherLinux64Guest": ("linuxGuest", "Other Linux (64-bit)", 4),
    "other26xLinux64Guest": ("linuxGuest", "Other 2.6.x Linux (64-bit)", 4),
    "other3xLinux64Guest": ("linuxGuest", "Other 3.x Linux (64-bit)", 10),
    "other4xLinux64Guest": ("linuxGuest", "Other 4.x Linux (64-bit)", 13),
    "other5xLinux64Guest": ("linuxGuest", "Other 5.x or later Linux (64-bit)", 17),
    "other6xLinux64Guest": ("linuxGuest", "Other 6.x or later Linux (64-bit)", 20),
    "debian8_64Guest": ("linuxGuest", "Debian GNU/Linux 8 (64-bit)", 11),
    "debian9_64Guest": ("linuxGuest", "Debian GNU/Linux 9 (64-bit)", 13),
    "debian10_64Guest": ("linuxGuest", "Debian GNU/Linux 10 (64-bit)", 13),
    "debian11_64Guest": ("linuxGuest", "Debian GNU/Linux 11 (64-bit)", 17),
    "debian12_64Guest": ("linuxGuest", "Debian GNU/Linux 12 (64-bit)", 20),
    "ubuntu64Guest": ("linuxGuest", "Ubuntu Linux (64-bit)", 4),
    "rhel6_64Guest": ("linuxGuest", "Red Hat Enterprise Linux 6 (64-bit)", 7),
    "rhel7_64Guest": ("linuxGuest", "Red Hat Enterprise Linux 7 (64-bit)", 8),
    "rhel8_64Guest": ("linuxGuest", "Red Hat Enterprise Linux 8 (64-bit)", 13),
    "rhel9_64Guest": ("linuxGuest", "Red Hat Enterprise Linux 9 (64-bit)", 18),
    "centos7_64Guest": ("linuxGuest", "CentOS 7 (64-bit)", 8),
    "centos8_64Guest": ("linuxGuest", "CentOS 8 (64-bit)", 13),
    "rockylinux_64Guest": ("linuxGuest", "Rocky Linux (64-bit)", 19),
    "almalinux_64Guest": ("linuxGuest", "AlmaLinux (64-bit)", 19),
    "oracleLinux8_64Guest": ("linuxGuest", "Oracle Linux 8 (64-bit)", 13),
    "sles12_64Guest": ("linuxGuest", "SUSE Linux Enterprise 12 (64-bit)", 11),
    "sles15_64Guest": ("linuxGuest", "SUSE Linux Enterprise 15 (64-bit)", 14),
    "windows7_64Guest": ("windowsGuest", "Microsoft Windows 7 (64-bit)", 7),
    "windows7Server64Guest": ("windowsGuest", "Microsoft Windows Server 2008 R2 (64-bit)", 7),
    "windows8_64Guest": ("windowsGuest", "Microsoft Windows 8.x (64-bit)", 8),
    "windows8Server64Guest": ("windowsGuest", "Microsoft Windows Server 2012 (64-bit)", 8),
    "windows9_64Guest": ("windowsGuest", "Microsoft Windows 10 (64-bit)", 10),
    "windows9Server64Guest": ("windowsGuest", "Microsoft Windows Server 2016 or later (64-bit)", 10),
    "windows2019srv_64Guest": ("windowsGuest", "Microsoft Windows Server 2019 (64-bit)", 17),
    "windows2019srvNext_64Guest": ("windowsGuest", "Microsoft Windows Server 2022 (64-bit)", 18),
    "windows11_64Guest": ("windowsGuest", "Microsoft Windows 11 (64-bit)", 20),
    "windows2022srvNext_64Guest": ("windowsGuest", "Microsoft Windows Server 2025 (64-bit)", 20),
}  # fmt: skip

#: Versions of virtual hardware that were ever released ("Virtual machine hardware versions", VMware KB 1003746).
HARDWARE = (4, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21)

#: From this one on there are NVMe controllers ("Hardware features available with virtual machine compatibility
#: settings").
NVME_SINCE = 13


def version_number(version: str) -> int:
    """Return the number in ``vmx-NN``."""
    return int(version.removeprefix("vmx-"))


def _guest(name: str, number: int) -> Any:
    family, text, _ = GUESTS[name]
    windows = family == "windowsGuest"
    controllers = [
        Device.VirtualLsiLogicController, Device.VirtualLsiLogicSASController, Device.ParaVirtualSCSIController,
        Device.VirtualAHCIController, Device.VirtualIDEController,
    ]  # fmt: skip
    if number >= NVME_SINCE:
        controllers.append(Device.VirtualNVMEController)
    best = Device.VirtualLsiLogicSASController if windows else Device.ParaVirtualSCSIController
    return vim.vm.GuestOsDescriptor(
        id=name, family=family, fullName=text, supportedMaxCPUs=128, numSupportedPhysicalSockets=128,
        numSupportedCoresPerSocket=64, supportedMinMemMB=4, supportedMaxMemMB=MEMORY_BYTES // 2**20,
        recommendedMemMB=2048, recommendedColorDepth=32, supportedDiskControllerList=controllers,
        recommendedSCSIController=best, recommendedDiskController=best, supportedNumDisks=60,
        recommendedDiskSizeMB=16384, recommendedCdromController=Device.VirtualAHCIController,
        supportedEthernetCard=[Device.VirtualVmxnet3, Device.VirtualE1000e, Device.VirtualE1000],
        recommendedEthernetCard=Device.VirtualVmxnet3, supportsSlaveDisk=True, supportsWakeOnLan=True,
        supportedFirmware=["bios", "efi"], recommendedFirmware="efi" if number >= 17 else "bios",
        supportLevel="supported", supportedForCreate=True, vRAMSizeInKB=vim.option.IntOption(min=1024, max=131072),
        supportsPvscsiControllerForBoot=True, diskUuidEnabled=True, supportsHotPlugPCI=True, supportsSecureBoot=number
        >= 13,
    )  # fmt: skip


class EnvironmentBrowser(Managed):
    """Tells what machines may be made."""

    kind = vim.EnvironmentBrowser

    @property
    def newest(self) -> int:
        """The newest version of virtual hardware."""
        return self.world.guise.hardware

    @operation
    def query_config_option_descriptor(self) -> list[Any]:
        """Return the versions of virtual hardware."""
        return [
            vim.vm.ConfigOptionDescriptor(
                key=f"vmx-{number:02d}", description=f"ESXi, hardware version {number}", createSupported=True,
                defaultConfigOption=number == self.newest, runSupported=True, upgradeSupported=number < self.newest,
                host=[self.world.system.reference],
            )
            for number in HARDWARE
            if number <= self.newest
        ]  # fmt: skip

    @operation
    def query_config_option(self, key: str | None = None, host: Any = None) -> Any:
        """Return what a version of virtual hardware knows; by default the newest."""
        number = version_number(key) if key else self.newest
        return self._option(number, list(GUESTS))

    @operation
    def query_config_option_ex(self, spec: Any = None) -> Any:
        """Likewise, for some guests only."""
        number = version_number(spec.key) if spec and spec.key else self.newest
        return self._option(number, spec.guestId if spec and spec.guestId else list(GUESTS))

    def _option(self, number: int, guests: list[str]) -> Any:
        if number > self.newest:
            return None
        known = [name for name in guests if name in GUESTS and GUESTS[name][2] <= number]
        memory = vim.option.LongOption(min=4, max=MEMORY_BYTES // 2**20)
        hardware = filled(vim.vm.VirtualHardwareOption, hwVersion=number, numCPU=list(range(1, 129)), memoryMB=memory)
        return filled(
            vim.vm.ConfigOption, version=f"vmx-{number:02d}", hardwareOptions=hardware,
            guestOSDescriptor=[_guest(name, number) for name in known],
        )  # fmt: skip

    @operation
    def query_config_target(self, host: Any = None) -> Any:
        """Return what machines may use."""
        datastores = [
            vim.vm.DatastoreInfo(
                name=each.name, datastore=each.summary, capability=each.capability, maxFileSize=each.info.maxFileSize,
                mode="readWrite",
            )
            for each in self.world.datastores
        ]  # fmt: skip
        networks = [vim.vm.NetworkInfo(name=each.name, network=each.summary) for each in self.world.networks]
        return vim.vm.ConfigTarget(
            numCpus=2 * CORES, numCpuCores=CORES, numNumaNodes=1, smcPresent=False, datastore=datastores,
            network=networks,
            maxCpusPerHost=2 * CORES, maxMemMBOptimalPerf=MEMORY_BYTES // 2**20, supportedMaxMemMB=MEMORY_BYTES //
            2**20,
        )  # fmt: skip
