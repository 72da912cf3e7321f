# Files of disks, and what a VM shows.

# Flatten a chain into a new disk, and lengthen it. What a call that broke off has left is made anew.
function Copy-Disk {
    param($Arguments)
    if (Test-Path -LiteralPath $Arguments.to) {
        Remove-Item -LiteralPath $Arguments.to
    }
    $more = @{ VHDType = 'Dynamic'; BlockSizeBytes = $blockBytes }
    if ($Arguments.fixed) {
        $more.VHDType = 'Fixed'
    }
    Convert-VHD -Path $Arguments.source -DestinationPath $Arguments.to @more
    if ((Get-VHD -Path $Arguments.to).Size -lt $Arguments.size) {
        Resize-VHD -Path $Arguments.to -SizeBytes $Arguments.size
    }
    return @{}
}

# End everybody's hold on a file over SMB: a writer whose claim is over can't write any more.
function Close-File {
    param($Arguments)
    $closed = 0
    foreach ($open in @(Get-SmbOpenFile | Where-Object { $_.Path -eq $Arguments.path })) {
        Close-SmbOpenFile -FileId $open.FileId -Force -ErrorAction SilentlyContinue
        $closed += 1
    }
    return @{ closed = $closed }
}

function Get-Sight {
    param($Arguments)
    $machine = Find-Machine $Arguments.id
    $picture = $null
    if ("$($machine.State)" -eq 'Running') {
        $picture = Get-Picture $machine $Arguments.width $Arguments.height
    }
    return @{ state = "$($machine.State)"; heartbeat = "$($machine.Heartbeat)"; picture = $picture }
}

# The screen as RGB565, in base 64; null where the VM shows none.
function Get-Picture {
    param(
        $Machine,
        [int]$Width,
        [int]$Height
    )
    $space = 'root\virtualization\v2'
    $service = Get-CimInstance -Namespace $space -ClassName Msvm_VirtualSystemManagementService
    $settings = Get-CimInstance -Namespace $space -ClassName Msvm_VirtualSystemSettingData |
        Where-Object { $_.VirtualSystemIdentifier -eq "$($Machine.Id)" -and $_.VirtualSystemType -eq 'Microsoft:Hyper-V:System:Realized' }
    $wanted = @{ TargetSystem = $settings; WidthPixels = [uint16]$Width; HeightPixels = [uint16]$Height }
    $answer = Invoke-CimMethod -InputObject $service -MethodName GetVirtualSystemThumbnailImage -Arguments $wanted
    if ($answer.ReturnValue -ne 0 -or -not $answer.ImageData) {
        return $null
    }
    return [Convert]::ToBase64String([byte[]]$answer.ImageData)
}
