"""Storage stacks that no source of the matrix has: made in the live system, captured there, and made anew on disks that
know nothing of them; by the commands that a technician types."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.demo import ISO, pe_build
from tests.lab.machine import Disk, Machine
from tests.lab.medium import configured
from tests.lab.programs import run
from tests.lab.running import RunningMachine

pytestmark = [pytest.mark.machine, pytest.mark.timeout(1800)]

PATIENCE_S = 300.0
LUKS = "0c1f6a52-52d5-44c1-8d5e-4d4a6cb0a2a1"
MIRROR = "5d4b68cb:f136b03b:d7250422:84c137a8"

# busybox takes a bare name for its own program where it has one: those that it has less of are called by their path.
LIBRARY = """\
set -e
A=$(readlink -f /dev/disk/by-id/*STACKA)
B=$(readlink -f /dev/disk/by-id/*STACKB)
table() {
    for disk; do printf 'label: gpt\\n- : type=linux\\n' | sfdisk -q --wipe always $disk; done
    udevadm settle
}
fill() {  # the table of file systems, and that of encrypted devices
    mkdir -p /tmp/r/etc /tmp/r/home
    printf 'ID=debian\\nVERSION_ID="12"\\n' > /tmp/r/etc/os-release
    echo stacks > /tmp/r/etc/hostname
    printf "$1" > /tmp/r/etc/fstab
    printf "$2" > /tmp/r/etc/crypttab
    for n in 1 2 3 4 5 6 7 8; do head -c $((n * 70001)) /dev/urandom > /tmp/r/home/file$n; done
    ln -s ../etc /tmp/r/home/link
    (cd /tmp/r; find . -type f | sort | xargs sha256sum) > /tmp/sums
}
same() {
    (cd /tmp/r; sha256sum -c /tmp/sums > /tmp/compared) || { grep -v OK /tmp/compared; false; }
    [ "$(readlink /tmp/r/home/link)" = ../etc ]
    /usr/bin/umount --recursive /tmp/r
}
empty() {  # as if they had come from the shop
    for disk; do
        sgdisk --zap-all $disk
        for place in 0 1000; do dd if=/dev/zero of=$disk bs=1048576 count=20 seek=$place conv=notrunc; done
        blockdev --rereadpt $disk
    done
    udevadm settle
}
mkdir -p /tmp/r
"""


@dataclass(frozen=True, slots=True)
class Stack:
    """Shell, with the disks as $A and $B: how it is made, opened and closed, and what the two commands are told."""

    name: str
    make: str  # ends with everything mounted below /tmp/r
    fstab: str
    close: str
    restored_to: str
    reopen: str  # of what was restored; ends with everything mounted below /tmp/r
    seen: tuple[str, ...]  # what the commands of ``look`` say of what was restored
    look: str
    crypttab: str = ""
    keys: str = ""


STACKS = (
    Stack(
        name="group",  # on two disks; comes back on one, which is too small for it as it was
        make="""
            table $A $B
            pvcreate -q ${A}1 ${B}1; vgcreate -q vgs ${A}1 ${B}1
            lvcreate -q -W n -L 1100M -n root vgs; lvcreate -q -W n -L 100M -n swap vgs
            /usr/sbin/mkfs.ext4 -q /dev/vgs/root
            /usr/sbin/mkswap -U 6f1d3c52-2b70-4a52-9f0b-1a50c4b0b103 /dev/vgs/swap
            /usr/bin/mount /dev/vgs/root /tmp/r
        """,
        fstab="/dev/vgs/root / ext4 defaults 0 1\\n/dev/vgs/swap none swap sw 0 0\\n",
        close="vgchange -q -an vgs",
        restored_to="--disk serial=STACKA --erase STACKA",
        reopen="vgchange -q -ay vgs; /usr/bin/mount /dev/vgs/root /tmp/r",
        look="pvs --noheadings -o vg_name,pv_count; lvs --noheadings -o lv_name vgs; /usr/sbin/blkid /dev/vgs/swap",
        seen=("vgs 1", "root", "swap", "6f1d3c52-2b70-4a52-9f0b-1a50c4b0b103"),
    ),
    Stack(
        name="luks1",  # opened by a key file; comes back on the other disk, with the same UUID
        make=f"""
            table $A
            head -c 4096 /dev/urandom > /tmp/key
            cryptsetup -q luksFormat --type luks1 --iter-time 100 --uuid {LUKS} ${{A}}1 /tmp/key
            cryptsetup open --key-file /tmp/key ${{A}}1 data
            /usr/sbin/mkfs.xfs -q /dev/mapper/data
            /usr/bin/mount /dev/mapper/data /tmp/r
        """,
        fstab="/dev/mapper/data / xfs defaults 0 1\\n",
        crypttab=f"data UUID={LUKS} none luks\\n",
        close="cryptsetup close data",
        keys=f"--luks-key-file {LUKS}=/tmp/key",
        restored_to="--disk serial=STACKB --erase STACKB",
        reopen="cryptsetup open --key-file /tmp/key ${B}1 data; /usr/bin/mount /dev/mapper/data /tmp/r",
        look="cryptsetup luksDump ${B}1; /usr/sbin/blkid ${B}1",
        seen=("Version: 1", f'UUID="{LUKS}"'),
    ),
    Stack(
        # A group on an array, and one of its volumes encrypted: both disks have a member again, and the key file of the
        # system opens the volume.
        name="mirror",
        make=f"""
            table $A $B
            modprobe -a raid1 dm-crypt
            mdadm --create /dev/md0 --run --level 1 --raid-devices 2 --metadata 1.2 --name pv --homehost stacks \\
                --uuid {MIRROR} --assume-clean ${{A}}1 ${{B}}1
            pvcreate -q /dev/md0; vgcreate -q vgm /dev/md0
            lvcreate -q -W n -L 300M -n home vgm; lvcreate -q -W n -L 200M -n root vgm
            printf secret | cryptsetup -q luksFormat --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \\
                --uuid {LUKS} /dev/vgm/home -
            printf secret | cryptsetup open /dev/vgm/home homes -
            /usr/sbin/mkfs.ext4 -q /dev/vgm/root; /usr/sbin/mkfs.ext4 -q /dev/mapper/homes
            /usr/bin/mount /dev/vgm/root /tmp/r; mkdir /tmp/r/home; /usr/bin/mount /dev/mapper/homes /tmp/r/home
            mkdir -p /tmp/r/etc/keys; head -c 64 /dev/urandom > /tmp/r/etc/keys/homes.key
            echo secret > /tmp/pass
        """,
        fstab="/dev/vgm/root / ext4 defaults 0 1\\n/dev/mapper/homes /home ext4 defaults 0 2\\n",
        crypttab=f"homes UUID={LUKS} /etc/keys/homes.key luks\\n",
        close="cryptsetup close homes; vgchange -q -an vgm; mdadm --stop /dev/md0",
        keys="--luks-passphrase /tmp/pass",
        restored_to="--disk serial=STACKA --disk serial=STACKB --arrays keep --erase STACKA --erase STACKB",
        reopen="""
            mdadm --assemble --run /dev/md0 ${A}1 ${B}1; vgchange -q -ay vgm
            /usr/bin/mount /dev/vgm/root /tmp/r
            cryptsetup open --key-file /tmp/r/etc/keys/homes.key /dev/vgm/home homes
            /usr/bin/mount /dev/mapper/homes /tmp/r/home
        """,
        look="cat /proc/mdstat; mdadm --detail --export /dev/md0; /usr/sbin/blkid /dev/vgm/home",
        seen=("[2/2] [UU]", f"MD_UUID={MIRROR}", "MD_NAME=stacks:pv", f'UUID="{LUKS}"', 'TYPE="crypto_LUKS"'),
    ),
)  # fmt: skip


@contextmanager
def live_system(out: Path) -> Iterator[RunningMachine]:
    """The live system with two blank disks, at its shell; the scripts come on a third."""
    pe_build("iso", "--output", str(ISO))
    files = out / "files"
    files.mkdir()
    (files / "library").write_text(LIBRARY)
    for stack in STACKS:
        steps = {
            "make": f"{stack.make}\nfill '{stack.fstab}' '{stack.crypttab}'\n"
            f"/usr/bin/umount --recursive /tmp/r\n{stack.close}\n",
            "look": f"{stack.reopen}\nsame\n{stack.look}\n{stack.close}\n",
        }
        for step, text in steps.items():
            (files / f"{stack.name}-{step}").write_text(". /mnt/library\n" + text)
    (files / "empty").write_text(". /mnt/library\nempty $A $B\n")
    scripts = out / "scripts.img"
    with scripts.open("wb") as file:
        file.truncate(16 << 20)
    run(["mkfs.ext4", "-q", "-L", "SCRIPTS", "-d", files, scripts])
    machine = Machine(
        name="stacks",
        disks=(*(Disk("ahci", size_bytes=1 << 30, serial=f"STACK{name}") for name in "AB"), Disk("usb", path=scripts)),
        memory_mib=1024,
        medium=configured(ISO, out / "medium.iso", {"task": "hold"}),
    )
    with RunningMachine(machine, out, "stacks") as vm:
        vm.console.expect("This machine stays as it is", timeout_s=PATIENCE_S)
        vm.console.expect("Press Enter for a shell", timeout_s=PATIENCE_S)
        vm.console.send("\n")
        vm.console.expect(r"regraft-pe:.*# ", timeout_s=PATIENCE_S)
        done(vm, "/usr/bin/mount -o ro LABEL=SCRIPTS /mnt")
        done(vm, "regraft depot init /tmp/depot")
        yield vm


def done(vm: RunningMachine, words: str) -> str:
    status, said = vm.command(words, timeout_s=PATIENCE_S)
    assert status == 0, f"{words}\n{said}"
    return said


def test_every_stack_is_captured_and_made_anew(tmp_path: Path) -> None:
    """One boot of the live system for all of them: it takes longer than they do."""
    with live_system(tmp_path) as vm:
        for stack in STACKS:
            done(vm, f"sh /mnt/{stack.name}-make")
            done(vm, f"regraft capture --disk serial=STACKA --name {stack.name} --depot /tmp/depot {stack.keys}")
            done(vm, "sh /mnt/empty")
            said = done(vm, f"regraft restore {stack.name} --depot /tmp/depot {stack.restored_to} {stack.keys}")
            assert "RESTORED AND VERIFIED" in said, said
            said = " ".join(done(vm, f"sh /mnt/{stack.name}-look").split())
            missing = [words for words in stack.seen if words not in said]
            assert not missing, f"{stack.name}: {missing} not in {said}"
            done(vm, "sh /mnt/empty")
