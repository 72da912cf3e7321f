"""ESXi hosts and vCenters: the vSphere API for orders, VMware's disk library behind NBD for bytes.

Start reading at `client`; `fault` says what the host's refusals mean.
"""
