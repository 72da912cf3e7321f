"""The Linux guest has what the test machine lacks, runs the checkout's code, and says clearly how a script failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootpoint_common.units import MiB
from tests.service.component import need
from tests.service.linux_guest import TIMED_OUT, GuestError, linux_guest

STORAGE = """
import subprocess
from pathlib import Path

import bootpoint_producer.agent

def run(command):
    subprocess.run(command, shell=True, check=True)

run("mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --metadata=1.2 /dev/vdb /dev/vdc")
run("pvcreate -q /dev/md0 && vgcreate -q group /dev/md0")
run("lvcreate -q -L 64m -T group/pool && lvcreate -q -V 256m -T group/pool -n thin")
run("lvcreate -q -s -n kept group/thin")
Path("/dev/group/thin").write_bytes(b"after the snapshot")
run("lvchange -q -ay -K group/kept")
print("BTF", Path("/sys/kernel/btf/vmlinux").stat().st_size > 1_000_000)
print("thin", Path("/dev/group/thin").open("rb").read(5), Path("/dev/group/kept").open("rb").read(5))
print(sorted(set(subprocess.check_output(["lsblk", "-lnso", "TYPE", "/dev/group/kept"], text=True).split())))
print("code", bootpoint_producer.agent.__file__)
"""


@pytest.mark.timeout(900)  # the first run on a machine makes the guest's tree
def test_storage_is_real_and_failures_are_told_apart(tmp_path: Path) -> None:
    need("root", "qemu", "mmdebstrap")
    with linux_guest(tmp_path, disks={"vdb": 128 * MiB, "vdc": 128 * MiB}) as guest:
        printed = guest.run(STORAGE).check()
        assert "BTF True" in printed
        assert r"thin b'after' b'\x00\x00\x00\x00\x00'" in printed
        assert "['disk', 'lvm', 'raid1']" in printed
        assert "code /checkout/producer/bootpoint_producer/agent.py" in printed

        failed = guest.run("import sys\nprint('to stdout')\nsys.exit('to stderr')")
        assert (failed.exit_code, failed.output) == (1, "to stdout\nto stderr\n")
        with pytest.raises(AssertionError, match="ended with 1:\nto stdout"):
            failed.check()
        assert guest.run("import time\nprint('slow')\ntime.sleep(60)", timeout=2).exit_code == TIMED_OUT

        with pytest.raises(GuestError, match=r"(?s)panicked.*last words.*sysrq triggered crash"):
            guest.run("print('last words')\nopen('/proc/sysrq-trigger', 'w').write('c')")
