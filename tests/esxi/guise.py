"""What the stand-in can pretend to be: releases of ESXi, and a vCenter."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guise:
    """A release.

    Attributes:
        version: As `AboutInfo.version` has it.
        build: Likewise.
        api: `AboutInfo.apiVersion`.
        spoken: pyVmomi's name of that version of the API.
        uri: The version's id in ``vimServiceVersions.xml``, of which clients choose one that they know.
        hardware: Newest version of virtual hardware (``vmx-NN``).
        vcenter: Whether it is a vCenter with one host of this release.
        old_tls: It offers nothing newer than TLS 1.0, as hosts before 6.5 do by default.
    """

    version: str
    build: str
    api: str
    spoken: str
    uri: str
    hardware: int
    vcenter: bool = False
    old_tls: bool = False


#: Releases, by the name that tests give them. Builds: "Build numbers and versions of VMware ESXi/ESX" (VMware KB
#: 2143832); hardware: "Virtual machine hardware versions" (VMware KB 1003746); versions of the API: the releases'
#: vSphere Web Services references.
GUISES = {
    "5.0": Guise("5.0.0", "469512", "5.0", "vim.version.version7", "5.0", 8, old_tls=True),
    "5.5": Guise("5.5.0", "1331820", "5.5", "vim.version.version9", "5.5", 10, old_tls=True),
    "6.0": Guise("6.0.0", "2494585", "6.0", "vim.version.version10", "6.0", 11, old_tls=True),
    "6.7": Guise("6.7.0", "14320388", "6.7.3", "vim.version.version15", "6.7.3", 15),
    "7.0": Guise("7.0.3", "18644231", "7.0.3.0", "vim.version.v7_0_3_0", "7.0.3.0", 19),
    "8.0": Guise("8.0.3", "24022510", "8.0.3.0", "vim.version.v8_0_3_0", "8.0.3.0", 21),
    "vcenter": Guise("8.0.3", "24022515", "8.0.3.0", "vim.version.v8_0_3_0", "8.0.3.0", 21, vcenter=True),
}
