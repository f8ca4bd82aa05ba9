"""A disk as Windows leaves it, made with Debian's tools: for tests, small, with files of random content."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.process import run
from tests.probe.loop import LoopDisk, loop_disk

MIB = 1 << 20
ESP, MSR = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "e3c9e316-0b5c-4db8-817d-f92df00215ae"
BASIC, RECOVERY = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "de94bba4-06d1-4d40-a16a-bfd50179d6ac"
DISK_GUID, SIGNATURE = "5d2c1f10-8f1b-4c55-9d40-2f2f6f0a7a01", "0x1badcafe"
GPT = f"""\
label: gpt
label-id: {DISK_GUID}
1 : start=2048, size=40960, type={ESP}, uuid=11111111-2222-4333-8444-000000000001, name="EFI system partition", \
attrs="GUID:63"
2 : start=43008, size=32768, type={MSR}, uuid=11111111-2222-4333-8444-000000000002, name="Microsoft reserved partition"
3 : start=75776, size=131072, type={BASIC}, uuid=11111111-2222-4333-8444-000000000003, name="Basic data partition"
4 : start=206848, size=40960, type={RECOVERY}, uuid=11111111-2222-4333-8444-000000000004, \
name="Basic data partition", attrs="RequiredPartition GUID:63"
"""
MBR = f"""\
label: dos
label-id: {SIGNATURE}
1 : start=2048, size=40960, type=7, bootable
2 : start=43008, size=131072, type=7
"""
BOOT_CODE = bytes(random.Random(440).randbytes(440))


@contextmanager
def windows_gpt(folder: Path, size_bytes: int = 128 * MIB) -> Iterator[LoopDisk]:
    """ESP (FAT32 would be larger: FAT16 here), MSR, system, recovery."""
    with loop_disk(folder / "windows.img", size_bytes, GPT) as disk:
        run(["mkfs.vfat", "-n", "SYSTEM", "-h", "2048", disk.part(1)])
        run(["mmd", "-i", disk.part(1), "::/EFI", "::/EFI/BOOT"])
        run(["mcopy", "-i", disk.part(1), blob(folder, "loader", MIB), "::/EFI/BOOT/BOOTX64.EFI"])
        ntfs(disk.part(3), 75776, "Windows", blob(folder, "files", 20 * MIB), "files")
        ntfs(disk.part(4), 206848, "Recovery", blob(folder, "winre", 3 * MIB), "winre.wim")
        yield disk


@contextmanager
def windows_mbr(folder: Path, size_bytes: int = 100 * MIB) -> Iterator[LoopDisk]:
    """System reserved and system, with boot code as BIOS starts it."""
    with loop_disk(folder / "windows.img", size_bytes, MBR) as disk:
        with disk.node.open("r+b", buffering=0) as device:
            device.write(BOOT_CODE)
        ntfs(disk.part(1), 2048, "System Reserved", blob(folder, "bootmgr", MIB), "bootmgr")
        ntfs(disk.part(2), 43008, "Windows", blob(folder, "files", 10 * MIB), "files")
        yield disk


def ntfs(node: Path, start: int, label: str, file: Path, name: str) -> None:
    """An NTFS with a file, a written and removed one (so that what is free is not zero), and zeros that are used."""
    geometry = ["--partition-start", str(start), "--heads", "255", "--sectors-per-track", "63"]
    run(["mkfs.ntfs", "--quick", "--force", "--quiet", "--label", label, *geometry, node])
    zeros = file.parent / "zeros"
    zeros.write_bytes(bytes(2 * MIB + 777))
    run(["ntfscp", node, file, f"/{name}"])
    run(["ntfscp", node, zeros, "/zeros"])


def blob(folder: Path, name: str, size_bytes: int) -> Path:
    path = folder / name
    path.write_bytes(random.Random(name).randbytes(size_bytes))
    return path


def read_range(node: Path, at: int, size: int) -> bytes:
    descriptor = os.open(node, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, at)
    finally:
        os.close(descriptor)
