# What addresses the cards of a guest that runs are to have: the host tells it through its integration services.

$virtualization = 'root\virtualization\v2'

# What the guest's side of the key-value pair exchange is like: 'answers', 'silent' or 'disabled'.
function Get-Exchange {
    param($Machine)
    $found = @(Get-WmiObject -Namespace $virtualization -Class 'Msvm_KvpExchangeComponent' |
        Where-Object { $_.SystemName -eq "$($Machine.Id)" })
    if ($found.Count -eq 0) {
        return 'silent'
    }
    if ([int]$found[0].EnabledState -eq 3) {
        return 'disabled'
    }
    # 2 is OK, and 3 a guest that speaks another version of the protocol, which is none the worse.
    if (@(2, 3) -contains [int]@($found[0].OperationalStatus)[0]) {
        return 'answers'
    }
    return 'silent'
}

# Operation address: {id, mac, dhcp, family, addresses, subnets, gateways, dns} -> {state, code, job}: tells the guest of one card.
# The state is 'told', or why it can't be: 'off', 'no_card', 'silent' or 'disabled'. A job goes on by itself.
function Set-Address {
    param($Arguments)
    $machine = Find-Machine $Arguments.id
    if ("$($machine.State)" -ne 'Running') {
        return @{ state = 'off' }
    }
    # Settings of checkpoints have the checkpoint's id.
    $cards = @(Get-WmiObject -Namespace $virtualization -Class 'Msvm_SyntheticEthernetPortSettingData' |
        Where-Object { $_.InstanceID -like "Microsoft:$($machine.Id)\*" -and $_.Address -eq $Arguments.mac })
    if ($cards.Count -eq 0) {
        return @{ state = 'no_card' }
    }
    $exchange = Get-Exchange $machine
    if ($exchange -ne 'answers') {
        return @{ state = $exchange }
    }
    $found = @($cards[0].GetRelated('Msvm_GuestNetworkAdapterConfiguration'))
    if ($found.Count -eq 0) {
        return @{ state = 'silent' }
    }
    $wanted = $found[0]
    $wanted.DHCPEnabled = [bool]$Arguments.dhcp
    $wanted.ProtocolIFType = [uint16]$Arguments.family
    $wanted.IPAddresses = [string[]]@($Arguments.addresses)
    $wanted.Subnets = [string[]]@($Arguments.subnets)
    $wanted.DefaultGateways = [string[]]@($Arguments.gateways)
    $wanted.DNSServers = [string[]]@($Arguments.dns)
    $service = @(Get-WmiObject -Namespace $virtualization -Class 'Msvm_VirtualSystemManagementService')[0]
    $system = @(Get-WmiObject -Namespace $virtualization -Class 'Msvm_ComputerSystem' |
        Where-Object { $_.Name -eq "$($machine.Id)" })[0]
    # 1 is CIM's own XML (System.Management.TextFormat), which Hyper-V takes for an embedded instance.
    $answer = $service.SetGuestNetworkAdapterConfiguration($system.Path, @($wanted.GetText(1)))
    return @{ state = 'told'; code = [long]$answer.ReturnValue; job = "$($answer.Job)" }
}

# Operation address_job: {job} -> {state, message}: how a job stands; the state is null of one that the host knows no more.
function Get-AddressJob {
    param($Arguments)
    $found = @(Get-WmiObject -Namespace $virtualization -Class 'Msvm_ConcreteJob' |
        Where-Object { $_.InstanceID -and $Arguments.job -like "*$($_.InstanceID)*" })
    if ($found.Count -eq 0) {
        return @{ state = $null; message = $null }
    }
    return @{ state = [int]$found[0].JobState; message = $found[0].ErrorDescription }
}
