"""libbpf, as far as it is needed, through ctypes: loading a program, pinning, maps.

Signatures and structures are those of libbpf 1.0 (``bpf/libbpf.h``, ``bpf/bpf.h``) and of ``linux/bpf.h``.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

# linux/bpf.h
_MAP_TYPE_ARRAY = 2
_F_MMAPABLE, _F_INNER_MAP = 1 << 10, 1 << 12
# linux/btf.h
_BTF_KIND_TYPEDEF = 8

#: struct bpf_link_info: type, id, prog_id.
_LINK_INFO = struct.Struct("<III")
#: struct bpf_map_info: type, id.
_MAP_INFO = struct.Struct("<II")
#: struct bpf_prog_info up to recursion_misses (Linux 5.12), verified_insns (5.16).
_PROGRAM_INFO_BYTES, _MISSES_AT, _VERIFIED_AT = 232, 208, 216


class _MapOptions(ctypes.Structure):
    """struct bpf_map_create_opts."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint32),
        ("map_ifindex", ctypes.c_uint32),
    )


class _Type(ctypes.Structure):
    """struct btf_type, without what follows it."""

    _fields_ = (("name_off", ctypes.c_uint32), ("info", ctypes.c_uint32), ("type", ctypes.c_uint32))


@cache
def library() -> ctypes.CDLL | None:
    """Return libbpf; None where it isn't installed."""
    try:
        found = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError:
        return None
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures = {
        "libbpf_set_print": (pointer, [pointer]),
        "bpf_object__open_file": (pointer, [text, pointer]),
        "bpf_object__load": (number, [pointer]),
        "bpf_object__close": (None, [pointer]),
        "bpf_object__find_program_by_name": (pointer, [pointer, text]),
        "bpf_object__find_map_by_name": (pointer, [pointer, text]),
        "bpf_program__set_autoload": (number, [pointer, ctypes.c_bool]),
        "bpf_program__attach": (pointer, [pointer]),
        "bpf_program__fd": (number, [pointer]),
        "bpf_map__fd": (number, [pointer]),
        "bpf_link__fd": (number, [pointer]),
        "bpf_link__destroy": (number, [pointer]),
        "bpf_obj_pin": (number, [number, text]),
        "bpf_obj_get": (number, [text]),
        "bpf_obj_get_info_by_fd": (number, [number, pointer, pointer]),
        "bpf_map_create": (number, [number, text, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32, pointer]),
        "bpf_map_update_elem": (number, [number, pointer, pointer, ctypes.c_uint64]),
        "bpf_map_lookup_elem": (number, [number, pointer, pointer]),
        "bpf_map_delete_elem": (number, [number, pointer]),
        "btf__load_vmlinux_btf": (pointer, []),
        "btf__free": (None, [pointer]),
        "btf__find_by_name_kind": (number, [pointer, text, ctypes.c_uint32]),
        "btf__type_by_id": (ctypes.POINTER(_Type), [pointer, ctypes.c_uint32]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    found.libbpf_set_print(None)  # else it writes to the agent's standard error
    return found


def _lib() -> ctypes.CDLL:
    found = library()
    if found is None:
        raise OSError("libbpf.so.1 isn't installed")
    return found


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno() or -result, f"{what}: {os.strerror(ctypes.get_errno() or -result)}")
    return result


def _there(pointer: int | None, what: str) -> int:
    if not pointer:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return pointer


class Loaded:
    """A program file in the kernel; gone when it is closed, but for what was pinned.

    Args:
        file: What clang made.
        programs: Those that are wanted of it.

    Raises:
        OSError: The kernel refuses it.
    """

    def __init__(self, file: Path, programs: dict[str, str], unwanted: list[str]) -> None:
        self._object = _there(_lib().bpf_object__open_file(os.fsencode(file), None), f"open {file.name}")
        self._links: dict[str, int] = {}
        try:
            for name in unwanted:
                _lib().bpf_program__set_autoload(self._program(name), False)
            _checked(_lib().bpf_object__load(self._object), "load the program")
            for role, name in programs.items():
                self._links[role] = _there(_lib().bpf_program__attach(self._program(name)), f"attach {name}")
            self._programs = {role: _lib().bpf_program__fd(self._program(name)) for role, name in programs.items()}
        except BaseException:
            self.close()
            raise

    def pin(self, folder: Path) -> None:
        """Pin the map ``disks``, and each program and its link."""
        disks = _there(_lib().bpf_object__find_map_by_name(self._object, b"disks"), "find the map")
        pin(_lib().bpf_map__fd(disks), folder / "disks")
        for role, link in self._links.items():
            pin(self._programs[role], folder / f"{role}-program")
            pin(_lib().bpf_link__fd(link), folder / f"{role}-link")

    def close(self) -> None:
        """Let go; may be called once."""
        for link in self._links.values():
            _lib().bpf_link__destroy(link)
        _lib().bpf_object__close(self._object)

    def _program(self, name: str) -> int:
        return _there(_lib().bpf_object__find_program_by_name(self._object, name.encode()), f"find {name}")


def event_arguments(event: str) -> int | None:
    """Return how many arguments a kernel's event has for a program; None where there is no such event."""
    types = _lib().btf__load_vmlinux_btf()
    if not types:
        return None
    try:
        number = _lib().btf__find_by_name_kind(types, f"btf_trace_{event}".encode(), _BTF_KIND_TYPEDEF)
        if number < 0:
            return None
        # typedef -> pointer -> function; its first parameter is the tracer's own
        for _ in range(2):
            number = _lib().btf__type_by_id(types, number).contents.type
        return int(_lib().btf__type_by_id(types, number).contents.info & 0xFFFF) - 1
    finally:
        _lib().btf__free(types)


def pin(descriptor: int, path: Path) -> None:
    """Give a kernel object a name.

    Raises:
        OSError: The name is taken, or the folder is in no BPF file system.
    """
    _checked(_lib().bpf_obj_pin(descriptor, os.fsencode(path)), f"pin {path}")


@contextmanager
def pinned(path: Path) -> Iterator[int]:
    """Open what is pinned; yields its descriptor.

    Raises:
        FileNotFoundError: Nothing is pinned there.
        OSError: It can't be opened.
    """
    descriptor = _checked(_lib().bpf_obj_get(os.fsencode(path)), f"open {path}")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _info(descriptor: int, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    length = ctypes.c_uint32(size)
    _checked(_lib().bpf_obj_get_info_by_fd(descriptor, buffer, ctypes.byref(length)), "ask for information")
    return buffer.raw


def link_id(descriptor: int) -> int:
    """Return the id of a link; no id is given twice before 2^32 others were."""
    return int(_LINK_INFO.unpack_from(_info(descriptor, 64))[1])


def map_id(descriptor: int) -> int:
    """Return the id of a map; no id is given twice before 2^32 others were."""
    return int(_MAP_INFO.unpack_from(_info(descriptor, 88))[1])


def missed_events(program: int) -> int:
    """Return how often the kernel left a program out, as it was running on that processor already.

    That is an interrupt, in the middle of the program, which sends something to a disk itself.
    """
    return int(struct.unpack_from("<Q", _info(program, _PROGRAM_INFO_BYTES), _MISSES_AT)[0])


def verified_instructions(program: int) -> int:
    """Return how many instructions the verifier looked at; 1,000,000 are allowed. 0 before Linux 5.16."""
    return int(struct.unpack_from("<I", _info(program, _PROGRAM_INFO_BYTES), _VERIFIED_AT)[0])


def new_array(elements: int, element_bytes: int) -> int:
    """Make an array that can be mapped into memory and put into a map of maps; returns its descriptor.

    Raises:
        OSError: The kernel refuses it; ENOMEM.
    """
    options = _MapOptions(sz=ctypes.sizeof(_MapOptions), map_flags=_F_MMAPABLE | _F_INNER_MAP)
    made = _lib().bpf_map_create(_MAP_TYPE_ARRAY, b"written", 4, element_bytes, elements, ctypes.byref(options))
    return _checked(made, f"make a map of {elements * element_bytes} bytes")


def mapped(descriptor: int, elements: int, element_bytes: int) -> mmap.mmap:
    """Map an array into memory."""
    return mmap.mmap(descriptor, -(-elements * element_bytes // mmap.PAGESIZE) * mmap.PAGESIZE)


def put(outer: int, key: int, inner: int) -> None:
    """Put a map into a map of maps, in place of another.

    When it returns, no program still uses the other: the kernel waits for those that run (`maybe_wait_bpf_programs`,
    synchronize_rcu, in kernel/bpf/syscall.c since Linux 5.0).
    """
    number, value = ctypes.c_uint32(key), ctypes.c_uint32(inner)
    done = _lib().bpf_map_update_elem(outer, ctypes.byref(number), ctypes.byref(value), 0)
    _checked(done, "put a map in its place")


def inner_id(outer: int, key: int) -> int | None:
    """Return the id of the map that lies in a map of maps."""
    number, value = ctypes.c_uint32(key), ctypes.c_uint32()
    if _lib().bpf_map_lookup_elem(outer, ctypes.byref(number), ctypes.byref(value)) < 0:
        return None
    return value.value


def remove(outer: int, key: int) -> None:
    """Take a map out of a map of maps; it may be out already."""
    _lib().bpf_map_delete_elem(outer, ctypes.byref(ctypes.c_uint32(key)))
