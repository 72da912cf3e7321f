# What the host is and has.

# Refuses a host that has no Hyper-V, or one that is too old for its module.
function Assert-HyperV {
    param($System)
    $name = "$($System.Caption) ($($System.Version))"
    $version = $System.Version.Split('.')
    $isOld = ([int] $version[0]) -lt 6 -or (([int] $version[0]) -eq 6 -and ([int] $version[1]) -lt 2)
    if ($isOld) {
        Stop-Operation -Code 'host_unsupported' -Message "$name is too old" -Hint ('bootpoint needs Windows Server 2012 ' +
            'or later, or Hyper-V Server 2012 or later: Windows Server 2008 R2 has no Hyper-V module and no VHDX')
    }
    if (-not (Test-Command -Name 'Get-VMHost')) {
        Stop-Operation -Code 'host_unsupported' -Message "$name has no Hyper-V module for PowerShell" -Hint (
            'install it on the host: Install-WindowsFeature -Name Hyper-V, Hyper-V-PowerShell -Restart')
    }
    $service = Get-Service -Name 'vmms' -ErrorAction SilentlyContinue
    if ($null -eq $service) {
        Stop-Operation -Code 'host_unsupported' -Message "$name does not have the role Hyper-V" -Hint (
            'install it on the host: Install-WindowsFeature -Name Hyper-V -Restart')
    }
    if ([string] $service.Status -ne 'Running') {
        Stop-Operation -Code 'host_unsupported' -Message "Hyper-V's service vmms on $name is $($service.Status)" -Hint (
            'start it on the host: Start-Service -Name vmms')
    }
}

function Get-VolumeFacts {
    $volumes = Get-Volume | Where-Object { ([string] $_.DriveType) -eq 'Fixed' -and $_.DriveLetter }
    foreach ($volume in $volumes) {
        @{
            name        = "$($volume.DriveLetter):"
            path        = "$($volume.DriveLetter):\"
            file_system = [string] $volume.FileSystem
            size_bytes  = [long] $volume.Size
            free_bytes  = [long] $volume.SizeRemaining
        }
    }
}

function Get-SwitchFacts {
    foreach ($switch in Get-VMSwitch) {
        @{ name = $switch.Name; kind = [string] $switch.SwitchType }
    }
}

function Get-HostFacts {
    $system = Get-CimInstance -ClassName 'Win32_OperatingSystem'
    Assert-HyperV -System $system
    $computer = Get-CimInstance -ClassName 'Win32_ComputerSystem'
    $module = Get-Module -Name 'Hyper-V'
    return @{
        name         = [string] $computer.Name
        caption      = [string] $system.Caption
        version      = [string] $system.Version
        powershell   = [string] $PSVersionTable.PSVersion
        module       = [string] $module.Version
        is_in_domain = [bool] $computer.PartOfDomain
        cpus         = [int] $computer.NumberOfLogicalProcessors
        memory_bytes = [long] $computer.TotalPhysicalMemory
        volumes      = @(Get-VolumeFacts)
        switches     = @(Get-SwitchFacts)
        cluster      = Get-ClusterFacts
    }
}
