"""The proof that a disk will boot: green on a good one, red for each thing that is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.model.plan import DiskIdentity, VerifyBoot
from agent.probe.live_tree import LiveTree
from agent.restore import boot, verify
from agent.restore.disk import DiskHandle
from agent.restore.verify import named_by, verify_boot

RELEASE = "6.1.0-1-amd64"
ROOT, SRV, SWAP = "6f1d3c52-2b70-4a52-9f0b-00000000000a", "6f1d3c52-2b70-4a52-9f0b-00000000000b", "ABCD-0001"
STEP = VerifyBoot(firmware="uefi", esp_partition=1, releases=(RELEASE,), modules=("nvme", "ext4"))
BIOS = VerifyBoot(firmware="bios", esp_partition=0, releases=(RELEASE,), modules=("nvme",))
GRUB_CFG = f"""\
menuentry 'Debian' {{
    search --no-floppy --fs-uuid --set=root {ROOT}
    linux /boot/vmlinuz-{RELEASE} root=UUID={ROOT} ro console=ttyS0
    initrd /boot/initrd.img-{RELEASE}
}}
"""


def cpio(*names: str) -> bytes:
    """An initramfs of empty files."""
    parts = []
    for name in (*names, "TRAILER!!!"):
        fields = [0, 0o100644, 0, 0, 1, 0, 0, 0, 0, 0, 0, len(name) + 1, 0]
        head = b"070701" + b"".join(b"%08X" % field for field in fields)
        entry = head + name.encode() + b"\0"
        parts.append(entry + bytes(-len(entry) % 4))
    return b"".join(parts)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "root"
    modules = place / f"usr/lib/modules/{RELEASE}"
    modules.mkdir(parents=True)
    (place / "lib").symlink_to("usr/lib")
    (modules / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    kernel = bytearray(1024)
    kernel[0x202:0x206] = b"HdrS"
    files: dict[str, bytes] = {
        f"boot/vmlinuz-{RELEASE}": bytes(kernel),
        f"boot/initrd.img-{RELEASE}": cpio("init", f"usr/lib/modules/{RELEASE}/kernel/drivers/nvme/host/nvme.ko.xz"),
        "boot/grub/grub.cfg": GRUB_CFG.encode(),
        "usr/sbin/update-grub": b"#!/bin/sh\n",
        "etc/fstab": (
            f"# the root\nUUID={ROOT} / ext4 defaults 0 1\n/dev/disk/by-uuid/{SRV} /srv ext4 defaults 0 2\n"
            f"UUID={SWAP.lower()} none swap sw 0 0\n/dev/sr0 /media/cd iso9660 noauto 0 0\ntmpfs /tmp tmpfs rw 0 0\n"
        ).encode(),
        "boot/efi/EFI/BOOT/BOOTX64.EFI": b"MZ shim",
        "boot/efi/EFI/BOOT/grubx64.efi": b"MZ grub \0/EFI/debian\0",
        "boot/efi/EFI/gone/grub.cfg": b"search.fs_uuid 0000-0000 root\n",  # left by another system: nobody starts it
        "boot/efi/EFI/BOOT/grub.cfg": f"search.fs_uuid {ROOT} root\n".encode(),
        "boot/efi/EFI/debian/grub.cfg": f"search.fs_uuid {ROOT} root\n".encode(),
    }
    for path, data in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(data)
    names = {"UUID": frozenset({ROOT, SRV, SWAP.lower()}), "LABEL": frozenset({"root"}), "PARTUUID": frozenset[str](),
             "PARTLABEL": frozenset[str]()}  # fmt: skip
    monkeypatch.setattr(verify, "present_names", lambda _: names)
    monkeypatch.setattr(boot, "esp_place", lambda where, *_: where / "boot/efi")
    return place


def handle(tmp_path: Path, descriptor: int = -1) -> DiskHandle:
    identity = DiskIdentity(name="sdx", model="", serial="", wwn="", size_bytes=1, logical_sector_bytes=512)
    return DiskHandle(identity, descriptor, Path("/dev/sdx"), tmp_path)


def red(root: Path, step: VerifyBoot = STEP, descriptor: int = -1) -> list[str]:
    return [f"{c.name}: {c.detail}" for c in verify_boot(root, step, handle(root, descriptor)) if not c.ok]


def test_a_good_system_is_green(root: Path) -> None:
    checks = verify_boot(root, STEP, handle(root))
    assert [f"{c.name}: {c.detail}" for c in checks if not c.ok] == []
    assert {"kernel 6.1.0-1-amd64", "initramfs 6.1.0-1-amd64", "fstab", "grub.cfg", "grub.cfg files", "grub.cfg root",
            "loader", "loader stub"} == {c.name for c in checks}  # fmt: skip
    assert len([c for c in checks if c.name == "fstab"]) == 3, "root, /srv and swap; no optional line, no tmpfs"


def write(path: str, data: bytes) -> Callable[[Path], object]:
    return lambda root: (root / path).write_bytes(data)


def remove(path: str) -> Callable[[Path], object]:
    return lambda root: (root / path).unlink()


def change(path: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda root: (root / path).write_text((root / path).read_text().replace(old, new))


FSTAB, CFG = "etc/fstab", "boot/grub/grub.cfg"


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (remove(f"boot/vmlinuz-{RELEASE}"), f"kernel {RELEASE}: /boot/vmlinuz-{RELEASE} is not there"),
        (write(f"boot/vmlinuz-{RELEASE}", b""), "is not what it should be"),
        (write(f"boot/vmlinuz-{RELEASE}", b"text"), "is not what it should be"),
        (remove(f"boot/initrd.img-{RELEASE}"), "there is none in /boot"),
        (write(f"boot/initrd.img-{RELEASE}", b""), f"initramfs {RELEASE}"),
        (write(f"boot/initrd.img-{RELEASE}", cpio("init")), "lacks nvme"),
        (write(f"boot/initrd.img-{RELEASE}", cpio("init")[:-50]), "initramfs"),
        (change(FSTAB, ROOT, "0000"), "fstab: UUID=0000 on / is not on the disk"),
        (change(FSTAB, f"/dev/disk/by-uuid/{SRV}", "/dev/sdb1"), "fstab: /dev/sdb1 on /srv is not on the disk"),
        (write("etc/crypttab", f"x UUID={ROOT[:-1]}f none luks\n".encode()), "crypttab"),
        (remove(CFG), "grub.cfg: /boot/grub/grub.cfg is not there"),
        (change(CFG, RELEASE, "5.0"), "does not start kernel"),
        (change(CFG, "initrd.img", "initrd.old"), "grub.cfg files: not there: /boot/initrd.old"),
        (change(CFG, f"root=UUID={ROOT}", "root=/dev/sda2"), "grub.cfg root: /dev/sda2"),
        (change(CFG, "ro console", "resume=UUID=0000 ro console"), "grub.cfg root: UUID=0000"),
        (remove("boot/efi/EFI/BOOT/BOOTX64.EFI"), "loader: /EFI/BOOT/BOOTX64.EFI is not there"),
        (write("boot/efi/EFI/BOOT/grubx64.efi", b""), "loader: /EFI/BOOT/grubx64.efi"),
        (change("boot/efi/EFI/debian/grub.cfg", ROOT, "0000-0000"), "loader stub: EFI/debian/grub.cfg"),
        (lambda root: shutil.rmtree(root / "boot/efi/EFI"), "loader stub: EFI/BOOT/grub.cfg is not there"),
        (remove("boot/efi/EFI/debian/grub.cfg"), "loader stub: EFI/debian/grub.cfg is not there"),
        (write("boot/efi/EFI/BOOT/grub.cfg", b"normal"), "EFI/BOOT/grub.cfg looks for nothing"),
    ],
)
@pytest.mark.adapts("B1", "B4", "B6", "B13", "T5")
def test_each_missing_thing_is_red(root: Path, break_it: Callable[[Path], object], said: str) -> None:
    break_it(root)
    assert any(said in line for line in red(root)), red(root)


def test_a_builtin_driver_needs_no_module_and_older_kernels_no_new_drivers(root: Path) -> None:
    assert red(root, VerifyBoot(firmware="uefi", esp_partition=1, releases=(RELEASE,), modules=("ext4",))) == []


def test_a_link_that_leads_out_of_the_root_is_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes((root / f"boot/vmlinuz-{RELEASE}").read_bytes())
    (root / f"boot/vmlinuz-{RELEASE}").unlink()
    (root / f"boot/vmlinuz-{RELEASE}").symlink_to(outside)
    assert any("is not there" in line for line in red(root))


@pytest.mark.adapts("B14", "T1")
def test_bios_needs_boot_code_and_a_core_image(root: Path, tmp_path: Path) -> None:
    (root / "boot/grub/i386-pc").mkdir()
    (root / "boot/grub/i386-pc/normal.mod").touch()
    image = tmp_path / "disk"
    sector = bytearray(512)
    sector[510:] = b"\x55\xaa"
    sector[0x180:0x184] = b"GRUB"
    sector[0x5C:0x64] = (1).to_bytes(8, "little")
    for content, wrong in (
        (bytes(sector) + b"core" * 128, 0),
        (bytes(sector) + bytes(512), 1),
        (bytes(1024), 2),
    ):
        image.write_bytes(content)
        descriptor = os.open(image, os.O_RDONLY)
        try:
            assert len(red(root, BIOS, descriptor)) == wrong
        finally:
            os.close(descriptor)


@pytest.mark.adapts("B12", "B14", "T1")
def test_grubs_modules_for_bios_are_beside_the_menu_or_lead_to_it(tmp_path: Path) -> None:
    """Else it stops at its prompt, however good boot sector, core image and menu are."""
    tree, menu = LiveTree(tmp_path), "/boot/grub2/grub.cfg"

    def lay(path: str, text: str = "") -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    assert not verify.menu_check(tree, menu).ok
    lay("boot/grub/i386-pc/normal.mod")
    assert not verify.menu_check(tree, menu).ok
    lay("boot/grub/grub.cfg", "search.fs_uuid 1 root\nconfigfile ($root)'/boot/grub2'/grub.cfg\n")
    assert verify.menu_check(tree, menu).ok
    (tmp_path / "boot/grub/i386-pc/normal.mod").unlink()
    assert not verify.menu_check(tree, menu).ok
    lay("boot/grub2/i386-pc/normal.mod")
    assert verify.menu_check(tree, menu).ok


def test_what_a_grub_cfg_names() -> None:
    files, devices = named_by(
        "linux /@rootfs/boot/vmlinuz-1 root=UUID=a ro resume=none\n"
        "  initrd /boot/ucode.img /@rootfs/boot/initrd-1\n linuxefi ($root)/x root=LABEL=b\n# linux /no root=c\n",
        "/@rootfs",
    )
    assert files == {"/boot/vmlinuz-1", "/boot/ucode.img", "/boot/initrd-1"}
    assert devices == {"UUID=a", "LABEL=b"}


def test_a_grub_cfg_names_files_of_a_nested_subvolume() -> None:
    """openSUSE: with the whole path, or relative to the default subvolume (its GRUB's btrfs_relative_path)."""
    files, _ = named_by(
        "linux /@/.snapshots/1/snapshot/boot/vmlinuz-1 root=UUID=a\n initrd /boot/initrd-1\n",
        "/@/.snapshots/1/snapshot",
    )
    assert files == {"/boot/vmlinuz-1", "/boot/initrd-1"}


@pytest.mark.adapts("B6", "T1")
def test_entries_as_files_are_looked_into(tmp_path: Path) -> None:
    """grub.cfg of the RHEL family says only ‘blscfg’: what it starts stands in the entries."""

    def found(entry: str) -> dict[str, bool]:
        files = {
            "boot/grub2/grub.cfg": "insmod blscfg\nblscfg\n", "boot/loader/entries/i-5.conf": entry,
            "usr/sbin/grub2-mkconfig": "x", "boot/vmlinuz-5": "k", "boot/initramfs-5.img": "i",
        }  # fmt: skip
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        names = {"UUID": frozenset({"aa-1"}), "LABEL": frozenset[str](), "PARTUUID": frozenset[str](),
                 "PARTLABEL": frozenset[str]()}  # fmt: skip
        return {
            check.name: check.ok for check in verify.configuration_checks(tmp_path, LiveTree(tmp_path), ("5",), names)
        }

    good = "title x\nlinux /vmlinuz-5\ninitrd /initramfs-5.img $tuned_initrd\noptions root=UUID=AA-1 ro\n"
    assert found(good) == {"grub.cfg": True, "grub.cfg files": True, "grub.cfg root": True}
    assert found(good.replace("AA-1", "dead"))["grub.cfg root"] is False
    assert found(good.replace("initramfs-5", "initramfs-6"))["grub.cfg files"] is False
    assert found(good.replace("vmlinuz-5", "vmlinuz-4"))["grub.cfg"] is False
