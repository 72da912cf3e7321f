"""Whether a machine has booted, judged from recorded screens and serial ports."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootpoint_common.units import MiB
from bootpoint_worker.targets.kvm.look import screen_text
from bootpoint_worker.targets.kvm.picture import SIGNATURE, png_of
from bootpoint_worker.targets.sight import Sight, plain
from bootpoint_worker.verdict import GREETING, LIMIT_SECONDS, QUIET_SECONDS, Judgement, Seen, Verdict, judge

SEABIOS = "SeaBIOS (version 1.16.2-debian-1.16.2-1)\nMachine UUID 350106c9-d645-496b-b773-d28ff69485f1\n"

#: What machines that did not boot have shown, by where it was: ``text`` is the VGA text screen.
FAILURES = {
    "no boot sector": (
        "text",
        f"{SEABIOS}\nBooting from Hard Disk...\nBoot failed: not a bootable disk\n\nNo bootable device.\n",
    ),
    "no boot sector, said by the firmware": ("firmware", "enter handle_18:\n  NULL\nNo bootable device.\n"),
    "nothing for UEFI": (
        "serial",
        """\
BdsDxe: failed to load Boot0001 "UEFI Misc Device" from PciRoot(0x0)/Pci(0x2,0x1)/Pci(0x0,0x0): Not Found
UEFI Interactive Shell v2.2
Press ESC in 1 seconds to skip startup.nsh or any other key to continue.
Shell> """,
    ),
    "no configuration of GRUB": (
        "text",
        "GRUB loading.\nWelcome to GRUB!\n\nerror: no such device: 0c1d9c3e.\ngrub rescue> ",
    ),
    "GRUB's prompt": ("serial", "   Minimal BASH-like line editing is supported.\n\ngrub> "),
    "no root, initramfs-tools": (
        "serial",
        """\
Gave up waiting for root file system device.  Common problems:
 - Boot args (cat /proc/cmdline)
ALERT!  UUID=11111111-1111-1111-1111-111111111111 does not exist.  Dropping to a shell!


BusyBox v1.35.0 (Debian 1:1.35.0-4+b3) built-in shell (ash)
(initramfs) """,
    ),
    "no root, dracut": (
        "serial",
        """\
Warning: /dev/disk/by-uuid/1 does not exist
Generating "/run/initramfs/rdsosreport.txt"

Entering emergency mode. Exit the shell to continue.

dracut:/# """,
    ),
    "no initramfs": (
        "serial",
        """\
[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
[    1.3] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0) ]---
""",
    ),
    "init ended": ("text", "[    9.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\n"),
    "a file system of fstab": (
        "serial",
        """\
You are in emergency mode. After logging in, type "journalctl -xb" to view
Give root password for maintenance
(or press Control-D to continue): """,
    ),
    "Windows without its loader": ("text", "BOOTMGR is missing\nPress Ctrl+Alt+Del to restart\n"),
    "a boot sector without a system": ("text", f"{SEABIOS}\nBooting from Hard Disk...\nMissing operating system."),
}

#: What machines that came up have shown.
SUCCESSES = {
    "getty": ("serial", "\nDebian GNU/Linux 12 erp-db ttyS0\n\nerp-db login: "),
    "getty, with the kernel behind it": ("serial", "\nerp-db login: \n[   31.0] ADDRCONF(NETDEV_CHANGE): link up\n"),
    "getty on the screen": ("text", "Debian GNU/Linux 12 erp-db tty1\n\nerp-db login:\n"),
    "a BSD": ("serial", "FreeBSD/amd64 (erp-db) (ttyu0)\n\nlogin: "),
    "systemd": ("serial", "[  OK  ] Started Getty on tty1.\n[  OK  ] Reached target Multi-User System.\n"),
    "systemd since 250": ("serial", "[  OK  ] Reached target graphical.target - Graphical Interface.\n"),
    "our own guest": ("serial", f"\n{GREETING} marker=generation-3 root=/dev/vda1 nic=lo\n"),
}

#: What is neither: a boot must not be seen in it.
NEITHER = {
    "nothing": ("serial", ""),
    "SeaBIOS": ("text", f"{SEABIOS}\nBooting from Hard Disk...\n"),
    "a menu": (
        "text",
        """\
                             GNU GRUB  version 2.06
 +----------------------------------------------------------------------------+
 |*Debian GNU/Linux                                                            |
 | Rescue login:                                                               |
 | Reached target Multi-User System                                            |
 | Advanced options (recovery mode), drops to (initramfs) or grub>             |
""",
    ),
    "a menu on a serial port": ("serial", "GNU GRUB  version 2.06\n Rescue login:  \n*Debian GNU/Linux, login: \n"),
    "a kernel that begins": (
        "serial",
        "[    0.0] Linux version 6.1.0-27-cloud-amd64\n[    0.0] Command line: login: systemd.unit=multi-user.target\n",
    ),
    "an initramfs that waits": (
        "serial",
        "Begin: Waiting for root file system ... Begin: Running /scripts/local-block\n",
    ),
    "a failed unit": ("serial", "[FAILED] Failed to start login: \n         Starting Reached target Multi-User\n"),
    "a boot entry that fails before another": (
        "serial",
        'BdsDxe: failed to load Boot0001 "UEFI PXEv4": Not Found\nBdsDxe: starting Boot0002\n',
    ),
}


def _one(sight: Sight, seconds: float = 12.0) -> Judgement | None:
    return judge(Seen(), sight, seconds)[1]


def _sight(where: str, said: str, **more: object) -> Sight:
    return Sight(**{"state": "running", where: said, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FAILURES)
def test_what_a_machine_says_that_cannot_boot_is_heard(name: str) -> None:
    found = _one(_sight(*FAILURES[name]))
    assert found is not None
    assert found.verdict == Verdict.DOES_NOT_BOOT, found
    assert found.reason


@pytest.mark.parametrize("name", SUCCESSES)
def test_what_a_machine_says_that_is_up_is_heard(name: str) -> None:
    found = _one(_sight(*SUCCESSES[name]))
    assert found is not None
    assert found.verdict == Verdict.BOOTS, found


@pytest.mark.parametrize("name", NEITHER)
def test_what_a_boot_loader_or_a_kernel_prints_is_no_boot(name: str) -> None:
    assert _one(_sight(*NEITHER[name])) is None


@given(
    failure=st.sampled_from(sorted(FAILURES)),
    success=st.sampled_from(sorted(SUCCESSES)),
    before=st.booleans(),
    agent=st.booleans(),
    state=st.sampled_from(["running", "off", "paused", "crashed"]),
    seconds=st.floats(0, 2 * LIMIT_SECONDS),
    written=st.integers(0, 100 * MiB),
    seen=st.builds(
        Seen, looks=st.integers(0, 50), quiet_since=st.floats(0, 100), written_bytes=st.integers(0, MiB * 9)
    ),
)
def test_no_sign_of_success_outweighs_a_failure_that_is_in_sight(
    *, failure: str, success: str, before: bool, agent: bool, state: str, seconds: float, written: int, seen: Seen
) -> None:
    (where, said), (elsewhere, good) = FAILURES[failure], SUCCESSES[success]
    texts = {"serial": "", "text": "", "firmware": "", elsewhere: good}
    texts[where] = f"{texts[where]}\n{said}" if before or texts[where] else said
    sight = Sight(state=state, agent=agent, written_bytes=written, picture=b"still")
    sight = replace(sight, serial=texts["serial"], text=texts["text"], firmware=texts["firmware"])
    found = judge(seen, sight, seconds)[1]
    assert found is not None
    assert found.verdict != Verdict.BOOTS


@given(
    looks=st.lists(
        st.tuples(st.sampled_from(sorted(NEITHER)), st.integers(0, 3), st.booleans()), min_size=1, max_size=60
    ),
    panicked=st.booleans(),
)
def test_without_a_sign_a_machine_that_has_not_written_is_never_taken_for_booted(
    looks: list[tuple[str, int, bool]], panicked: bool
) -> None:
    seen = Seen()
    for number, (name, picture, blink) in enumerate(looks):
        sight = _sight(
            *NEITHER[name], picture=bytes([picture, blink]), read_bytes=50 * MiB, cpu_seconds=number * 2.0 * panicked
        )  # fmt: skip
        seen, found = judge(seen, sight, number * 2.0)
        assert found is None or found.verdict != Verdict.BOOTS


def _watch(sights: list[Sight], *, every: float = 2.0) -> tuple[float, Judgement | None]:
    seen, number = Seen(), 0
    while number * every <= LIMIT_SECONDS:
        seen = msgspec.convert(msgspec.to_builtins(seen), Seen)  # as it lies in the row in between
        seen, found = judge(seen, sights[min(number, len(sights) - 1)], number * every)
        if found is not None:
            return number * every, found
        number += 1
    return number * every, None


def test_a_machine_of_which_only_a_picture_is_known_boots_when_it_has_written_and_idles() -> None:
    booting = [
        Sight(state="running", picture=bytes([number]), read_bytes=number * MiB, cpu_seconds=number * 2.0)
        for number in range(10)
    ]
    # A cursor blinks.
    written = Sight(state="running", cpu_seconds=20.0, read_bytes=90 * MiB, written_bytes=3 * MiB)
    up = [replace(written, picture=bytes([200 + number % 2])) for number in range(300)]
    seconds, found = _watch(booting + up)
    assert found is not None
    assert found.verdict == Verdict.BOOTS
    assert "weak" in found.reason
    assert seconds >= 20 + QUIET_SECONDS


def test_a_still_picture_of_a_panic_is_no_boot() -> None:
    panic = [
        Sight(state="running", picture=b"panic", read_bytes=90 * MiB, written_bytes=3 * MiB, cpu_seconds=number * 2.0)
        for number in range(400)
    ]
    _, found = _watch(panic)
    assert found is not None
    assert found.verdict == Verdict.UNKNOWN


def test_a_machine_that_reads_nothing_and_does_nothing_is_stuck() -> None:
    seconds, found = _watch(
        [_sight("text", f"{SEABIOS}\nBooting from Hard Disk...\n", picture=b"same", read_bytes=512)]
    )
    assert found is not None
    assert found.verdict == Verdict.DOES_NOT_BOOT
    assert seconds < 90


def test_a_slow_machine_has_its_time() -> None:
    slow = [_sight("serial", f"[ {number}.0] still at it\n", read_bytes=20 * MiB) for number in range(250)]
    seconds, found = _watch([*slow, _sight(*SUCCESSES["getty"])])
    assert (seconds, found and found.verdict) == (500.0, Verdict.BOOTS)
    seconds, found = _watch([_sight("serial", "silence", read_bytes=20 * MiB)])
    assert (seconds, found and found.verdict) == (LIMIT_SECONDS, Verdict.UNKNOWN)


@pytest.mark.parametrize("resets", range(5))
def test_some_resets_belong_to_a_boot_and_more_are_a_loop(resets: int) -> None:
    found = _one(Sight(state="running", resets=resets))
    assert (found and found.verdict) == (Verdict.DOES_NOT_BOOT if resets >= 3 else None)
    up = _one(_sight(*SUCCESSES["getty"], resets=resets))
    assert (up and up.verdict) == (Verdict.DOES_NOT_BOOT if resets >= 3 else Verdict.BOOTS)


@pytest.mark.parametrize(
    ("sight", "verdict"),
    [
        (Sight(state="off", why="shutdown"), Verdict.UNKNOWN),
        (Sight(state="off", why="QEMU crashed"), Verdict.UNKNOWN),
        (Sight(state="absent"), Verdict.UNKNOWN),
        (Sight(state="crashed"), Verdict.DOES_NOT_BOOT),
        (Sight(state="off", why="shutdown", serial=f"{GREETING} marker=x\n"), Verdict.BOOTS),
        (Sight(state="running", agent=True), Verdict.BOOTS),
    ],
)
def test_a_vm_that_has_ended_is_judged_by_what_it_said(sight: Sight, verdict: Verdict) -> None:
    found = _one(sight)
    assert found is not None
    assert found.verdict == verdict


def test_what_only_moves_a_cursor_is_left_out() -> None:
    said = b"\x1b[2J\x1b[01;01HBdsDxe: starting\r\n\x1b[08;01H\x1b[1m\x1b[33m\x1b[40mShell> \x1b[0m\x1b[37m\x1b[40m"
    found = _one(Sight(state="running", serial=plain(said)))
    assert found is not None
    assert found.verdict == Verdict.DOES_NOT_BOOT


def test_a_text_screen_is_read_and_pixels_are_not() -> None:
    line = b"grub rescue>".ljust(80, b"\0")
    memory = b"".join(bytes([character, 7]) for character in line) + bytes(80 * 24 * 2)
    assert screen_text(memory) == "grub rescue>"
    assert screen_text(bytes(range(256)) * 16) is None


def test_a_screen_of_an_older_qemu_becomes_a_png() -> None:
    pixels = bytes(range(30)) * 2 + bytes(30)
    made = png_of(b"P6\n10 3\n255\n" + pixels)
    assert made is not None
    assert made.startswith(SIGNATURE)
    assert struct.unpack(">II", made[16:24]) == (10, 3)
    length = struct.unpack(">I", made[33:37])[0]
    lines = zlib.decompress(made[41 : 41 + length])
    above, read = bytes(30), b""
    for start in range(0, len(lines), 31):
        assert lines[start] == 2
        above = bytes((one + two) & 0xFF for one, two in zip(lines[start + 1 : start + 31], above, strict=True))
        read += above
    assert read == pixels
    assert png_of(made) == made
    assert png_of(b"no picture") is None
    assert png_of(b"P6\n10 3\n255\nshort") is None
