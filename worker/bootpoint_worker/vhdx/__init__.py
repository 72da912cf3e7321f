"""Hyper-V's disk files, read and updated in place: VHDX, and AVHDX, which is a VHDX above a parent.

Source of all offsets, sizes and rules: Microsoft, [MS-VHDX] "Virtual Hard Disk v2 (VHDX) File Format"; a section is
named where something is taken from it. Files come through `file.RandomAccess`, so that a local file and one on a
host's share are the same here.
"""
