# VMs: what there is of them, what each is made of, and their power.

# The VM with an id; null where there is none. It is asked for alone: the list of all takes long on a host with many, and is an
# error while another one is deleted.
function Get-Machine {
    param([string]$Id)
    try {
        return Get-VM -Id $Id
    } catch {
        if ($_.FullyQualifiedErrorId -like 'InvalidParameter,*') {
            return $null
        }
        throw
    }
}

function Find-Machine {
    param([string]$Id)
    $found = Get-Machine $Id
    if ($null -eq $found) {
        Stop-Operation 'layer_lost' "there is no VM with the id $Id any more" 'look for it in Hyper-V Manager'
    }
    return $found
}

function Find-Checkpoint {
    param(
        $Machine,
        [string]$Id
    )
    return @(Get-VMSnapshot -VM $Machine | Where-Object { "$($_.Id)" -eq $Id })
}

# A disk of a VM or of a checkpoint, with the bytes that its file takes.
function Format-Drive {
    param($Drive)
    $length = [long]0
    if ($Drive.Path -and (Test-Path -LiteralPath $Drive.Path)) {
        $length = [long](Get-Item -LiteralPath $Drive.Path).Length
    }
    return @{
        length = $length
        kind = "$($Drive.ControllerType)"
        number = [int]$Drive.ControllerNumber
        location = [int]$Drive.ControllerLocation
        path = $Drive.Path
    }
}

function Format-Card {
    param($Card)
    return @{
        mac = $Card.MacAddress
        switch = $Card.SwitchName
        legacy = [bool]$Card.IsLegacy
    }
}

# File in a VM's folder with the notes that it is about to get: a call that makes a VM may be cut off before it gives them.
$notesFile = 'bootpoint-journal-notes.txt'

# The notes of a VM; of one that has none those that lie in its folder.
function Get-Notes {
    param($Machine)
    $file = "$($Machine.Path)\$notesFile"
    if (-not $Machine.Notes -and $Machine.Path -and (Test-Path -LiteralPath $file)) {
        return [System.IO.File]::ReadAllText($file)
    }
    return $Machine.Notes
}

function Format-Machine {
    param($Machine)
    return @{
        id = "$($Machine.Id)"
        name = $Machine.Name
        state = "$($Machine.State)"
        folder = $Machine.Path
        notes = Get-Notes $Machine
        has_notes = [bool]$Machine.Notes
        memory = [long]$Machine.MemoryStartup
        cpus = [int]$Machine.ProcessorCount
    }
}

function Get-Machines {
    return @{ machines = @(Get-VM | ForEach-Object { Format-Machine $_ }) }
}

function Format-Checkpoint {
    param($Checkpoint)
    $parent = $null
    if ($Checkpoint.ParentSnapshotId) {
        $parent = "$($Checkpoint.ParentSnapshotId)"
    }
    return @{
        id = "$($Checkpoint.Id)"
        name = $Checkpoint.Name
        notes = $Checkpoint.Notes
        parent = $parent
        drives = @(Get-VMHardDiskDrive -VMSnapshot $Checkpoint | ForEach-Object { Format-Drive $_ })
    }
}

function Get-State {
    param($Arguments)
    $machine = Find-Machine $Arguments.id
    $current = $null
    if ($machine.ParentSnapshotId) {
        $current = "$($machine.ParentSnapshotId)"
    }
    return @{
        machine = Format-Machine $machine
        secure_boot = Get-SecureBoot $machine
        has_templates = Test-Command 'Set-VMFirmware' 'SecureBootTemplate'
        current = $current
        merging = Test-Merging $machine
        drives = @(Get-VMHardDiskDrive -VM $machine | ForEach-Object { Format-Drive $_ })
        cards = @(Get-VMNetworkAdapter -VM $machine | ForEach-Object { Format-Card $_ })
        checkpoints = @(Get-VMSnapshot -VM $machine | ForEach-Object { Format-Checkpoint $_ })
    }
}

# The template of Secure Boot of a VM; null where it is off, or the VM has none. The first release had one template.
function Get-SecureBoot {
    param($Machine)
    if ([int]$Machine.Generation -ne 2) {
        return $null
    }
    if (Test-Command 'Get-VMFirmware') {
        $firmware = Get-VMFirmware -VM $Machine
        if ("$($firmware.SecureBoot)" -eq 'On') {
            if ($firmware.SecureBootTemplate) {
                return $firmware.SecureBootTemplate
            }
            return 'MicrosoftWindows'
        }
    }
    return $null
}

# The status is told in the host's language, and the enumeration in none.
function Test-Merging {
    param($Machine)
    return @($Machine.OperationalStatus | Where-Object { "$_" -eq 'MergingDisks' }).Count -gt 0
}

function Start-Machine {
    param($Arguments)
    $machine = Find-Machine $Arguments.id
    if (Test-Merging $machine) {
        Stop-Operation 'busy' "the host still merges disks of $($machine.Name)" 'try again when that is done'
    }
    if ("$($machine.State)" -ne 'Running') {
        Start-VM -VM $machine
    }
    return @{}
}

# Turn a VM off, as pulling its plug does; of one that somebody has saved, what was saved goes.
function Stop-Machine {
    param($Arguments)
    $machine = Get-Machine $Arguments.id
    if ($null -eq $machine) {
        return @{}
    }
    if ("$($machine.State)" -eq 'Saved') {
        Remove-VMSavedState -VM $machine -Confirm:$false
    }
    elseif ("$($machine.State)" -ne 'Off') {
        Stop-VM -VM $machine -TurnOff -Force
    }
    return @{}
}
