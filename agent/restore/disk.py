"""The target disk: the one module that writes partition tables, through one descriptor whose identity was compared.

    open_disk ─► same disk as the plan's? ─► clear_disk ─► write_table ─► read back and compared ─► partition nodes

libparted computes and commits the geometry; sfdisk gives table and partitions their identities back, which libparted
cannot; what sfdisk then reads from the disk must be the plan, or the step has failed. The kernel is told with BLKPG:
unlike BLKRRPART it works while the disk is claimed, and on loop devices, and with gaps in the numbers.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import parted

from agent.errors import DiskSelectionError, ReadBackError, RefusedError, TargetIOError
from agent.model import table_text
from agent.model.image import BOOT_CODE_BYTES
from agent.model.partition_types import EXTENDED_TYPES
from agent.model.plan import DiskIdentity, PlannedPartition, WriteTable
from agent.model.target_disk import identity as identity_of
from agent.probe.disks import read_disk
from agent.process import run

MIB = 1 << 20
NODE_TIMEOUT_S = 10.0
LOCK_TIMEOUT_S = 10.0
# They have no class of their own in common.
_PARTED_ERRORS = (
    *(parted.PartedException, parted.IOException, parted.DeviceException, parted.DiskException),
    *(parted.DiskLabelException, parted.PartitionException, parted.GeometryException, parted.ConstraintException),
)
_SFDISK = (
    *("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel"),  # the kernel is told afterwards, by us
    *("--wipe", "never", "--wipe-partitions", "never"),
)
# linux/fs.h, linux/blkpg.h
_BLKSSZGET, _BLKGETSIZE64, _BLKFLSBUF, _BLKPG = 0x1268, 0x80081272, 0x1261, 0x1269
_ADD, _DELETE = 1, 2


class _BlkpgPartition(ctypes.Structure):
    _fields_ = (
        ("start", ctypes.c_longlong),
        ("length", ctypes.c_longlong),
        ("number", ctypes.c_int),
        ("device_name", ctypes.c_char * 64),
        ("volume_name", ctypes.c_char * 64),
    )


class _BlkpgArgument(ctypes.Structure):
    _fields_ = (
        ("operation", ctypes.c_int),
        ("flags", ctypes.c_int),
        ("length", ctypes.c_int),
        ("data", ctypes.c_void_p),
    )


@dataclass(slots=True)
class DiskHandle:
    """The open disk. ``node`` and ``sysfs`` are those of the descriptor's device number, whatever names do later."""

    identity: DiskIdentity
    descriptor: int
    node: Path
    sysfs: Path
    claimed: bool = True
    stacked: dict[int, Path] = field(default_factory=dict)  # place → node of what stands on the partitions
    links: dict[str, str] = field(default_factory=dict)  # mapper/vg-root → dm-0: names that udev gives such nodes

    def nodes(self) -> tuple[Path, ...]:
        """The disk's own device nodes: the whole disk, its partitions, then what stands on them."""
        partitions = (Path("/dev") / self.partition_name(number) for number in self.partition_numbers())
        return (self.node, *partitions, *self.stacked.values())

    def partition_numbers(self) -> tuple[int, ...]:
        """What the kernel knows of."""
        return tuple(sorted(int((entry / "partition").read_text()) for entry in self._partition_entries()))

    def partition_name(self, number: int) -> str:
        """``sda1``, ``nvme0n1p1``, ``mmcblk0p1``: as the kernel calls it."""
        for entry in self._partition_entries():
            if int((entry / "partition").read_text()) == number:
                return entry.name
        raise TargetIOError(f"disk {self.identity.name} has no partition {number}, the plan needs it")

    def _partition_entries(self) -> list[Path]:
        return [entry for entry in self.sysfs.iterdir() if (entry / "partition").is_file()]

    def release_claim(self) -> None:
        """Let partitions be opened and mounted: while the whole disk is claimed, the kernel refuses both."""
        if self.claimed:
            shared = os.open(f"/proc/self/fd/{self.descriptor}", os.O_RDWR | os.O_CLOEXEC)
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)  # locks belong to open files: two of ours would exclude
            fcntl.flock(shared, fcntl.LOCK_EX)
            os.close(self.descriptor)
            self.descriptor = shared
            self.claimed = False


@contextmanager
def open_disk(identity: DiskIdentity) -> Iterator[DiskHandle]:
    """The disk of a plan, opened once, for this process alone. Raises before anything is written if it is not that one.

    The lock keeps udev from reading the table again, and so taking partitions away, while they are written.
    """
    node = Path("/dev") / identity.name
    handle = _open_claimed(node, identity)
    try:
        _compare(handle)
        yield handle
    finally:
        os.close(handle.descriptor)


def _open_claimed(node: Path, identity: DiskIdentity) -> DiskHandle:
    try:
        descriptor = os.open(node, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        hint = "‘regraft profile’ lists the disks of this machine"
        if error.errno == errno.EBUSY:
            raise RefusedError(
                f"disk {identity.name} (serial {identity.serial or '-'}) is mounted, or held by another program",
                "unmount it, or restart this machine from the medium; nothing was written",
            ) from error
        raise DiskSelectionError(f"disk {node} cannot be opened: {error.strerror}", hint) from error
    try:
        _lock(descriptor)
        number = os.fstat(descriptor).st_rdev
        sysfs = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve(strict=True)
    except OSError as error:
        os.close(descriptor)
        raise RefusedError(
            f"disk {identity.name} is locked by another program: {error.strerror}", "end it; nothing was written"
        ) from error
    return DiskHandle(identity, descriptor, Path("/dev") / sysfs.name, sysfs)


def _lock(descriptor: int) -> None:
    """udev holds the lock for moments, while it looks at the disk; others hold it for good."""
    end = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def _compare(handle: DiskHandle) -> None:
    """The disk behind the descriptor is the disk that was agreed to."""
    wanted, found = handle.identity, _found(handle)
    differing = [
        f"{field} is {getattr(found, field) or '-'}, expected {getattr(wanted, field) or '-'}"
        for field in ("size_bytes", "logical_sector_bytes", "serial", "wwn", "model")
        if getattr(found, field) != getattr(wanted, field)
    ]
    if differing:
        raise DiskSelectionError(
            f"{handle.node} is not the disk that the plan names: {'; '.join(differing)}",
            "make the plan again; nothing was written",
        )
    if (handle.sysfs / "ro").read_text().strip() != "0":
        raise RefusedError(f"disk {wanted.name} is read-only", "open its write protection; nothing was written")


def _found(handle: DiskHandle) -> DiskIdentity:
    """Identity of the device number behind the descriptor, as the profile's reader tells it; sizes from the device."""
    seen = identity_of(read_disk(handle.sysfs.name))
    return DiskIdentity(
        name=handle.sysfs.name,
        model=seen.model,
        serial=seen.serial,
        wwn=seen.wwn,
        size_bytes=_ioctl_number(handle.descriptor, _BLKGETSIZE64, "Q"),
        logical_sector_bytes=_ioctl_number(handle.descriptor, _BLKSSZGET, "i"),
    )


def _ioctl_number(descriptor: int, request: int, form: str) -> int:
    answer = fcntl.ioctl(descriptor, request, bytes(struct.calcsize(form)))
    return int(struct.unpack(form, answer)[0])


# --- destroying -------------------------------------------------------------------------------------------------------


def clear_disk(handle: DiskHandle) -> None:
    """Destroy boot code, tables and signatures. From here on the disk does not boot until the loader is in."""
    for number in handle.partition_numbers():
        _blkpg(handle, _DELETE, number)
    # First, while it still finds them: some signatures (ZFS, RAID) are many, far apart. --force: we hold the claim.
    run(["wipefs", "--all", "--force", "--quiet", handle.node])
    zero = bytes(MIB)
    _write(handle, 0, zero)
    _write(handle, handle.identity.size_bytes - MIB, zero)
    _flush(handle)


def clear_boot_code(handle: DiskHandle) -> None:
    """Nothing boots from a disk that is being written; its table and data stay."""
    _write(handle, 0, bytes(BOOT_CODE_BYTES))
    _flush(handle)


def write_boot_code(handle: DiskHandle, code: bytes) -> None:
    """The first bytes of the first sector; disk signature and table behind them stay."""
    _write(handle, 0, code[:BOOT_CODE_BYTES])
    _flush(handle)
    found = os.pread(handle.descriptor, len(code), 0)
    if found != code:
        raise ReadBackError(f"the boot code of {handle.node} reads back otherwise than it was written")


def _write(handle: DiskHandle, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle.descriptor, view, offset)
        view, offset = view[written:], offset + written


def _flush(handle: DiskHandle) -> None:
    os.fsync(handle.descriptor)
    fcntl.ioctl(handle.descriptor, _BLKFLSBUF, 0)


# --- the table --------------------------------------------------------------------------------------------------------


def write_table(handle: DiskHandle, step: WriteTable) -> None:
    """Write the table of the plan and prove it by reading it back."""
    _commit_geometry(handle, step)
    script = table_text.script(step, handle.identity.logical_sector_bytes)
    run([*_SFDISK, handle.node], stdin=script.encode())
    for part in step.partitions:
        if part.part_label and not table_text.is_plain(part.part_label):
            run([*_SFDISK, "--part-label", handle.node, str(part.number), part.part_label])
    # libparted puts code there that starts the active partition, whatever of it is written so far.
    clear_boot_code(handle)
    wrong = _differences(handle, step)
    if wrong:
        raise TargetIOError(
            f"the partition table of {handle.node} reads back otherwise than it was written: {'; '.join(wrong)}",
            "the disk may be failing, or another program writes to it",
        )
    _tell_kernel(handle, step)


def table_matches(handle: DiskHandle, step: WriteTable) -> bool:
    """Whether the disk already has exactly this table; the kernel is told of it if so."""
    if _differences(handle, step):
        return False
    _tell_kernel(handle, step)
    return True


def partition_node(handle: DiskHandle, number: int) -> Path:
    """Device node of a partition or place, once it is there. From the first on, the disk is no longer claimed whole."""
    if number in handle.stacked:
        return handle.stacked[number]
    handle.release_claim()
    node = Path("/dev") / handle.partition_name(number)
    expected = (handle.sysfs / node.name / "dev").read_text().strip()
    end = time.monotonic() + NODE_TIMEOUT_S
    while time.monotonic() < end:
        if node.is_block_device():
            found = node.stat().st_rdev
            if f"{os.major(found)}:{os.minor(found)}" == expected:
                return node
        time.sleep(0.02)
    raise TargetIOError(f"device node {node} ({expected}) did not appear within {NODE_TIMEOUT_S:.0f} s")


def _commit_geometry(handle: DiskHandle, step: WriteTable) -> None:
    sector = handle.identity.logical_sector_bytes
    try:
        # libparted remembers size and sectors by name, of a disk that may be another one now.
        parted.Device(str(handle.node)).removeFromCache()
        device = parted.Device(str(handle.node))
        disk = parted.freshDisk(device, "gpt" if step.table == "gpt" else "msdos")
        for part in table_text.in_order(step.partitions):
            geometry = parted.Geometry(
                device=device, start=part.start_bytes // sector, length=part.size_bytes // sector
            )
            made = parted.Partition(disk=disk, type=_kind(part, step.table), geometry=geometry)
            disk.addPartition(partition=made, constraint=parted.Constraint(exactGeom=geometry))
        disk.commitToDevice()
    except _PARTED_ERRORS as error:
        raise TargetIOError(f"the partition table of {handle.node} cannot be written: {error}") from error


def _kind(part: PlannedPartition, table: str) -> int:
    if table == "mbr" and part.type in EXTENDED_TYPES:
        return int(parted.PARTITION_EXTENDED)
    if table == "mbr" and part.number > 4:
        return int(parted.PARTITION_LOGICAL)
    return int(parted.PARTITION_NORMAL)


def _differences(handle: DiskHandle, step: WriteTable) -> list[str]:
    """Where the table on the disk is not the planned one."""
    printed = run(["sfdisk", "--json", handle.node], accept=(0, 1)).stdout
    return table_text.differences(printed, str(handle.node), step, handle.identity.logical_sector_bytes)


def _tell_kernel(handle: DiskHandle, step: WriteTable) -> None:
    """Make the kernel's partitions those of the table."""
    real = [part for part in step.partitions if part.purpose != "extended"]
    wanted = {part.number: (part.start_bytes // 512, part.size_bytes // 512) for part in real}
    for number in handle.partition_numbers():
        entry = handle.sysfs / handle.partition_name(number)
        known = (int((entry / "start").read_text()), int((entry / "size").read_text()))
        if wanted.get(number) == known:
            del wanted[number]
        else:
            _blkpg(handle, _DELETE, number)
    for number, (start, size) in sorted(wanted.items()):
        _blkpg(handle, _ADD, number, start * 512, size * 512)


def _blkpg(handle: DiskHandle, operation: int, number: int, start: int = 0, length: int = 0) -> None:
    data = _BlkpgPartition(start, length, number, b"", b"")
    argument = _BlkpgArgument(operation, 0, ctypes.sizeof(data), ctypes.addressof(data))
    try:
        fcntl.ioctl(handle.descriptor, _BLKPG, bytes(argument))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise RefusedError(
                f"partition {number} of disk {handle.identity.name} is in use", "unmount it and start again"
            ) from error
        raise
