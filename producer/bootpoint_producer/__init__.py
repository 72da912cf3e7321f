"""The agent: reads the disks of a machine and publishes what changed."""
