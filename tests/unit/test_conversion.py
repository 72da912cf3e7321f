"""What is read of a machine's disks, and what is decided from it."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import pytest

from bootpoint_common.identity import new_id
from bootpoint_common.units import MiB
from bootpoint_worker.conversion import guest as guests
from bootpoint_worker.conversion.device import Devices, names_devices, plan_devices
from bootpoint_worker.conversion.disk import BIOS_BOOT, ESP, MICROSOFT_RESERVED, DiskLayout, Partition, read_layout
from bootpoint_worker.conversion.guest import Edits, Guest, Kernel, read_collection, write_archive
from bootpoint_worker.conversion.initramfs import DRACUT, MODULES, plan_initramfs
from bootpoint_worker.conversion.loader import FALLBACK, Copy, plan_fallback
from bootpoint_worker.conversion.plan import Machine, Means, decide, native_bus, plan_edits
from bootpoint_worker.conversion.seccomp import DENIED, filter_program
from bootpoint_worker.targets.guest import Profile
from tests.service.component import need

SIZE = 64 * MiB

ROOT_UUID = "11111111-2222-3333-4444-555555555555"

IDE = frozenset({"ata_piix"})
ALL = frozenset({"virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "ahci", "ata_piix"})


class Image:
    """A disk in memory."""

    def __init__(self) -> None:
        self.data = bytearray(SIZE)

    def put(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data

    def mbr(self, *entries: tuple[int, int, int], code: bytes = b"\xeb\x63") -> None:
        """Write an MBR of (type, first sector, sectors)."""
        self.put(0, code)
        for index, (kind, start, length) in enumerate(entries):
            self.put(446 + 16 * index, struct.pack("<BxxxBxxxII", 0x80 if index == 0 else 0, kind, start, length))
        self.put(510, b"\x55\xaa")

    def gpt(self, *kinds: UUID, code: bytes = b"", sector: int = 512) -> None:
        """Write a GPT of partitions of 4 MiB, and a protective MBR."""
        self.mbr((0xEE, 1, 0xFFFFFFFF), code=code)
        self.put(sector, b"EFI PART")
        self.put(sector + 72, struct.pack("<QII", 2, 128, 128))
        for index, kind in enumerate(kinds):
            first = (index + 1) * 4 * MiB // sector
            entry = kind.bytes_le + uuid4().bytes_le + struct.pack("<QQ", first, first + 4 * MiB // sector - 1)
            self.put(2 * sector + 128 * index, entry)

    def ext4(self, offset: int, *, journal_device: int = 0) -> None:
        self.put(offset + 1024 + 56, b"\x53\xef")
        self.put(offset + 1024 + 104, UUID(ROOT_UUID).bytes)
        self.put(offset + 1024 + 228, struct.pack("<I", journal_device))

    def layout(self, slot: str = "system") -> DiskLayout:
        return read_layout(slot, lambda offset, length: bytes(self.data[offset : offset + length]), SIZE)


LINUX_DATA = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")


def test_an_mbr_with_boot_code_boots_by_bios() -> None:
    image = Image()
    image.mbr((0x83, 2048, 8192))
    image.ext4(MiB)
    found = image.layout()
    assert (found.table, found.firmware, found.boots) == ("mbr", "bios", True)
    assert found.partitions == (Partition(1, MiB, 4 * MiB, "ext4", ROOT_UUID),)


def test_a_gpt_with_an_efi_partition_boots_by_uefi() -> None:
    image = Image()
    image.gpt(ESP, LINUX_DATA)
    image.put(4 * MiB + 82, b"FAT32")
    image.put(4 * MiB + 67, bytes.fromhex("44332211"))
    found = image.layout()
    assert (found.table, found.firmware) == ("gpt", "uefi")
    assert found.esp is not None
    assert (found.esp.kind, found.esp.uuid) == ("vfat", "1122-3344")


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_gpt_with_a_partition_for_grub_boots_by_bios(sector: int) -> None:
    image = Image()
    image.gpt(BIOS_BOOT, LINUX_DATA, code=b"\xeb\x63", sector=sector)
    assert image.layout().firmware == "bios"
    assert len(image.layout().partitions) == 2


def test_a_disk_that_both_can_boot_is_left_to_the_job() -> None:
    image = Image()
    image.gpt(ESP, BIOS_BOOT, code=b"\xeb\x63")
    assert image.layout().firmware is None
    assert image.layout().boots


def test_logical_partitions_are_counted_from_five() -> None:
    image = Image()
    image.mbr((0x83, 2048, 2048), (0x05, 8192, 65536))
    image.put(8192 * 512 + 446, struct.pack("<BxxxBxxxII", 0, 0x83, 2048, 2048))
    image.put(8192 * 512 + 462, struct.pack("<BxxxBxxxII", 0, 0x05, 16384, 8192))
    image.put(8192 * 512 + 510, b"\x55\xaa")
    second = (8192 + 16384) * 512
    image.put(second + 446, struct.pack("<BxxxBxxxII", 0, 0x82, 2048, 2048))
    image.put(second + 510, b"\x55\xaa")
    assert [part.number for part in image.layout().partitions] == [1, 5, 6]


def test_a_chain_of_logical_partitions_that_bites_its_tail_ends() -> None:
    image = Image()
    image.mbr((0x05, 8192, 65536))
    image.put(8192 * 512 + 462, struct.pack("<BxxxBxxxII", 0, 0x05, 0, 8192))
    image.put(8192 * 512 + 510, b"\x55\xaa")
    assert image.layout().partitions == ()


def test_a_journal_on_another_device_is_nothing_to_mount() -> None:
    image = Image()
    image.mbr((0x83, 2048, 8192))
    image.ext4(MiB, journal_device=0x0801)
    assert image.layout().partitions[0].kind == ""


@pytest.mark.parametrize("data", [b"", b"\x55\xaa", bytes(510) + b"\x55\xaa", b"\xff" * 4096])
def test_no_bytes_break_it(data: bytes) -> None:
    found = read_layout("system", lambda offset, length: data[offset : offset + length], len(data))
    assert not found.boots


def test_windows_is_known_by_its_boot_sector() -> None:
    image = Image()
    image.mbr((0x07, 2048, 8192))
    image.put(MiB + 3, b"NTFS    ")
    image.put(MiB + 300, b"BOOTMGR is missing")
    assert image.layout().windows
    image = Image()
    image.gpt(ESP, MICROSOFT_RESERVED, LINUX_DATA)
    image.put(12 * MiB + 3, b"NTFS    ")
    assert image.layout().windows


LAYOUT = DiskLayout(
    "system",
    "mbr",
    (Partition(1, MiB, 4 * MiB, "ext4", ROOT_UUID), Partition(5, 8 * MiB, 4 * MiB, "swap", "aaaa-swap")),
    boot_code=True,
)


def guest(files: Mapping[str, str] | None = None, has: frozenset[str] = IDE, tools: str = "update-initramfs") -> Guest:
    kernel = Kernel("6.1", "/boot/initrd.img-6.1", has, ALL)
    made = {"etc/fstab": f"UUID={ROOT_UUID} / ext4 defaults 0 1\n", **(files or {})}
    return Guest({path: text.encode() for path, text in made.items()}, {}, frozenset({tools}), (kernel,))


def machine(found: Guest | None = None, layout: DiskLayout = LAYOUT, **values: object) -> Machine:
    root = ("system", layout.partitions[0]) if found is not None else None
    return Machine((layout,), root, found, **values)  # type: ignore[arg-type]


ABLE = Means()


def decided(found: Machine, means: Means = ABLE, bus: str = "virtio") -> Profile:
    return decide(new_id(), found, means, bus=bus, nics=())


def test_device_names_become_ids_everywhere() -> None:
    files = {
        "etc/fstab": "# / was on /dev/sda1\n/dev/sda1 / ext4 defaults 0 1\n/dev/sda5 none swap sw 0 0\n"
        "/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part5 none swap sw 0 0\n",
        "boot/grub/grub.cfg": "linux /vmlinuz root=/dev/sda1 ro resume=/dev/sda5\n",
        "etc/default/grub": 'GRUB_CMDLINE_LINUX="root=/dev/sda1"\n',
        "boot/grub2/grubenv": "kernelopts=root=/dev/sda1\n".ljust(1024, "#"),
        "boot/grub/device.map": "(hd0)\t/dev/disk/by-id/ata-X\n",
    }
    edits = plan_edits(machine(guest(files, ALL)), bus="virtio", nics=())
    text = {path: content.decode() for path, content in edits.writes.items()}
    assert text["etc/fstab"] == (
        f"# / was on /dev/sda1\nUUID={ROOT_UUID} / ext4 defaults 0 1\nUUID=aaaa-swap none swap sw 0 0\n"
        "UUID=aaaa-swap none swap sw 0 0\n"
    )
    assert text["boot/grub/grub.cfg"] == f"linux /vmlinuz root=UUID={ROOT_UUID} ro resume=UUID=aaaa-swap\n"
    assert text["etc/default/grub"] == f'GRUB_CMDLINE_LINUX="root=UUID={ROOT_UUID}"\n'
    assert text["boot/grub2/grubenv"].startswith(f"kernelopts=root=UUID={ROOT_UUID}\n###")
    assert len(text["boot/grub2/grubenv"]) == 1024
    assert text["boot/grub/device.map"] == "(hd0)\t/dev/vda\n"
    assert edits.problems == []


def test_names_of_a_second_disk_are_told_only_when_there_is_one_way() -> None:
    data = DiskLayout("data", "mbr", (Partition(1, MiB, 4 * MiB, "ext4", "data-uuid"),))
    fstab = "/dev/sdb1 / ext4 defaults 0 1\n/dev/sda1 /srv ext4 defaults 0 2\n"
    devices = Devices((LAYOUT, data), ("system", LAYOUT.partitions[0]), fstab)
    replaced = f"UUID={ROOT_UUID} / ext4 defaults 0 1\nUUID=data-uuid /srv ext4 defaults 0 2\n"
    assert devices.replaced(fstab, []) == replaced
    strange = "UUID=x / ext4 defaults 0 1\n/dev/disk/by-id/ata-A-part1 /a ext4\n/dev/disk/by-id/ata-B-part1 /b ext4\n"
    found, edits = guest({"etc/fstab": strange}), Edits()
    plan_devices(found, edits, Devices((LAYOUT, data), ("system", LAYOUT.partitions[0]), strange))
    assert "etc/fstab" not in edits.writes
    assert len(edits.problems) == 2


@pytest.mark.parametrize(
    ("line", "named"),
    [("/dev/sda1 / ext4", True), ("/dev/nvme0n1p2 / ext4", True), ("UUID=x / ext4", False), ("# /dev/sda1", False),
     ("/dev/mapper/vg-root / ext4", False), ("LABEL=root / ext4", False)],
)  # fmt: skip
def test_only_names_of_disks_depend_on_the_machine(line: str, named: bool) -> None:
    assert names_devices(line + "\n") is named


def test_an_initramfs_that_has_the_drivers_is_left_alone() -> None:
    edits = Edits()
    plan_initramfs(guest(has=ALL), edits, "virtio")
    assert (edits.initramfs, edits.writes) == (None, {})


def test_initramfs_tools_and_dracut_are_told_of_the_drivers() -> None:
    edits = Edits()
    found = guest({MODULES: "ext4\nvirtio_pci\n"})
    plan_initramfs(found, edits, "virtio")
    assert (edits.initramfs, edits.versions) == ("initramfs-tools", ("6.1",))
    assert edits.writes[MODULES] == b"ext4\nvirtio_pci\nvirtio_blk\nvirtio_scsi\nvirtio_net\n"
    edits = Edits()
    plan_initramfs(guest(tools="dracut"), edits, "virtio")
    assert edits.initramfs == "dracut"
    assert edits.writes[DRACUT] == b'add_drivers+=" virtio_pci virtio_blk virtio_scsi virtio_net "\n'
    with pytest.raises(ValueError, match="neither initramfs-tools nor dracut"):
        plan_initramfs(guest(tools="mkinitcpio"), Edits(), "virtio")


def test_an_initramfs_gets_the_drivers_of_hyper_v() -> None:
    has = IDE | {"hv_vmbus", "hv_storvsc", "hv_netvsc"}
    machine_of = Guest(
        tools=frozenset({"dracut"}), kernels=(Kernel("6.1", "/boot/initrd.img-6.1", modules=has, has=IDE),)
    )
    edits = Edits()
    plan_initramfs(machine_of, edits, "vmbus")
    assert edits.writes[DRACUT].decode() == 'add_drivers+=" hv_vmbus hv_storvsc hv_netvsc "\n'
    plan_initramfs(guest(has=has), edits, "vmbus")
    with pytest.raises(ValueError, match="no driver hv_vmbus or hv_storvsc"):
        plan_initramfs(Guest(kernels=(Kernel("3.2", "/boot/x", IDE, IDE),)), edits, "vmbus")


def test_a_machine_that_hyper_v_has_no_disk_for_is_said_not_to_boot() -> None:
    """Generation 2, which starts by UEFI, has no IDE; generation 1 does, and starts from it."""
    unable = guest(tools="mkinitcpio")
    system = Partition(1, MiB, MiB, "vfat", "A-B", esp=True)
    by_uefi = DiskLayout("system", "gpt", (LAYOUT.partitions[0], system))
    profile = decided(machine(unable, by_uefi), bus="vmbus")
    assert (profile.firmware, profile.bus, profile.bootable) == ("uefi", None, False)
    profile = decided(machine(unable), bus="vmbus")
    assert (profile.firmware, profile.bus, profile.bootable) == ("bios", "ide", True)


@pytest.mark.parametrize("tool", ["update-initramfs", "dracut"])
def test_an_initramfs_that_is_gone_is_told_and_not_made_again(tool: str) -> None:
    edits = Edits()
    gone = Guest(tools=frozenset({tool}), kernels=(Kernel("6.1", None, frozenset(), ALL),))
    plan_initramfs(gone, edits, "virtio")
    assert (edits.initramfs, edits.versions, edits.writes) == (None, (), {})
    assert "kernel 6.1 has no initramfs" in edits.problems[0]


@pytest.mark.parametrize(
    ("root", "starts"),
    [
        ("/dev/sda1", True),
        ("PARTUUID=0c8e0d7e-01", True),
        ("UUID=06662b11-598a-4e55-a172-ae03412d8b7e", False),
        ("LABEL=root", False),
        ("/dev/mapper/vg-root", False),
    ],
)
def test_a_machine_that_never_had_an_initramfs_gets_one_for_another_bus(root: str, starts: bool) -> None:
    lines = f"search --set=root --fs-uuid 0666\nlinux /vmlinuz root={root} ro quiet\n"
    kernels = (Kernel("6.1", None, IDE, ALL),)
    found = Guest(tools=frozenset({"dracut"}), files={"boot/grub/grub.cfg": lines.encode()}, kernels=kernels)
    edits = Edits()
    plan_initramfs(found, edits, "virtio")
    assert edits.versions == (("6.1",) if starts else ())
    assert bool(edits.problems) is not starts


def test_a_kernel_without_such_drivers_is_declined() -> None:
    bare = Guest(tools=frozenset({"dracut"}), kernels=(Kernel("2.6.18", "/boot/initrd-2.6.18", IDE, IDE),))
    with pytest.raises(ValueError, match=r"2\.6\.18 has no driver virtio_pci or virtio_blk"):
        plan_initramfs(bare, Edits(), "virtio")


def test_plain_linux_goes_the_light_way_and_has_hardware_for_the_runbook() -> None:
    profile = decided(machine(guest()))
    assert (profile.route, profile.bus, profile.firmware, profile.boot_disk) == ("light", "ide", "bios", "system")
    assert profile.bootable


def test_a_machine_that_boots_as_it_is_keeps_the_jobs_hardware() -> None:
    profile = decided(machine(guest(has=ALL)))
    assert (profile.bus, profile.nic_model, profile.actions) == (None, None, ())


def test_device_names_want_hardware_on_which_they_are_right() -> None:
    assert native_bus(guest({"etc/fstab": "/dev/sda1 / ext4 defaults 0 1\n"}, ALL), "virtio") == "sata"


@pytest.mark.parametrize(
    "files",
    [
        {"etc/fstab": "/dev/mapper/vg-root / ext4 defaults 0 1\n"},
        {"etc/fstab": "/dev/vg0/root / ext4 defaults 0 1\n"},
        {"etc/fstab": "/dev/md0 / ext4 defaults 0 1\n"},
        {"etc/fstab": "UUID=x / ext4 d 0 1\nUUID=y /usr ext4 d 0 2\n"},
        {"etc/crypttab": "root UUID=x none luks\n"},
    ],
)
def test_what_lies_on_more_than_partitions_goes_the_heavy_way(files: dict[str, str]) -> None:
    found = machine(guest(files))
    assert decided(found).route == "v2v"
    without = decided(found, Means(v2v="the host has no virt-v2v-in-place"))
    assert (without.route, without.bus) == ("hardware", "ide")
    assert any("no virt-v2v-in-place" in problem.text for problem in without.problems)


@pytest.mark.parametrize("name", [b"/dev/mapper/Pl\xe4tze-root", b"/dev/mapper/a\0b", b"/dev/mapper/" + b"x" * 9999])
def test_what_a_guest_calls_its_disks_can_be_kept(name: bytes) -> None:
    """In the journal, and in a database, which takes neither zeros nor what isn't Unicode."""
    found = guest()
    profile = decided(machine(Guest({"etc/fstab": name + b" / ext4\n"}, {}, found.tools, found.kernels)))
    text = msgspec.json.encode(profile).decode()
    assert "/ lies on /dev/mapper/" in text
    assert "\\u0000" not in text
    assert len(text) < 1000


@pytest.mark.parametrize(
    ("kind", "said"),
    [("lvm", "a physical volume of LVM"), ("md", "a member of an md array"), ("btrfs", "a btrfs")],
)
def test_a_system_beneath_plain_partitions_goes_the_heavy_way_and_says_where_it_is(kind: str, said: str) -> None:
    parts = (Partition(1, MiB, 4 * MiB, "ext4", "u"), Partition(5, 8 * MiB, 4 * MiB, kind))
    found = machine(layout=DiskLayout("system", "mbr", parts, boot_code=True))
    profile = decided(found)
    assert profile.route == "v2v"
    reason = f"no Linux was found on a plain partition: partition 5 of system is {said}"
    texts = [problem.text for problem in profile.problems]
    assert f"the light conversion can't be done because {reason}" in texts
    assert any("wasn't looked into" in text and text.endswith("drivers for virtio") for text in texts)
    assert decided(found, Means(v2v="it is missing")).route == "hardware"
    with pytest.raises(ValueError, match=said):
        plan_edits(found, bus="virtio", nics=())


def test_encrypted_swap_is_no_reason() -> None:
    assert decided(machine(guest({"etc/crypttab": "swap /dev/sda5 /dev/urandom swap,cipher=aes\n"}))).route == "light"


def test_windows_needs_an_iso_or_gets_hardware_that_it_knows() -> None:
    layout = DiskLayout("system", "mbr", (Partition(1, MiB, 4 * MiB, "ntfs"),), boot_code=True, windows=True)
    plain = decided(machine(layout=layout))
    assert (plain.system.family, plain.route, plain.bus, plain.nic_model) == ("windows", "hardware", "sata", "e1000e")
    assert decided(machine(layout=layout), Means(virtio_win="/srv/virtio-win.iso")).route == "v2v"
    lacking = decided(machine(layout=layout), Means(v2v="it is missing", virtio_win="/srv/virtio-win.iso"))
    assert lacking.route == "hardware"


def test_a_job_without_the_boot_disk_will_not_boot() -> None:
    layout = DiskLayout("data", "mbr", (Partition(1, MiB, 4 * MiB, "ext4", "u"),))
    profile = decided(Machine((layout,)))
    assert not profile.bootable
    assert profile.boot_disk is None


def test_the_boot_disk_is_found_wherever_it_is() -> None:
    data = DiskLayout("data", "mbr", (Partition(1, MiB, 4 * MiB, "ext4", "u"),))
    assert decide(new_id(), Machine((data, LAYOUT)), Means(), bus="virtio", nics=()).boot_disk == "system"


def test_a_host_without_means_says_so_and_changes_nothing() -> None:
    none = "the host has no bwrap (install bubblewrap)"
    profile = decided(machine(declined=none), Means(light=none, v2v="it is missing"))
    assert (profile.route, profile.bus) == ("hardware", None)
    assert any("install bubblewrap" in problem.text for problem in profile.problems)


UEFI = DiskLayout(
    "system", "gpt", (Partition(1, MiB, MiB, "vfat", "A-B", esp=True), Partition(2, 2 * MiB, MiB, "ext4", ROOT_UUID))
)  # fmt: skip


def test_the_loader_is_made_from_what_the_distribution_has() -> None:
    listing = ("EFI/debian/shimx64.efi", "EFI/debian/grubx64.efi", "EFI/debian/mmx64.efi", "EFI/debian/grub.cfg")
    assert plan_fallback(listing) == (
        Copy("EFI/debian/shimx64.efi", FALLBACK),
        Copy("EFI/debian/grubx64.efi", "EFI/BOOT/grubx64.efi"),
        Copy("EFI/debian/mmx64.efi", "EFI/BOOT/mmx64.efi"),
        Copy("EFI/debian/grub.cfg", "EFI/BOOT/grub.cfg"),
    )
    assert plan_fallback(("EFI/debian/grubx64.efi",)) == (Copy("EFI/debian/grubx64.efi", FALLBACK),)
    assert plan_fallback(("EFI/debian/shimx64.efi",)) == ()
    assert plan_fallback(("EFI/Boot/bootx64.efi", "EFI/debian/grubx64.efi")) == ()
    assert plan_fallback(("EFI/de bian;rm -rf/grubx64.efi", "EFI/../x/grubx64.efi")) == ()


def test_a_missing_loader_is_an_action_and_a_line_of_the_runbook() -> None:
    found = Machine((UEFI,), ("system", UEFI.partitions[1]), guest(has=ALL), ("EFI/debian/grubx64.efi",))
    profile = decided(found)
    assert (profile.firmware, profile.loader, profile.route) == ("uefi", "EFI/debian/grubx64.efi", "light")
    assert any(FALLBACK in action for action in profile.actions)
    assert not decided(found, Means(mtools=False)).bootable
    assert not decided(Machine((UEFI,), loaders=())).bootable


def archive(members: Mapping[str, bytes], *, link: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
        if link is not None:
            member = tarfile.TarInfo("etc/fstab")
            member.type, member.linkname = tarfile.SYMTYPE, link
            opened.addfile(member)
    return buffer.getvalue()


def test_a_collection_is_only_what_it_may_be() -> None:
    facts = b"tool dracut\nkernel 6.1\nhas 6.1 virtio-blk\nmodule 6.1 ahci\ninitramfs 6.1 /boot/x\ntool evil;rm\n"
    bad = {"../../etc/passwd": b"x", "etc/a\nb": b"x", "/etc/shadow": b"x"}
    found = read_collection(archive({"etc/fstab": b"x", **bad, guests.FACTS: facts + b"nonsense\n"}))
    assert set(found.files) == {"etc/fstab"}
    assert found.tools == {"dracut"}
    assert found.kernels == (Kernel("6.1", "/boot/x", frozenset({"virtio_blk"}), frozenset({"ahci"})),)
    assert read_collection(archive({}, link="/etc/shadow")).files == {}


@pytest.mark.parametrize("data", [b"not an archive" * 100, archive({"etc/fstab": b"x" * 9000})[:4000]])
def test_a_broken_collection_is_declined(data: bytes) -> None:
    with pytest.raises(ValueError, match="could not be collected"):
        read_collection(data)


def test_a_collection_takes_no_more_memory_than_it_has_bytes() -> None:
    sparse, endless = tarfile.TarInfo("etc/fstab"), tarfile.TarInfo("x")
    sparse.type, sparse.size = tarfile.GNUTYPE_SPARSE, 0
    header = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % guests.LARGEST_FILE
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * ord(" "))
    assert read_collection(bytes(header)).files == {}
    endless.type, endless.size = tarfile.GNUTYPE_LONGNAME, 1
    with pytest.raises(ValueError, match="could not be collected"):
        read_collection((endless.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(512, b"\0")) * 5000)


def test_edits_travel_as_an_archive_of_plain_files() -> None:
    edits = Edits(writes={"etc/netplan/new.yaml": b"n", "etc/fstab": b"f"}, modes={"etc/netplan/new.yaml": 0o600})
    made = write_archive(Guest({"etc/fstab": b"old"}, {"etc/fstab": 0o640}), edits)
    with tarfile.open(fileobj=io.BytesIO(made)) as opened:
        found = {member.name: (member.isdir(), member.mode, member.uid) for member in opened}
    assert found == {
        "etc/fstab": (False, 0o640, 0), "etc/netplan": (True, 0o755, 0), "etc/netplan/new.yaml": (False, 0o600, 0)
    }  # fmt: skip


def run_filter(number: int, *arguments: int, arch: int = 0xC000003E) -> int:
    """Run the filter as the kernel does; returns what it says."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *arguments, *[0] * (6 - len(arguments)))
    program = list(struct.iter_unpack("<HBBI", filter_program()))
    at, held = 0, 0
    while True:
        code, true, false, value = program[at]
        at += 1
        if code == 0x20:
            held = struct.unpack_from("<I", data, value)[0]
        elif code == 0x06:
            return int(value)
        else:
            met = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[code]
            at += true if met else false


ALLOW, EPERM = 0x7FFF0000, 0x00050001


def test_the_filter_lets_tools_work_and_nothing_else() -> None:
    assert all(run_filter(number) == EPERM for number in DENIED.values())
    assert [run_filter(number) for number in (0, 1, 2, 59, 257)] == [ALLOW] * 5
    assert run_filter(56, 0x01200011) == ALLOW  # fork
    assert run_filter(56, 0x10000000) == EPERM  # a new user namespace
    assert run_filter(435) == 0x00050000 | 38  # clone3: ENOSYS
    assert run_filter(41, 1) == ALLOW  # a unix socket
    assert [run_filter(41, family) for family in (2, 10, 16, 17, 38, 40)] == [EPERM] * 6
    assert [run_filter(16, 0, request) for request in (0x5401, 0x5412, 0x541C)] == [ALLOW, EPERM, EPERM]
    assert run_filter(0x40000000) == EPERM
    assert run_filter(0, arch=0x40000003) == 0x80000000


def test_numbers_of_system_calls_are_those_of_this_machine() -> None:
    need("linux-libc-dev")
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    known = dict(line.split()[1:3] for line in header.read_text().splitlines() if line.startswith("#define __NR_"))
    wrong = {name: number for name, number in DENIED.items() if known.get(f"__NR_{name}", str(number)) != str(number)}
    assert wrong == {}
