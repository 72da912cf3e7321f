# Checkpoints: made, gone back to, and merged.

# What Test-VHD has against a disk and those beneath it; null where it has nothing.
function Get-Damage {
    param([string]$Path)
    try {
        if (Test-VHD -Path $Path) {
            return $null
        }
        return 'Test-VHD says no more'
    } catch {
        return $_.Exception.Message
    }
}

# Refuses a VM that isn't off.
function Assert-Off {
    param($Machine)
    if ("$($Machine.State)" -ne 'Off') {
        Stop-Operation 'standby_running' "$($Machine.Name) is $($Machine.State)" 'stop it first: bootpoint vm stop'
    }
}

# A checkpoint that was made of the leaves that the caller knows, by a call whose answer was lost; null where there is none.
function Find-Made {
    param(
        $Machine,
        $Arguments
    )
    foreach ($checkpoint in @(Get-VMSnapshot -VM $Machine | Where-Object { $_.Name -eq $Arguments.name })) {
        $files = @(Get-VMHardDiskDrive -VMSnapshot $checkpoint | ForEach-Object { $_.Path })
        if (@($files | Where-Object { @($Arguments.leaves) -notcontains $_ }).Count -eq 0) {
            return $checkpoint
        }
    }
    return $null
}

# Make a checkpoint of a VM that is off, after its leaves were tried, which must be those that the caller knows.
function New-Checkpoint {
    param($Arguments)
    $machine = Find-Machine $Arguments.id
    Assert-Off $machine
    $made = Find-Made $machine $Arguments
    if ($made) {
        return @{ id = "$($made.Id)" }
    }
    foreach ($drive in @(Get-VMHardDiskDrive -VM $machine)) {
        if (@($Arguments.leaves) -notcontains $drive.Path) {
            Stop-Operation 'layer_lost' "$($drive.Path) is another leaf than the one that was written" 'see docs/hyperv.md'
        }
        $why = Get-Damage $drive.Path
        # Sharing and lock violations: a backup or a scanner lets go of it again, and it may be whole.
        if ($why -match '0x8007002[01]') {
            Stop-Operation 'busy' "$($drive.Path) is in use: $why" "leave the standby's folder out of backups and scans"
        }
        if ($why) {
            Stop-Operation 'target_check_failed' "$($drive.Path) is damaged: $why" 'the next run starts a new layer'
        }
    }
    $made = Checkpoint-VM -VM $machine -SnapshotName $Arguments.name -Passthru
    return @{ id = "$($made.Id)" }
}

# Go back to a checkpoint. Of a VM that runs the host would throw away what it has written, and turn it off.
function Restore-Checkpoint {
    param($Arguments)
    $machine = Find-Machine $Arguments.id
    Assert-Off $machine
    $found = @(Find-Checkpoint $machine $Arguments.checkpoint)
    if ($found.Count -eq 0) {
        Stop-Operation 'layer_lost' "$($machine.Name) has no checkpoint $($Arguments.checkpoint) any more" 'see docs/hyperv.md'
    }
    Restore-VMSnapshot -VMSnapshot $found[0] -Confirm:$false
    return @{}
}

# Begin the merge of a checkpoint; the host goes on with it by itself.
function Remove-Checkpoint {
    param($Arguments)
    $machine = Find-Machine $Arguments.id
    foreach ($checkpoint in @(Find-Checkpoint $machine $Arguments.checkpoint)) {
        Remove-VMSnapshot -VMSnapshot $checkpoint -Confirm:$false
    }
    return @{}
}

# What Get-VHD says of a disk; null of one that was merged since somebody listed it, or is at this moment.
function Read-Disk {
    param([string]$Path)
    try {
        return Get-VHD -Path $Path
    } catch {
        return $null
    }
}

# Tell whether a merge is over: no file is left between the leaves and the checkpoints' own files. Missing are those of them
# that aren't there: a merge deletes some, and names others in their place.
function Get-Merge {
    param($Arguments)
    $machine = Find-Machine $Arguments.id
    $known = @()
    foreach ($checkpoint in @(Get-VMSnapshot -VM $machine)) {
        $known += @(Get-VMHardDiskDrive -VMSnapshot $checkpoint | ForEach-Object { $_.Path })
    }
    $files = @($known) + @(Get-VMHardDiskDrive -VM $machine | ForEach-Object { $_.Path })
    $left = @()
    foreach ($file in @($files | Sort-Object -Unique)) {
        $disk = Read-Disk $file
        if ($null -eq $disk) {
            $left += $file
        }
        elseif ($disk.ParentPath -and $known -notcontains $disk.ParentPath) {
            $left += $disk.ParentPath
        }
    }
    $missing = @($left | Where-Object { -not (Test-Path -LiteralPath $_) })
    return @{ merging = Test-Merging $machine; left = @($left); missing = $missing }
}
