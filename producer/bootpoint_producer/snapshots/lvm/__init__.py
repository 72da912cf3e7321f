"""Snapshots of LVM's logical volumes, and still pictures of the disks that they lie on."""
