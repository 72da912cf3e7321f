"""Where a path of a Windows host lies among its administrative shares."""

from __future__ import annotations

import pytest

from bootpoint_common.errors import BootpointError, Code
from bootpoint_worker.smb.path import join, parent, share_of


@pytest.mark.parametrize(
    ("path", "share", "below"),
    [
        ("D:\\vm\\a.vhdx", "D$", "vm\\a.vhdx"),
        ("d:/vm/a.vhdx", "D$", "vm\\a.vhdx"),
        ("E:\\", "E$", ""),
        ("D:\\vm\\\\a\\", "D$", "vm\\a"),
        ("C:\\ClusterStorage\\Volume1\\vm", "C$", "ClusterStorage\\Volume1\\vm"),
    ],
)
def test_a_path_lies_on_the_share_of_its_volume(path: str, share: str, below: str) -> None:
    assert share_of(path) == (share, below)


@pytest.mark.parametrize("path", ["", "vm\\a", "D:vm", "\\\\nas\\share\\a", "D:\\a\\..\\b", "D:\\a:stream", "D$\\a"])
def test_what_lies_on_no_volume_of_the_host_is_refused(path: str) -> None:
    with pytest.raises(BootpointError) as problem:
        share_of(path)
    assert problem.value.code is Code.HOST_UNSUPPORTED
    assert problem.value.value == path


def test_paths_are_put_together_and_taken_apart() -> None:
    assert join("D:\\", "vm", "a.vhdx") == "D:\\vm\\a.vhdx"
    assert parent("D:\\vm\\a.vhdx") == "D:\\vm"
