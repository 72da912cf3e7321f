"""Hosts whose boot points are snapshots of the standby VM, as the hypervisor itself makes and merges them.

vSphere calls them snapshots, Hyper-V checkpoints. What all of them share is here: the journal, and the life of a point
(`target` has every verb, each carried out by the module of its name). What a hypervisor does in its own way is behind
`host.Host`.
"""
