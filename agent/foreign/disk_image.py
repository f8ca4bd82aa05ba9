"""A disk image of any format seen as a raw file, without a copy of it.

    raw ──────────────────────────────► the file itself, behind a read-only loop device
    qcow2, vmdk, vdi, vhdx, vpc ──────► qemu-storage-daemon shows it as a raw file over FUSE
                                        (where there is no FUSE: qemu-img convert, into the work folder)
    any, with journals to play back ──► a qcow2 overlay in the work folder takes the writes

The image itself is never written. Decision: docs/decisions/0019-disk-images-are-read-in-place.md.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent.errors import DamagedError, RefusedError, UsageError
from agent.process import ProcessError, run

FORMATS = ("raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc")
DAEMON_END_S = 20.0
CONVERT_TIMEOUT_S = 24 * 3600.0


class _Extent(msgspec.Struct):
    filename: str = ""


class _Data(msgspec.Struct, rename="kebab"):
    data_file: str = ""
    corrupt: bool = False
    extents: tuple[_Extent, ...] = ()


class _Specific(msgspec.Struct):
    data: _Data = msgspec.field(default_factory=_Data)


class _Info(msgspec.Struct, rename="kebab"):
    """What ``qemu-img info --output=json`` tells."""

    format: str
    virtual_size: int
    backing_filename: str = ""
    format_specific: _Specific = msgspec.field(default_factory=_Specific)


@dataclass(frozen=True, slots=True)
class DiskImage:
    path: Path
    format: str
    size_bytes: int  # of the disk in it


def read_image(path: Path, wanted_format: str = "") -> DiskImage:
    """What kind of disk image a file is. Raises RefusedError for one that reaches into other files."""
    words: list[str | Path] = ["qemu-img", "info", "--output=json"]
    words += ["-f", wanted_format] if wanted_format else []
    try:
        told = run([*words, path.resolve()]).stdout
    except ProcessError as error:
        said = (error.stderr.strip().splitlines() or ["qemu-img failed"])[-1]
        hint = "install qemu-utils" if error.status == 127 else "give the right --format, or another copy of the file"
        raise DamagedError(f"{path} is not read as a disk image: {said}", hint) from error
    info = msgspec.json.decode(told, type=_Info)
    if info.format not in FORMATS:
        raise UsageError(f"{path} is a {info.format} image, expected one of {', '.join(FORMATS)}")
    _refuse_other_files(path, info)
    return DiskImage(path.resolve(), info.format, info.virtual_size)


def _refuse_other_files(path: Path, info: _Info) -> None:
    """An image may name any file of this machine as its base: what is not in it would become part of the import."""
    data = info.format_specific.data
    for name, what in ((info.backing_filename, "base"), (data.data_file, "data file")):
        if name:
            raise RefusedError(
                f"{path} is not whole: its {what} is {name}",
                f"make a whole one: qemu-img convert -O qcow2 {path} WHOLE.qcow2",
            )
    if data.corrupt:
        raise DamagedError(f"{path} is marked as corrupt", "repair a copy of it with qemu-img check -r all")
    folder = path.resolve().parent
    for extent in data.extents:
        place = (folder / extent.filename).resolve()
        if place.parent != folder or not place.is_file():
            raise RefusedError(
                f"{path} names the extent {extent.filename}, expected a file beside it",
                "put all files of the image into one folder",
            )


@contextmanager
def raw_view(image: DiskImage, work: Path, *, writable: bool = False) -> Iterator[Path]:
    """A file with the raw content of the disk. ``writable``: what is written goes to ``work`` and is forgotten."""
    if image.format == "raw" and not writable:
        yield image.path
        return
    shown = image
    if writable:
        overlay = work / "overlay.qcow2"
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", image.format, "-b", image.path, overlay])
        shown = DiskImage(overlay, "qcow2", image.size_bytes)
    view = work / "disk.raw"
    try:
        daemon = _start(shown, image.format if writable else "", view, work / "daemon.pid", writable)
    except ProcessError:
        _convert(shown, view)
        yield view
        return
    try:
        yield view
    finally:
        _end(daemon)


def _start(image: DiskImage, base_format: str, view: Path, pid_file: Path, writable: bool) -> int:
    """The daemon's process, which ends when it is told to; the view is there when this returns."""
    view.touch()
    # Formats are named, never probed: what a guest wrote into a raw disk may look like another format.
    backing = f",backing.driver={base_format}" if base_format else ""
    read_only = "off" if writable else "on"
    run(
        ["qemu-storage-daemon",
         "--blockdev", f"driver=file,node-name=file,filename={_escaped(image.path)},read-only={read_only}",
         "--blockdev", f"driver={image.format},node-name=disk,file=file,read-only={read_only}{backing}",
         "--export", f"type=fuse,id=view,node-name=disk,mountpoint={_escaped(view)},"
                     f"writable={'on' if writable else 'off'}",
         "--pidfile", pid_file, "--daemonize"]
    )  # fmt: skip
    return int(pid_file.read_text())


def _escaped(path: Path) -> str:
    """QEMU's option lists write a comma twice."""
    return str(path).replace(",", ",,")


def _end(process: int) -> None:
    os.kill(process, 15)
    end = time.monotonic() + DAEMON_END_S
    while Path(f"/proc/{process}/stat").exists() and time.monotonic() < end:
        if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break  # nobody reaps it in a container without an init
        time.sleep(0.02)


def _convert(image: DiskImage, view: Path) -> None:
    view.unlink(missing_ok=True)
    run(["qemu-img", "convert", "-f", image.format, "-O", "raw", image.path, view], timeout_s=CONVERT_TIMEOUT_S)
