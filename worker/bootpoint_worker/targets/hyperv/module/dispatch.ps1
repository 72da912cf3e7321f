# The last part: carries out the operation, and writes what came of it.

# Other modules have commands of the same names, as VMware's Get-VM: of those that are loaded the last one counts, and of
# those that aren't any may be found first. It takes a second, and closing a file needs none of it.
function Import-HyperV {
    param([string] $Name)
    if ($Name -ne 'close') {
        Import-Module -Name 'Hyper-V' -ErrorAction SilentlyContinue
    }
}

function Invoke-Operation {
    param(
        [string] $Name,
        $Arguments
    )
    Import-HyperV -Name $Name
    switch ($Name) {
        'inspect_host' { return Get-HostFacts }
        'cluster_vm' { return Set-VmRole -Arguments $Arguments }
        'machines' { return Get-Machines }
        'state' { return Get-State -Arguments $Arguments }
        'create' { return New-Machine -Arguments $Arguments }
        'configure' { return Set-Machine -Arguments $Arguments }
        'notes' { return Set-Notes -Arguments $Arguments }
        'remove' { return Remove-Machine -Arguments $Arguments }
        'start' { return Start-Machine -Arguments $Arguments }
        'stop' { return Stop-Machine -Arguments $Arguments }
        'checkpoint' { return New-Checkpoint -Arguments $Arguments }
        'revert' { return Restore-Checkpoint -Arguments $Arguments }
        'merge' { return Remove-Checkpoint -Arguments $Arguments }
        'merged' { return Get-Merge -Arguments $Arguments }
        'copy' { return Copy-Disk -Arguments $Arguments }
        'close' { return Close-File -Arguments $Arguments }
        'sight' { return Get-Sight -Arguments $Arguments }
        'address' { return Set-Address -Arguments $Arguments }
        'address_job' { return Get-AddressJob -Arguments $Arguments }
        default { Stop-Operation -Code 'host_unsupported' -Message "the module has no operation $Name" }
    }
}

function Write-Answer {
    param([string] $Text)
    $unfinished = Join-Path -Path $Folder -ChildPath 'result.json.new'
    [System.IO.File]::WriteAllText($unfinished, $Text)
    [System.IO.File]::Move($unfinished, (Join-Path -Path $Folder -ChildPath 'result.json'))
}

# PowerShell 2.0 can neither read nor write JSON.
if ($PSVersionTable.PSVersion.Major -lt 3) {
    Write-Answer -Text ('{"ok": false, "error": {"code": "host_unsupported", "message": "it has PowerShell ' +
        "$($PSVersionTable.PSVersion)" + ', as Windows Server 2008 R2 does", "hint": "bootpoint needs Windows Server ' +
        '2012 or later: Windows Server 2008 R2 has no Hyper-V module and no VHDX"}}')
    exit 0
}

$answer = $null
try {
    $given = [System.IO.File]::ReadAllText((Join-Path -Path $Folder -ChildPath 'arguments.json'))
    $value = Invoke-Operation -Name $Operation -Arguments (ConvertFrom-Json -InputObject $given)
    $answer = @{ ok = $true; value = $value }
} catch {
    $answer = @{ ok = $false; error = (Get-Failure -Record $_) }
}
Write-Answer -Text (ConvertTo-Json -InputObject $answer -Depth 16 -Compress)
