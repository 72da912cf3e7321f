"""The files of a Windows host over SMB 3: its administrative shares, signed or encrypted, without an agent there.

Start reading at `files`; `file` is the open file that disks are written through.
"""

from __future__ import annotations

from bootpoint_worker.smb.file import SmbFile
from bootpoint_worker.smb.files import Entry, SmbFiles
from bootpoint_worker.smb.session import SmbAccess

__all__ = ["Entry", "SmbAccess", "SmbFile", "SmbFiles"]
