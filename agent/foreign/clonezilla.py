"""A Clonezilla image directory becomes the disk it was made of, in a sparse file; partclone writes the partitions."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from agent.errors import DamagedError, RefusedError, UsageError
from agent.foreign.loop import loop_disk
from agent.model import clonezilla as model
from agent.model.clonezilla import PartitionImage
from agent.model.profile import Platform
from agent.probe.disks import partition_name
from agent.probe.kernel_files import number_of
from agent.process import ProcessError, feed, run

PIECE_BYTES = 4 << 20
SYSFS_SECTOR = 512
BOOT_BYTES = 446  # of the first sector: boot code and disk signature, not the table
STACKS = {"lvm_vg_dev.list": "LVM", "luks-dev.list": "LUKS", "mdadm.conf": "RAID"}


@dataclass(frozen=True, slots=True)
class RebuiltDisk:
    name: str  # as Clonezilla's kernel called it: sda
    file: Path
    sector_bytes: int


def is_clonezilla(folder: Path) -> bool:
    return bool(model.partition_images(_names(folder)))


def platform_of(folder: Path) -> Platform:
    return model.platform(_text(folder / "Info-dmi.txt"), uefi=bool(_text(folder / "efi-nvram.dat").strip()))


def rebuilt_disk(folder: Path, wanted: str, work: Path) -> RebuiltDisk:
    """The disk in ``work``. ``wanted`` names one of several; everything that can be refused is, before it is made."""
    images = model.partition_images(_names(folder))
    name = _choose(folder, images, wanted)
    own = [image for image in images if model.disk_of(image.partition) == name]
    _refuse_missing(folder, name, own)
    for image in own:
        if image.packing not in (*DECODERS, *model.UNPACKED):
            raise RefusedError(
                f"partition {image.partition} is packed by {image.packing}, expected one of {', '.join(DECODERS)}",
                "unpack its pieces into one file, NAME-ptcl-img, and import again",
            )
    table = _text(folder / f"{name}-pt.sf")
    size = model.disk_size(table, _text(folder / f"{name}-pt.parted"))
    file = work / f"{name}.raw"
    with file.open("xb") as made:
        made.truncate(size.sectors * size.sector_bytes)
    _write_table(folder, name, table, file, size)
    with loop_disk(file, sector_bytes=size.sector_bytes, writable=True) as device:
        for image in own:
            _restore(folder, image, _node(device, image.partition), work)
        _make_swap(folder, name, device)
    return RebuiltDisk(name, file, size.sector_bytes)


def _choose(folder: Path, images: tuple[PartitionImage, ...], wanted: str) -> str:
    stacks = [what for file, what in STACKS.items() if _text(folder / file).strip()]
    if stacks:
        raise RefusedError(
            f"{folder} holds {', '.join(stacks)}, expected file systems on partitions",
            "restore it with Clonezilla, and capture the running machine",
        )
    disks = sorted({model.disk_of(image.partition) for image in images} - {""})
    chosen = [disk for disk in disks if disk == wanted] if wanted else disks
    if len(chosen) != 1:
        raise UsageError(
            f"{folder} holds the disks {', '.join(disks) or 'none'}, expected one"
            + (f" called {wanted}" if wanted else ""),
            "name the disk with the system by --disk",
        )
    if not _text(folder / f"{chosen[0]}-pt.sf") and not (folder / f"{chosen[0]}-gpt-1st").is_file():
        raise DamagedError(f"{folder} has no partition table of {chosen[0]}: {chosen[0]}-pt.sf is absent")
    return chosen[0]


def _refuse_missing(folder: Path, name: str, own: list[PartitionImage]) -> None:
    """A partition that was saved and has no image here would come as zeros."""
    parts = _text(folder / "parts")
    if not parts.strip():
        raise DamagedError(
            f"{folder} has no file ‘parts’, which names the partitions that were saved, and is written last",
            "copy every file of the Clonezilla image; if it never had one, save the machine again",
        )
    there = {image.partition for image in own}
    for partition in model.saved_partitions(parts, name):
        if partition in there or (folder / f"swappt-{partition}.info").is_file():
            continue
        found = model.files_of(partition, _names(folder))
        act = "restore it with Clonezilla, and capture the running machine"
        raise RefusedError(
            f"partition {partition} of {folder} was saved, and there is {', '.join(found) or 'no file of it'}, "
            f"expected an image by partclone, {partition}.FILESYSTEM-ptcl-img",
            act if found else "copy every file of the Clonezilla image",
        )


def _write_table(folder: Path, name: str, table: str, file: Path, size: model.DiskSize) -> None:
    """The table with its identities: sfdisk's dump; where that is too old to know GPT, the sectors themselves."""
    first, second = folder / f"{name}-gpt-1st", folder / f"{name}-gpt-2nd"
    if first.is_file() and "label: gpt" not in table:
        _write_at(file, 0, first.read_bytes())
        if second.is_file():
            data = second.read_bytes()[-model.GPT_END_SECTORS * size.sector_bytes :]
            _write_at(file, size.sectors * size.sector_bytes - len(data), data)
        return
    script = model.without_devices(table).encode()
    with loop_disk(file, sector_bytes=size.sector_bytes, writable=True) as device:
        try:
            run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--force", f"/dev/{device}"], stdin=script)
        except ProcessError as error:
            raise DamagedError(f"{name}-pt.sf of {folder} is not a partition table: {error.stderr.strip()}") from error
    if "label: gpt" not in table and (folder / f"{name}-mbr").is_file():
        _write_at(file, 0, (folder / f"{name}-mbr").read_bytes()[:BOOT_BYTES])


def _restore(folder: Path, image: PartitionImage, node: Path, work: Path) -> None:
    pieces = _unpacked(folder, image)
    log = work / "partclone.log"
    if image.filesystem == "dd":
        size = number_of(Path("/sys/class/block") / node.name / "size") * SYSFS_SECTOR
        pieces = _exactly(pieces, size, image.partition)
        words = ["dd", f"of={node}", "bs=1M", "iflag=fullblock", "conv=notrunc,sparse", "status=none"]
    else:
        # It looks at its own progress every -f seconds, and ends only then.
        words = ["partclone.restore", "-s", "-", "-o", str(node), "-L", str(log), "-C", "-f", "1"]
    try:
        feed(words, pieces)
    except ProcessError as error:
        if error.status == 127:
            raise UsageError(f"{words[0]} is not installed", "install the package partclone") from error
        said = (line.strip() for line in (_text(log) or error.stderr).splitlines())
        why = [line for line in said if line and "please check" not in line]
        raise DamagedError(
            f"partition {image.partition} of {folder} cannot be restored: {'; '.join(why[-2:])}",
            "copy the Clonezilla image again",
        ) from error
    log.unlink(missing_ok=True)


def _exactly(pieces: Iterator[bytes], size_bytes: int, partition: str) -> Iterator[bytes]:
    """A partition that was copied whole has no mark of its end: it must fill what it is written to."""
    count = 0
    for piece in pieces:
        count += len(piece)
        if count > size_bytes:
            break
        yield piece
    if count != size_bytes:
        more = "or more " if count > size_bytes else ""
        raise DamagedError(f"the image of partition {partition} has {count:,} bytes {more}expected {size_bytes:,}",
                           "copy the Clonezilla image again")  # fmt: skip


def _make_swap(folder: Path, name: str, device: str) -> None:
    """Swap is not saved, its identity is."""
    for path in sorted(folder.glob(f"swappt-{name}*.info")):
        partition = path.name.removeprefix("swappt-").removesuffix(".info")
        uuid, label = model.swap_identity(_text(path))
        words = ["mkswap", *(("-U", uuid) if uuid else ()), *(("-L", label) if label else ())]
        run([*words, _node(device, partition)])


def _node(device: str, partition: str) -> Path:
    name = partition_name(Path("/"), device, model.number_of(partition))
    if not name:
        raise DamagedError(f"the partition table of the Clonezilla image does not name {partition}")
    return Path("/dev") / name


# --- pieces -----------------------------------------------------------------------------------------------------------


class _Joined(io.RawIOBase):
    """Files read one after the other, as one."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = iter(paths)
        self._file: io.BufferedReader | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]  # a buffer of any kind
        while True:
            if self._file is None:
                path = next(self._paths, None)
                if path is None:
                    return 0
                self._file = path.open("rb")
            count = self._file.readinto(buffer)
            if count:
                return count
            self._file.close()
            self._file = None


def _gzip(source: io.RawIOBase) -> Iterator[bytes]:
    """Members one after the other, as pigz and cat make them; at most PIECE_BYTES at a time, whatever the ratio."""
    with gzip.GzipFile(fileobj=io.BufferedReader(source)) as reader:
        while data := reader.read(PIECE_BYTES):
            yield data


def _zstd(source: io.RawIOBase) -> Iterator[bytes]:
    decoder = zstandard.ZstdDecompressor(max_window_size=1 << 31)  # ocs-sr may be told --ultra --long
    reader = decoder.stream_reader(io.BufferedReader(source), read_across_frames=True, closefd=False)
    while data := reader.read(PIECE_BYTES):
        yield data


def _xz(source: io.RawIOBase) -> Iterator[bytes]:
    with lzma.open(io.BufferedReader(source)) as reader:
        while data := reader.read(PIECE_BYTES):
            yield data


def _bz2(source: io.RawIOBase) -> Iterator[bytes]:
    with bz2.open(io.BufferedReader(source)) as reader:
        while data := reader.read(PIECE_BYTES):
            yield data


def _plain(source: io.RawIOBase) -> Iterator[bytes]:
    while data := source.read(PIECE_BYTES):
        yield data


DECODERS = {"gz": _gzip, "zst": _zstd, "xz": _xz, "bz2": _bz2}


def _unpacked(folder: Path, image: PartitionImage) -> Iterator[bytes]:
    try:
        yield from DECODERS.get(image.packing, _plain)(_Joined([folder / name for name in image.pieces]))
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError, OSError) as error:
        raise DamagedError(
            f"the pieces of partition {image.partition} cannot be unpacked: {error}", "copy the Clonezilla image again"
        ) from error


# --- small files ------------------------------------------------------------------------------------------------------


def _names(folder: Path) -> list[str]:
    return os.listdir(folder)  # noqa: PTH208 - names only


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _write_at(file: Path, offset: int, data: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, data, offset)
    finally:
        os.close(descriptor)
