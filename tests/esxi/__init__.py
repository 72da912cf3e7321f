"""A stand-in of an ESXi host, or of a vCenter: the vSphere API over TLS, disks as chains of qcow2 files.

It is written from VMware's reference of the API, from vendors' pages and from public reports, without a look at the
driver that is tested with it; where it does what a real host does and a plain program wouldn't, a comment says where
that is known from. What it can't prove is that real hosts do as modelled here.

::

    server     its certificate and port; comes and goes
      handler    HTTP: /sdk, /folder, /screen, and the way to the disks (lease)
        wire       SOAP, by pyVmomi's own serialisers
        dispatch   sessions, rights, licence, injected faults (trouble); then a method of a managed object
          world      all managed objects: inventory, datastores, machines; tasks (job)
            machine    config, hardware; snapshots (tree, snapshot, merging); what runs it (guest)
              chain      a virtual disk: descriptor files, and qcow2 files for their extents
    vddk/      VMware's disk library for nbdkit's vddk plugin, at home with this server only
"""
