# bootpoint's operations on a Hyper-V host, in PowerShell 3.0 to 5.1. Called as
#     powershell.exe -File MODULE OPERATION FOLDER
# FOLDER holds arguments.json, and gets result.json:
#     {"ok": true, "value": ...}, or {"ok": false, "error": {"message": ..., "code": ..., "hint": ..., "value": ...,
#      "id": ..., "category": ..., "line": ...}}
# where code, hint and value are what Stop-Operation was given, else null.
param(
    [Parameter(Mandatory = $true)]
    [string] $Operation,
    [Parameter(Mandatory = $true)]
    [string] $Folder
)

$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$refusal = @{ message = $null }

# Ends the operation with an error of bootpoint's own: a code of its list, what is the matter, and the way out.
function Stop-Operation {
    param(
        [string] $Code,
        [string] $Message,
        [string] $Hint,
        [string] $Value
    )
    $refusal.message = $Message
    $refusal.code = $Code
    $refusal.hint = $Hint
    $refusal.value = $Value
    throw $Message
}

# Tells whether this host has a command, and that command a parameter.
function Test-Command {
    param(
        [string] $Name,
        [string] $Parameter
    )
    $found = Get-Command -Name $Name -ErrorAction SilentlyContinue
    if ($null -eq $found) {
        return $false
    }
    if ($Parameter) {
        return $found.Parameters.ContainsKey($Parameter)
    }
    return $true
}

# Returns what result.json says of an error that was caught.
function Get-Failure {
    param($Record)
    $failure = @{
        message  = $Record.Exception.Message
        code     = $null
        hint     = $null
        value    = $null
        id       = $Record.FullyQualifiedErrorId
        category = [string] $Record.CategoryInfo.Category
        line     = $Record.InvocationInfo.ScriptLineNumber
    }
    # One that was caught on the way, and followed by another, is not what ended the operation.
    if ($refusal.message -and $refusal.message -eq $failure.message) {
        $failure.code = $refusal.code
        $failure.hint = $refusal.hint
        $failure.value = $refusal.value
    }
    return $failure
}
