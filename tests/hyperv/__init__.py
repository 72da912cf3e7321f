r"""A stand-in of a Windows host with Hyper-V: WinRM, the administrative shares, VMs whose disks are VHDX files.

Which commands it has is what our PowerShell module calls; what they do is written from Microsoft's specifications and
its reference of the commands, from vendors' pages and from public reports, by another hand than the driver. Where it
does what a real host does and a plain program wouldn't, a comment says where that is known from. What it can't prove is
that real hosts do as modelled here.

::

    host         directories as drives; comes and goes; a real Samba shares them (tests.service.samba)
      server       WinRM: port and certificate
        handler      HTTP: the login by NTLM, messages that it encrypts
        wsman        envelopes and faults
        shell        remote shells, their processes and output
      powershell   powershell.exe: runs the real text of a script on an interpreter (pwsh)
        cmdlets      what each Windows Server's commands take (cmdlets.toml), by Microsoft's reference
        command      the commands: commands_vm, _part, _vhd, _system, _cluster; their errors (fault)
      vmms         the VMs (machine, part); checkpoint; merging, in the background
        guest        what runs a VM: nothing, or QEMU
        holding      files that VMs and merges have open, by Samba's share modes
      cluster      nodes, shared volumes, roles
      trouble      what is to go wrong; guise: the releases
    avhdx        VHDX files (opened, front, layout), and vhdtest, which Test-VHD is
    readers      other programs' readers of such files; client: a client for tests of the stand-in itself
"""
