# Making VMs, and fitting them to what they are to be.

# Name of the switch that test VMs are connected to: a private one reaches neither the host nor its networks.
$isolatedSwitch = 'bootpoint-test'

# Bytes of a block of a base, as a checkpoint's files have: of the host's 32 MiB one sector would take all.
$blockBytes = 2097152

# Make the file of a disk: a base, or a delta above another file; one that is there is taken.
function New-Disk {
    param($Disk)
    if (Test-Path -LiteralPath $Disk.path) {
        return
    }
    if ($Disk.parent) {
        New-VHD -Path $Disk.path -ParentPath $Disk.parent -Differencing | Out-Null
        return
    }
    $shape = @{ SizeBytes = $Disk.size; LogicalSectorSizeBytes = $Disk.sector; BlockSizeBytes = $blockBytes }
    if ($Disk.fixed) {
        New-VHD -Path $Disk.path @shape -Fixed | Out-Null
    }
    else {
        New-VHD -Path $Disk.path @shape -Dynamic | Out-Null
    }
}

function Connect-Disk {
    param(
        $Machine,
        $Disk
    )
    $place = @{ ControllerType = $Disk.kind; ControllerNumber = $Disk.number; ControllerLocation = $Disk.location }
    $there = @(Get-VMHardDiskDrive -VM $Machine @place)
    if ($there.Count -gt 0 -and $there[0].Path -eq $Disk.path) {
        return
    }
    if ($there.Count -gt 0) {
        Remove-VMHardDiskDrive -VMHardDiskDrive $there[0]
    }
    while ($Disk.kind -eq 'SCSI' -and @(Get-VMScsiController -VM $Machine).Count -le $Disk.number) {
        Add-VMScsiController -VM $Machine
    }
    Add-VMHardDiskDrive -VM $Machine @place -Path $Disk.path
}

function Disconnect-Disk {
    param(
        $Machine,
        $Disk
    )
    $place = @{ ControllerType = $Disk.kind; ControllerNumber = $Disk.number; ControllerLocation = $Disk.location }
    foreach ($drive in @(Get-VMHardDiskDrive -VM $Machine @place)) {
        Remove-VMHardDiskDrive -VMHardDiskDrive $drive
    }
}

function Set-Cards {
    param(
        $Machine,
        $Cards
    )
    foreach ($old in @(Get-VMNetworkAdapter -VM $Machine)) {
        Remove-VMNetworkAdapter -VMNetworkAdapter $old
    }
    foreach ($card in @($Cards)) {
        $more = @{ StaticMacAddress = $card.mac; Name = $card.name }
        if ($card.legacy) {
            $more.IsLegacy = $true
        }
        if ($card.isolated) {
            $more.SwitchName = Get-IsolatedSwitch
        }
        elseif ($card.switch) {
            $more.SwitchName = $card.switch
        }
        Add-VMNetworkAdapter -VM $Machine @more
    }
}

function Get-IsolatedSwitch {
    $found = @(Get-VMSwitch | Where-Object { $_.Name -eq $isolatedSwitch })
    if ($found.Count -eq 0) {
        New-VMSwitch -Name $isolatedSwitch -SwitchType Private | Out-Null
    }
    elseif ("$($found[0].SwitchType)" -ne 'Private') {
        Stop-Operation 'network_unknown' "the switch $isolatedSwitch isn't private" "rename the switch $isolatedSwitch of the host"
    }
    return $isolatedSwitch
}

# Secure Boot of a VM of the second generation.
function Set-SecureBoot {
    param(
        $Machine,
        $Wanted
    )
    if ([int]$Machine.Generation -ne 2) {
        return
    }
    $firmware = @{ EnableSecureBoot = 'Off' }
    if ($Wanted.secure_boot -eq 'MicrosoftWindows') {
        $firmware.EnableSecureBoot = 'On'
    }
    if ($Wanted.secure_boot -and (Test-Command 'Set-VMFirmware' 'SecureBootTemplate')) {
        $firmware.EnableSecureBoot = 'On'
        $firmware.SecureBootTemplate = $Wanted.secure_boot
    }
    if (Test-Command 'Set-VMFirmware') {
        Set-VMFirmware -VM $Machine @firmware
    }
}

# Let a VM of the second generation start from its first disk: one that is attached later comes behind its network cards.
function Set-FirstDisk {
    param($Machine)
    if ([int]$Machine.Generation -ne 2 -or -not (Test-Command 'Set-VMFirmware')) {
        return
    }
    $drives = @(Get-VMHardDiskDrive -VM $Machine | Sort-Object -Property @('ControllerNumber', 'ControllerLocation'))
    if ($drives.Count -gt 0) {
        Set-VMFirmware -VM $Machine -FirstBootDevice $drives[0]
    }
}

# Make a VM with a folder, its disks and its cards; what a call that broke off has made is taken.
function New-Machine {
    param($Arguments)
    $machine = @(Get-VM | Where-Object { $_.Path -eq $Arguments.folder -and (Get-Notes $_) -eq $Arguments.notes })
    if ($machine.Count -eq 0) {
        $leaf = Split-Path -Path $Arguments.folder -Leaf
        $above = Split-Path -Path $Arguments.folder -Parent
        $more = @{ Name = $leaf; Path = $above; MemoryStartupBytes = $Arguments.memory }
        if (Test-Command 'New-VM' 'Generation') {
            $more.Generation = $Arguments.generation
        }
        elseif ($Arguments.generation -ne 1) {
            Stop-Operation 'host_unsupported' 'this Windows has no VMs with UEFI' 'use Windows Server 2012 R2 or later'
        }
        if (-not (Test-Path -LiteralPath $above)) {
            New-Item -ItemType Directory -Path $above -Force | Out-Null
        }
        $machine = @(New-VM @more -NoVHD)
    }
    $machine = $machine[0]
    Set-Values $machine $Arguments
    foreach ($disk in @($Arguments.disks)) {
        New-Disk $disk
        Connect-Disk $machine $disk
    }
    Set-Cards $machine $Arguments.cards
    Set-SecureBoot $machine $Arguments
    Set-FirstDisk $machine
    if ($machine.Name -ne $Arguments.name) {
        Rename-VM -VM $machine -NewName $Arguments.name
    }
    return @{ id = "$($machine.Id)"; folder = $machine.Path }
}

function Set-Values {
    param(
        $Machine,
        $Wanted
    )
    $more = @{
        ProcessorCount = $Wanted.cpus
        MemoryStartupBytes = $Wanted.memory
        Notes = $Wanted.notes
        StaticMemory = $true
        AutomaticStartAction = 'Nothing'
        AutomaticStopAction = 'TurnOff'
    }
    if (Test-Command 'Set-VM' 'CheckpointType') {
        $more.CheckpointType = 'Standard'
    }
    if (Test-Command 'Set-VM' 'AutomaticCheckpointsEnabled') {
        $more.AutomaticCheckpointsEnabled = $false
    }
    # The DVD drive of a new VM has a place of a disk. That goes first: who has notes has all else, too.
    if (-not $Machine.Notes) {
        foreach ($drive in @(Get-VMDvdDrive -VM $Machine)) {
            Remove-VMDvdDrive -VMDvdDrive $drive
        }
    }
    Set-VM -VM $Machine @more
}

# Make a VM that is off what it is to be. Whatever is null stays as it is.
function Set-Machine {
    param($Arguments)
    $machine = Find-Machine $Arguments.id
    foreach ($disk in @($Arguments.detach | Where-Object { $_ })) {
        Disconnect-Disk $machine $disk
        if ($disk.delete -and (Test-Path -LiteralPath $disk.path)) {
            Remove-Item -LiteralPath $disk.path
        }
    }
    foreach ($disk in @($Arguments.attach | Where-Object { $_ })) {
        New-Disk $disk
        Connect-Disk $machine $disk
    }
    if ($Arguments.values) {
        Set-Values $machine $Arguments.values
    }
    if ($Arguments.replace_cards) {
        Set-Cards $machine $Arguments.cards
    }
    if ($Arguments.values) {
        Set-SecureBoot $machine $Arguments.values
    }
    if ($Arguments.attach) {
        Set-FirstDisk $machine
    }
    if ($Arguments.name -and $machine.Name -ne $Arguments.name) {
        Rename-VM -VM $machine -NewName $Arguments.name
    }
    return @{}
}

function Set-Notes {
    param($Arguments)
    $machine = Find-Machine $Arguments.id
    Set-VM -VM $machine -Notes $Arguments.notes
    return @{}
}

# Delete a VM; its disks are taken off before, so that their files aren't merged.
function Remove-Machine {
    param($Arguments)
    $machine = Get-Machine $Arguments.id
    if ($null -eq $machine) {
        return @{}
    }
    foreach ($drive in @(Get-VMHardDiskDrive -VM $machine)) {
        Remove-VMHardDiskDrive -VMHardDiskDrive $drive
    }
    Remove-VM -VM $machine -Force
    return @{}
}
