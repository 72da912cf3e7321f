"""What nbdkit and the disk library say, in our words; and names of files on datastores."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bootpoint_common.errors import Code
from bootpoint_worker.targets.esxi.datastore import join, name_of, parent, split
from bootpoint_worker.targets.esxi.vddk import Server


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("vddk[1]: error: VixDiskLib_Open: [ds] a.vmdk: Failed to lock the file", Code.BUSY),
        ("vddk[1]: error: VixDiskLib_Open: [ds] a.vmdk: A file was not found", Code.LAYER_LOST),
        ("vddk[1]: error: VixDiskLib_ConnectEx: Cannot complete login due to an incorrect user name", Code.HOST_AUTH),
        ("vddk[1]: error: VixDiskLib_ConnectEx: The thumbprint of the server differs", Code.HOST_KEY_CHANGED),
        ("vddk[1]: error: VixDiskLib_ConnectEx: Cannot connect to host", Code.HOST_UNREACHABLE),
        ("vddk[1]: error: VixDiskLib_Open: something new", Code.TARGET_WRITE_ERROR),
        ("vddk[1]: error: VixDiskLib_Write: the disk is full", Code.HOST_FULL),
        # On its way to a disk the library warns of what it doesn't find on this machine.
        ("vddk[1]: error: open /etc/vmware/config: No such file; VixDiskLib_Open: new", Code.TARGET_WRITE_ERROR),
        ("vddk[1]: error: libcrypto.so: No such file or directory; VixDiskLib_ConnectEx: Cannot connect to host",
         Code.HOST_UNREACHABLE),
        ('error: cannot open plugin "vddk": /usr/lib/nbdkit/plugins/vddk.so', Code.HOST_UNSUPPORTED),
        ("error: realpath: /opt/vmware-vix-disklib-distrib: No such file or directory", Code.HOST_UNSUPPORTED),
    ],
)  # fmt: skip
def test_what_the_library_says_is_said_with_its_meaning(tmp_path: Path, said: str, code: Code) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    (tmp_path / "log").write_text(f"nbdkit: debug: something else\nnbdkit: {said}\n")
    problem = Server("esx1", process, tmp_path).problem()
    assert problem.code is code
    assert said.partition("error: ")[2] in problem.message


def test_a_datastore_path_is_split_and_joined() -> None:
    path = join("[my store]", "bootpoint", "erp", "erp.vmdk")
    assert path == "[my store] bootpoint/erp/erp.vmdk"
    assert split(path) == ("my store", "bootpoint/erp/erp.vmdk")
    assert (parent(path), name_of(path)) == ("[my store] bootpoint/erp", "erp.vmdk")
    with pytest.raises(ValueError, match="no datastore path"):
        split("/vmfs/volumes/x")
