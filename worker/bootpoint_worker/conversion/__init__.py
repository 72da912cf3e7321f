"""Making a machine's disks boot on another machine: what is independent of the hypervisor, and touches nothing.

What is read here comes from a guest and is not trusted: it is looked at as bytes with bounds, and never executed.
"""
