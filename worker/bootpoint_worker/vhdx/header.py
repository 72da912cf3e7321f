"""The two headers of a VHDX: which one counts, and how they are replaced ([MS-VHDX] 2.2.2).

::

    0        64 KiB     128 KiB    192 KiB        256 KiB        1 MiB
    │ file id │ header 1 │ header 2 │ region table │ its copy │ … │ log, metadata, BAT, blocks …

A header is valid when its checksum is; of two valid ones the greater sequence number counts. The other one is written,
and made durable, before the first: a power cut leaves at least one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

from bootpoint_common.errors import Code, error
from bootpoint_common.units import KiB
from bootpoint_worker.vhdx.fault import malformed, read_exactly
from bootpoint_worker.vhdx.file import RandomAccess

#: First bytes of every VHDX (2.2.1).
FILE_SIGNATURE = b"vhdxfile"

#: First bytes of a header.
HEADER_SIGNATURE = b"head"

#: Where the two headers lie, in bytes.
HEADER_OFFSETS = (64 * KiB, 128 * KiB)

#: Bytes of a header, all of which its checksum covers.
HEADER_BYTES = 4 * KiB

#: The only version of the format that there is.
VERSION = 1

#: Signature, checksum, sequence number, ids of file write, data write and log, versions of log and file, the log's
#: length and offset.
_FIELDS = struct.Struct("<4sIQ16s16s16sHHIQ")

#: LogGuid of a file whose log holds nothing that is still to be done (2.2.2).
NO_LOG = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says.

    Attributes:
        sequence: The greater one counts.
        file_write_id: Changes whenever the file is opened and written.
        data_write_id: Changes whenever what the disk shows may change; a child names its parent's.
        log_id: Which entries of the log have to be replayed; `NO_LOG` for none.
        log_bytes: Length of the log.
        log_offset: Where the log lies, in bytes.
    """

    sequence: int
    file_write_id: UUID
    data_write_id: UUID
    log_id: UUID
    log_bytes: int
    log_offset: int

    def pack(self) -> bytes:
        """Return it as it stands in a file, with its checksum."""
        fields = _FIELDS.pack(
            HEADER_SIGNATURE,
            0,
            self.sequence,
            self.file_write_id.bytes_le,
            self.data_write_id.bytes_le,
            self.log_id.bytes_le,
            0,
            VERSION,
            self.log_bytes,
            self.log_offset,
        )
        return sealed(fields.ljust(HEADER_BYTES, b"\0"))


def crc32c(data: bytes) -> int:
    """Return CRC-32C (Castagnoli), the checksum of all structures of a VHDX.

    Raises:
        FatalError: ``host_unsupported``: the extra that brings it isn't installed.
    """
    try:
        import google_crc32c
    except ImportError as exc:
        raise error(
            Code.HOST_UNSUPPORTED,
            "this worker lacks google-crc32c, which disks of Hyper-V need: install bootpoint[hyperv]",
        ) from exc
    return int(google_crc32c.value(data))


def sealed(structure: bytes) -> bytes:
    """Return a structure with its checksum, which stands in its bytes 4 to 8 and counts them as zero."""
    checksum = crc32c(structure[:4] + bytes(4) + structure[8:])
    return structure[:4] + struct.pack("<I", checksum) + structure[8:]


def is_sealed(structure: bytes, signature: bytes) -> bool:
    """Tell whether a structure begins as it has to, and its checksum is right."""
    return structure.startswith(signature) and sealed(structure) == structure


def read_headers(file: RandomAccess) -> tuple[Header, int]:
    """Return the header that counts, and which of the two it is.

    Raises:
        BootpointError: ``target_check_failed``: it is no VHDX, none is valid, or the two contradict each other.
    """
    if file.read_at(0, len(FILE_SIGNATURE)) != FILE_SIGNATURE:
        raise malformed(file.name, "it is no VHDX: its first bytes aren't 'vhdxfile'")
    found = [read_exactly(file, offset, HEADER_BYTES, "headers") for offset in HEADER_OFFSETS]
    valid = [(_parse(file.name, raw), slot) for slot, raw in enumerate(found) if is_sealed(raw, HEADER_SIGNATURE)]
    if not valid:
        raise malformed(file.name, "both of its headers are damaged", hint="run Test-VHD on the host")
    newest = max(valid, key=lambda one: one[0].sequence)
    if any(header.sequence == newest[0].sequence and header != newest[0] for header, _ in valid):
        raise malformed(file.name, f"its headers differ, and both have the sequence number {newest[0].sequence}")
    return newest


def _parse(name: str, raw: bytes) -> Header:
    _, _, sequence, file_write, data_write, log, _, version, log_bytes, log_offset = _FIELDS.unpack_from(raw)
    if version != VERSION:
        raise malformed(name, f"its version is {version}, and only {VERSION} is known")
    return Header(
        sequence=sequence,
        file_write_id=UUID(bytes_le=file_write),
        data_write_id=UUID(bytes_le=data_write),
        log_id=UUID(bytes_le=log),
        log_bytes=log_bytes,
        log_offset=log_offset,
    )


def refuse_log(name: str, header: Header) -> None:
    """Refuse a file whose log holds what isn't in its place yet: its writer was interrupted (2.3.3).

    Raises:
        BootpointError: ``target_check_failed``.
    """
    if header.log_id != NO_LOG:
        raise malformed(
            name,
            f"its log isn't empty (LogGuid {header.log_id}): whoever wrote it last was interrupted",
            hint="let the host replay it: Mount-VHD -Path FILE -NoDriveLetter, then Dismount-VHD -Path FILE",
        )


def renew(file: RandomAccess, header: Header, slot: int) -> Header:
    """Give a file new ids of its content, durably: called before the first byte of it is changed (2.2.2.1).

    Args:
        file: The file.
        header: The header that counts.
        slot: Which of the two it is.

    Returns:
        The header that counts now; both places hold these ids.
    """
    header = replace(header, file_write_id=uuid4(), data_write_id=uuid4())
    for place in (1 - slot, slot):
        header = replace(header, sequence=header.sequence + 1)
        file.write_at(HEADER_OFFSETS[place], header.pack())
        file.flush()
    return header
