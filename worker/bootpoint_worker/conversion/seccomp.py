"""The seccomp filter of the sandbox, as the program that ``bwrap --seccomp`` reads.

Classic BPF over ``struct seccomp_data`` (Linux, include/uapi/linux/seccomp.h and filter.h)::

    arch other than x86-64 ──► the process ends
    numbers of x32 ──► EPERM
    a denied number ──► EPERM (or ENOSYS where C libraries then fall back)
    clone with a flag of a new namespace, socket of a family other than AF_UNIX, ioctl that types for others ──► EPERM
    anything else ──► allowed

Guest programs run as the sandbox's root, who is the host's root without any capability there. So whatever the kernel
grants root by its number alone has to be out of reach: by this filter, or because it isn't in the sandbox's file tree.
"""

from __future__ import annotations

import struct

#: ``AUDIT_ARCH_X86_64``.
_ARCH = 0xC000003E

#: Numbers from here on are those of the x32 ABI.
_X32 = 0x40000000

_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS = 1, 38

#: Instructions: load a word of the data, jump if equal, if greater or equal, if any bit is set; return.
_LOAD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06

#: Where ``struct seccomp_data`` has number, architecture, and the low half of the first two arguments.
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24

#: Flags of clone that make a namespace: NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
_NEW_NAMESPACE = 0x00000080 | 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000

_CLONE, _SOCKET, _IOCTL = 56, 41, 16
_AF_UNIX = 1

#: ``TIOCSTI`` and ``TIOCLINUX``: they type into the terminal of whoever started us.
_TYPING = (0x5412, 0x541C)

#: System calls of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl) that no tool of an initramfs needs.
DENIED = {
    "ptrace": 101, "syslog": 103, "vhangup": 153, "modify_ldt": 154, "pivot_root": 155, "adjtimex": 159, "acct": 163,
    "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169,
    "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173, "create_module": 174, "init_module": 175,
    "delete_module": 176, "quotactl": 179, "nfsservctl": 180, "lookup_dcookie": 212, "clock_settime": 227,
    "mbind": 237, "set_mempolicy": 238, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250,
    "migrate_pages": 256, "unshare": 272, "move_pages": 279, "perf_event_open": 298, "fanotify_init": 300,
    "name_to_handle_at": 303, "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310,
    "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321,
    "userfaultfd": 323, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438,
    "mount_setattr": 442, "quotactl_fd": 443, "memfd_secret": 447,
}  # fmt: skip

#: ``clone3`` hides its flags in memory where a filter can't look; C libraries fall back to clone on ENOSYS.
_CLONE3 = 435


def filter_program() -> bytes:
    """Return the filter: an array of ``struct sock_filter`` in the byte order of x86."""
    deny = struct.pack("<HBBI", _RET, 0, 0, _ERRNO | _EPERM)
    program = [
        _op(_LOAD, _ARCHITECTURE),
        _op(_JEQ, _ARCH, 1, 0),
        _op(_RET, _KILL),
        _op(_LOAD, _NUMBER),
        _op(_JGE, _X32, 0, 1),
        deny,
    ]
    for number in sorted(DENIED.values()):
        program += [_op(_JEQ, number, 0, 1), deny]
    program += [_op(_JEQ, _CLONE3, 0, 1), _op(_RET, _ERRNO | _ENOSYS)]
    # Each of these looks at an argument, and then the number is no longer loaded: both ways end.
    program += [_op(_JEQ, _CLONE, 0, 4), _op(_LOAD, _FIRST), _op(_JSET, _NEW_NAMESPACE, 0, 1), deny, _op(_RET, _ALLOW)]
    program += [_op(_JEQ, _SOCKET, 0, 4), _op(_LOAD, _FIRST), _op(_JEQ, _AF_UNIX, 1, 0), deny, _op(_RET, _ALLOW)]
    program += [_op(_JEQ, _IOCTL, 0, 4), _op(_LOAD, _SECOND), _op(_JEQ, _TYPING[0], 1, 0)]
    program += [_op(_JEQ, _TYPING[1], 0, 1), deny, _op(_RET, _ALLOW)]
    return b"".join(program)


def _op(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, true, false, value)
