"""Names in an initramfs: every compression, early parts, padding, and what is damaged."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable

import pytest
import zstandard

from agent.errors import DamagedError
from agent.model.initramfs import list_initramfs, missing_modules, modules_in


def cpio(*names: str, content: bytes = b"x" * 1001) -> bytes:
    """A newc archive with these names, written from the format's description."""
    out = b""
    for name in (*names, "TRAILER!!!"):
        data = b"" if name == "TRAILER!!!" else content
        raw = name.encode() + b"\0"
        fields = [1, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0]
        head = b"070701" + b"".join(b"%08X" % value for value in fields) + raw
        out += head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)
    return out + b"\0" * (-len(out) % 512)


MAIN = cpio("init", "./usr/lib/modules/6.1/kernel/drivers/nvme/host/nvme-core.ko.xz", "lib/modules/6.1/a/ext4.ko")
NAMES = {"init", "usr/lib/modules/6.1/kernel/drivers/nvme/host/nvme-core.ko.xz", "lib/modules/6.1/a/ext4.ko"}


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(data)


def lzma_alone(data: bytes) -> bytes:
    return lzma.compress(data, format=lzma.FORMAT_ALONE)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, lzma_alone, bz2.compress, zstd])
def test_every_format_alone_and_after_an_early_part(pack: Callable[[bytes], bytes]) -> None:
    assert list_initramfs(pack(MAIN)) == NAMES
    early = cpio("kernel/x86/microcode/GenuineIntel.bin", content=b"070701" * 999)
    assert list_initramfs(early + b"\0" * 1024 + pack(MAIN)) == NAMES | {"kernel/x86/microcode/GenuineIntel.bin"}


def test_several_compressed_parts() -> None:
    assert list_initramfs(zstd(cpio("a")) + b"\0" * 8 + zstd(cpio("b")) + gzip.compress(cpio("c"))) == {"a", "b", "c"}
    assert list_initramfs(zstd(cpio("a") + cpio("b"))) == {"a", "b"}


def test_an_archive_may_be_larger_than_a_piece() -> None:
    large = cpio("one", "two", content=bytes(3 << 20))
    assert list_initramfs(zstd(large)) == {"one", "two"}


def test_lz4_is_left_to_whoever_can() -> None:
    data = b"\x02\x21\x4c\x18" + b"packed"
    assert list_initramfs(data, lambda given: MAIN if given == data else b"") == NAMES
    with pytest.raises(DamagedError, match="lz4 part at byte 0 cannot be unpacked"):
        list_initramfs(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no file in it"),
        (b"\0" * 4096, "no file in it"),
        (b"not an initramfs", "unknown format"),
        (MAIN[:500], "no end"),
        (zstd(MAIN)[:-9], "is cut"),
        (gzip.compress(MAIN[:500], mtime=0), "no end"),
        (b"\x1f\x8b" + b"\xff" * 99, "gzip part at byte 0 is damaged"),
        (MAIN[:6] + b"ZZZZZZZZ" * 13 + MAIN[110:], "damaged"),
        (b"070701" + b"FFFFFFFF" * 13, "a name of"),
    ],
)
def test_what_is_damaged_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(DamagedError, match=says):
        list_initramfs(data)


def test_modules_by_name_and_those_that_miss() -> None:
    assert modules_in(NAMES) == {"nvme_core", "ext4"}
    assert missing_modules(NAMES, ["ext4", "nvme", "sd_mod"], frozenset({"sd_mod"})) == ("nvme",)
