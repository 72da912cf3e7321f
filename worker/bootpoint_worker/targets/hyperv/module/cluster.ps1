# The failover cluster that the host may be a node of: its nodes, its shared volumes, and the role of a VM.

# Says what to do where the cluster refuses a login that came over the network, and nothing of any other error.
function Stop-IfSecondHop {
    param($Record)
    $message = $Record.Exception.Message
    $isDenied = ([string] $Record.CategoryInfo.Category) -eq 'PermissionDenied' -or
        $message -match 'denied|administrative privileges|0x80070005'
    if ($isDenied) {
        Stop-Operation -Code 'host_permission' -Message "the cluster refuses a login that came over the network: $message" -Hint (
            'a login by NTLM, or by Kerberos without its ticket, goes no further than one host: use --auth kerberos ' +
            '--delegate, and give the account full control of the cluster: docs/hyperv.md, Clusters')
    }
}

# Tells whether this host is a node of a cluster.
function Test-Node {
    $service = Get-Service -Name 'ClusSvc' -ErrorAction SilentlyContinue
    return ($null -ne $service) -and ([string] $service.Status -eq 'Running') -and (Test-Command -Name 'Get-Cluster')
}

function Get-SharedVolumeFacts {
    foreach ($shared in Get-ClusterSharedVolume) {
        foreach ($volume in $shared.SharedVolumeInfo) {
            @{
                name       = [string] $volume.FriendlyVolumeName
                path       = [string] $volume.FriendlyVolumeName
                owner      = [string] $shared.OwnerNode.Name
                size_bytes = [long] $volume.Partition.Size
                free_bytes = [long] $volume.Partition.FreeSpace
            }
        }
    }
}

function Get-NodeFacts {
    foreach ($node in Get-ClusterNode) {
        @{ name = [string] $node.Name; state = [string] $node.State }
    }
}

# What the host's cluster is and has; nothing where there is none. Where it can't be asked, only why.
function Get-ClusterFacts {
    if (-not (Test-Node)) {
        return $null
    }
    try {
        return @{
            name    = [string] (Get-Cluster).Name
            nodes   = @(Get-NodeFacts)
            volumes = @(Get-SharedVolumeFacts)
            problem = $null
        }
    } catch {
        return @{ name = $null; nodes = @(); volumes = @(); problem = $_.Exception.Message }
    }
}

# Operation cluster_vm: {vm_id, action: add or remove} -> {role, node, changed}: gives a VM its role, or takes it away.
function Set-VmRole {
    param($Arguments)
    $isWanted = $Arguments.action -eq 'add'
    if (-not (Test-Node)) {
        if ($isWanted) {
            Stop-Operation -Code 'host_unsupported' -Message 'it is no node of a failover cluster' -Hint (
                'add the host to a cluster first, or start its service ClusSvc')
        }
        return @{ role = $null; node = $null; changed = $false }
    }
    $hadRole = [bool] (Get-VM -Id $Arguments.vm_id).IsClustered
    if ($isWanted -and -not $hadRole) {
        Assert-OnSharedVolume -Id $Arguments.vm_id
    }
    try {
        $group = Switch-Role -Id $Arguments.vm_id -IsWanted $isWanted -HadRole $hadRole
    } catch {
        Stop-IfSecondHop -Record $_
        throw
    }
    if ($null -eq $group) {
        return @{ role = $null; node = $null; changed = $hadRole }
    }
    return @{ role = [string] $group.Name; node = [string] $group.OwnerNode.Name; changed = -not $hadRole }
}

# Does it, and returns the role that the VM has then. Get-ClusterGroup is an error for a VM without one.
function Switch-Role {
    param(
        [string] $Id,
        [bool] $IsWanted,
        [bool] $HadRole
    )
    if ($IsWanted -and $HadRole) {
        return Get-ClusterGroup -VMId $Id
    }
    if ($IsWanted) {
        return Add-ClusterVirtualMachineRole -VMId $Id
    }
    if ($HadRole) {
        # By the VM's id it removes from Windows Server 2012 R2 on only; by its name, it may be another's.
        Get-ClusterGroup -VMId $Id | Remove-ClusterGroup -RemoveResources -Force | Out-Null
    }
    return $null
}

# Refuses a VM whose files no other node can reach.
function Assert-OnSharedVolume {
    param([string] $Id)
    $machine = Get-VM -Id $Id
    $paths = @($machine.Path) + @(Get-VMHardDiskDrive -VM $machine | ForEach-Object { $_.Path })
    foreach ($path in $paths) {
        if ($path -notlike 'C:\ClusterStorage\*') {
            Stop-Operation -Code 'host_unsupported' -Message "VM $($machine.Name) lies on $path, which other nodes can't reach" -Hint (
                'put the replica onto a cluster shared volume: target.storage = C:\ClusterStorage\...')
        }
    }
}
