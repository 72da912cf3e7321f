"""Following a disk's writes by a program in the kernel's block layer; no kernel module is needed.

::

    writes.bpf.c   the program                     library.py   libbpf
    program.py     loading it, and where it is pinned   cells.py     what it writes
    disk.py        what tells disks apart           provider.py  generations made of that
"""
