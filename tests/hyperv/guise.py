"""What the stand-in can pretend to be: releases of Windows."""

from __future__ import annotations

from dataclasses import dataclass

from tests.hyperv.cmdlets import Windows
from tests.hyperv.pwsh.value import Version


@dataclass(frozen=True, slots=True)
class Guise:
    """A release.

    Attributes:
        version: As Win32_OperatingSystem.Version has it.
        caption: Its name there.
        powershell: The version of Windows PowerShell that it comes with.
        commands: Whose commands it has; None for one without a Hyper-V module, CIM cmdlets and the like.
        configuration: Version of a new VM's configuration ("Upgrade virtual machine version in Hyper-V").
    """

    version: str
    caption: str
    powershell: Version
    commands: Windows | None
    configuration: str

    @property
    def binary_configuration(self) -> bool:
        """Whether VMs are described by .vmcx files: since 2016; by .xml before."""
        return self.commands not in (None, Windows.SERVER_2012, Windows.SERVER_2012_R2)


#: Releases, by the name that tests give them. Versions and builds: "Windows Server release information"; PowerShell:
#: "Windows Management Framework compatibility" (both Microsoft).
GUISES = {
    "2008r2": Guise("6.1.7601", "Microsoft Windows Server 2008 R2 Enterprise", Version(2, 0), None, "2.0"),
    "2012": Guise("6.2.9200", "Microsoft Windows Server 2012 Standard", Version(3, 0), Windows.SERVER_2012, "4.0"),
    "2012r2": Guise(
        "6.3.9600", "Microsoft Windows Server 2012 R2 Standard", Version(4, 0), Windows.SERVER_2012_R2, "5.0"
    ),
    "2016": Guise(
        "10.0.14393", "Microsoft Windows Server 2016 Standard", Version(5, 1, 14393, 0), Windows.SERVER_2016, "8.0"
    ),
    "2019": Guise(
        "10.0.17763", "Microsoft Windows Server 2019 Standard", Version(5, 1, 17763, 1), Windows.SERVER_2019, "9.0"
    ),
    "hyperv2019": Guise("10.0.17763", "Microsoft Hyper-V Server", Version(5, 1, 17763, 1), Windows.SERVER_2019, "9.0"),
    "2022": Guise(
        "10.0.20348", "Microsoft Windows Server 2022 Standard", Version(5, 1, 20348, 1), Windows.SERVER_2022, "10.0"
    ),
}
