"""The stack that is open on this machine: LUKS mappings, md arrays, logical volumes. Reads only.

sysfs ─► which devices stand on which ─┐
lvm, mdadm, cryptsetup ─► what they are ┴─► Stack, and the place of every kernel name
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.errors import TemporaryError
from agent.model.stack import MEMBERS, array_place, luks_place, partition_place, storeys, volume_place
from agent.model.storage import (
    NO_STACK,
    Array,
    Disk,
    FileSystem,
    LogicalVolume,
    Luks,
    PhysicalVolume,
    Stack,
    VolumeGroup,
)
from agent.probe.disks import SECTOR, Surroundings, held, partition_name
from agent.probe.kernel_files import names_in, number_of, text_of
from agent.process import ProcessError, run

LVM_TIMEOUT_S = 120.0
_REPORT = ("--reportformat", "json", "--units", "b", "--nosuffix")
_PHYSICAL = "pv_name,pv_uuid,dev_size,pe_start,vg_name,vg_uuid,vg_extent_size,vg_extent_count,vg_missing_pv_count"
_LOGICAL = "vg_name,lv_name,lv_uuid,lv_size,lv_layout,lv_role,lv_kernel_major,lv_kernel_minor"
# Tokens whose key slot a person's own words open: a recovery key is typed like a passphrase.
TYPED_TOKENS = frozenset({"systemd-recovery"})


@dataclass(frozen=True, slots=True)
class OpenStack:
    """What is open, and how the kernel calls it."""

    stack: Stack = NO_STACK
    nodes: Mapping[str, str] = field(default_factory=dict)  # place → kernel name

    def place_of(self, kernel_name: str) -> str:
        return next((place for place, name in self.nodes.items() if name == kernel_name), "")

    def stacked_place_of(self, kernel_name: str) -> str:
        """The same for what stands on partitions; "" of a partition."""
        stacked = {place for place, _, _ in storeys(self.stack)}
        place = self.place_of(kernel_name)
        return place if place in stacked else ""


@dataclass(frozen=True, slots=True)
class LvmReport:
    physical: tuple[dict[str, str], ...] = ()
    logical: tuple[dict[str, str], ...] = ()


def read_stack(disks: Iterable[Disk], around: Surroundings) -> OpenStack:
    """Everything that is open on these disks. What cannot be read is told in ``around.unread``, and left out."""
    disks = tuple(disks)
    if not any(held is not None and held.kind in MEMBERS for disk in disks for held in _contents(disk)):
        return OpenStack()
    reader = _Reader(around, _partition_nodes(disks))
    reader.read_mappings()
    reader.read_groups(lvm_report(around.unread))
    return OpenStack(Stack(tuple(reader.luks), tuple(reader.arrays), tuple(reader.groups)), reader.nodes)


def _contents(disk: Disk) -> Iterable[FileSystem | None]:
    return (disk.holds, *(part.holds for part in disk.partitions))


def _partition_nodes(disks: Iterable[Disk]) -> dict[str, str]:
    """Place → kernel name of every partition, and of every whole disk."""
    nodes: dict[str, str] = {}
    for disk in disks:
        nodes[partition_place(disk.name, 0)] = disk.name
        for part in disk.partitions:
            name = partition_name(Path("/"), disk.name, part.number)
            if name:
                nodes[partition_place(disk.name, part.number)] = name
    return nodes


class _Reader:
    """Goes from the partitions upwards, until nothing new stands on what is known."""

    def __init__(self, around: Surroundings, nodes: dict[str, str]) -> None:
        self.around = around
        self.nodes = nodes
        self.luks: list[Luks] = []
        self.arrays: list[Array] = []
        self.groups: list[VolumeGroup] = []

    def place(self, kernel_name: str) -> str:
        return next((place for place, name in self.nodes.items() if name == kernel_name), "")

    def read_mappings(self) -> None:
        """LUKS and md, in the order in which they stand on each other; logical volumes by the names that sysfs has."""
        pending = [name for name in names_in(self.around.root / "sys/class/block") if re.match(r"(dm-|md)\d+$", name)]
        while pending:
            ready = [name for name in pending if self._known(self._slaves(name))]
            if not ready:
                return
            for name in ready:
                self._read_mapping(name)
            pending = [name for name in pending if name not in ready]

    def _slaves(self, name: str) -> tuple[str, ...]:
        return tuple(names_in(self.around.root / "sys/class/block" / name / "slaves"))

    def _known(self, slaves: Sequence[str]) -> bool:
        return bool(slaves) and all(self.place(slave) for slave in slaves)

    def _read_mapping(self, name: str) -> None:
        folder = self.around.root / "sys/class/block" / name
        slaves = [self.place(slave) for slave in self._slaves(name)]
        told = text_of(folder / "dm/uuid")
        if name.startswith("md"):
            array = self._told(name, lambda: read_array(name, self.nodes[slaves[0]], slaves, self._held(name)))
            if array is not None:
                self.arrays.append(array)
                self.nodes[array_place(array)] = name
        elif told.startswith("CRYPT-LUKS"):
            mapped = text_of(folder / "dm/name")
            luks = self._told(name, lambda: read_luks(self.nodes[slaves[0]], slaves[0], mapped, self._held(name)))
            if luks is not None:
                self.luks.append(luks)
                self.nodes[luks_place(luks)] = name
        elif told.startswith("LVM-"):
            group, _, volume = split_mapped(text_of(folder / "dm/name"))
            self.nodes[f"lv:{group}/{volume}"] = name

    def _told(self, name: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (ProcessError, TemporaryError, ValueError, KeyError) as error:
            self.around.unread.append(f"{name}: {str(error).strip().rpartition(chr(10))[2]}")
            return None

    def _held(self, name: str) -> tuple[FileSystem | None, int]:
        size = number_of(self.around.root / "sys/class/block" / name / "size") * SECTOR
        return held(name, size, self.around), size

    def read_groups(self, report: LvmReport) -> None:
        for name in dict.fromkeys(row["vg_name"] for row in report.physical if row["vg_name"]):
            physical = [row for row in report.physical if row["vg_name"] == name]
            ons = [self.place(_kernel_name(row["pv_name"])) for row in physical]
            if not all(ons):
                continue  # on a device that is none of these disks
            volumes = [row for row in report.logical if row["vg_name"] == name]
            group = volume_group(physical, ons, volumes, self._holds_of(name, volumes))
            self.groups.append(group)
            for volume, row in zip(group.logical, volumes, strict=True):
                node = _kernel_number_name(row)
                if node:
                    self.nodes[volume_place(group, volume)] = node

    def _holds_of(self, group: str, volumes: Sequence[dict[str, str]]) -> dict[str, FileSystem | None]:
        found: dict[str, FileSystem | None] = {}
        for row in volumes:
            node = _kernel_number_name(row)
            found[row["lv_name"]] = self._held(node)[0] if node else None
        return found


def _kernel_name(node: str) -> str:
    return Path(node).resolve().name


def _kernel_number_name(row: Mapping[str, str]) -> str:
    """``dm-3`` of a volume that is active; "" of one that is not (lvs says -1)."""
    minor = row.get("lv_kernel_minor", "-1")
    return f"dm-{minor}" if minor.isdigit() else ""


def split_mapped(name: str) -> tuple[str, str, str]:
    """(group, "-", volume) of a device-mapper name, with hyphens as they were."""
    found = re.fullmatch(r"((?:[^-]|--)+)-((?:[^-]|--)+)", name)
    return (found[1].replace("--", "-"), "-", found[2].replace("--", "-")) if found else (name, "", "")


# --- LVM ------------------------------------------------------------------------------------------------------------


def lvm_report(unread: list[str], devices: Sequence[str] = ()) -> LvmReport:
    """What LVM sees, on all devices or on ``devices`` alone; empty where it is not installed."""
    only = ["--devices", ",".join(devices)] if devices else []
    try:
        return LvmReport(
            _rows(run(["pvs", *_REPORT, *only, "-o", _PHYSICAL], timeout_s=LVM_TIMEOUT_S).stdout, "pv"),
            _rows(run(["lvs", *_REPORT, *only, "-o", _LOGICAL], timeout_s=LVM_TIMEOUT_S).stdout, "lv"),
        )
    except (ProcessError, TemporaryError, ValueError) as error:
        unread.append(f"LVM: {str(error).strip().rpartition(chr(10))[2]}")
        return LvmReport()


def _rows(text: str, kind: str) -> tuple[dict[str, str], ...]:
    reports = json.loads(text)["report"]
    return tuple({key: str(value) for key, value in row.items()} for report in reports for row in report[kind])


def volume_group(
    physical: Sequence[Mapping[str, str]],
    ons: Sequence[str],
    volumes: Sequence[Mapping[str, str]],
    holds: Mapping[str, FileSystem | None],
) -> VolumeGroup:
    """The value of one group from the rows of the reports."""
    first = physical[0]
    return VolumeGroup(
        name=first["vg_name"],
        uuid=first["vg_uuid"],
        extent_bytes=int(first["vg_extent_size"]),
        extents=int(first["vg_extent_count"]),
        physical=tuple(
            PhysicalVolume(row["pv_uuid"], on, int(row["dev_size"]), int(row["pe_start"]))
            for row, on in zip(physical, ons, strict=True)
        ),
        logical=tuple(
            LogicalVolume(row["lv_name"], row["lv_uuid"], int(row["lv_size"]), _kind(row), holds.get(row["lv_name"]))
            for row in volumes
        ),
    )


def _kind(row: Mapping[str, str]) -> str:
    """``linear``, ``striped``; else what makes the volume another thing: its layout, or its part in a snapshot."""
    roles = row["lv_role"].split(",")
    if "snapshot" in roles or "origin" in roles or "thickorigin" in roles:
        return "snapshot" if "snapshot" in roles else "origin of a snapshot"
    return row["lv_layout"]


# --- md -------------------------------------------------------------------------------------------------------------


def read_array(name: str, member: str, members: Sequence[str], known: tuple[FileSystem | None, int]) -> Array:
    """An array that runs; ``member`` is the kernel name of one of its devices."""
    detail = run(["mdadm", "--detail", "--export", f"/dev/{name}"], timeout_s=60).stdout
    examined = run(["mdadm", "--examine", f"/dev/{member}"], timeout_s=60).stdout
    return array_of(detail, examined, name, members, known)


def array_of(
    detail: str, examined: str, name: str, members: Sequence[str], known: tuple[FileSystem | None, int]
) -> Array:
    values = dict(line.partition("=")[::2] for line in detail.splitlines())
    told = {key.strip(): value.strip() for key, _, value in (line.partition(" : ") for line in examined.splitlines())}
    offset = re.match(r"(\d+) sectors", told.get("Data Offset", ""))
    chunk = re.match(r"(\d+)([KM])", told.get("Chunk Size", ""))
    return Array(
        uuid=values["MD_UUID"],
        members=tuple(sorted(members)),
        level=values.get("MD_LEVEL", ""),
        name=values.get("MD_NAME", ""),
        node=name,
        devices=int(values.get("MD_DEVICES", "0")),
        metadata=values.get("MD_METADATA", "1.2"),
        chunk_bytes=int(chunk[1]) * {"K": 1 << 10, "M": 1 << 20}[chunk[2]] if chunk else 0,
        layout=told.get("Layout", ""),
        offset_bytes=int(offset[1]) * SECTOR if offset else 0,
        bitmap="Internal Bitmap" in told,
        size_bytes=known[1],
        holds=known[0],
    )


# --- LUKS -----------------------------------------------------------------------------------------------------------


def read_luks(node: str, on: str, mapped: str, known: tuple[FileSystem | None, int]) -> Luks:
    """A LUKS header, and what its opened device holds."""
    return luks_of(*read_header(node), on, mapped, known)


def read_header(node: str) -> tuple[str, str]:
    """(what luksDump prints, the metadata of a LUKS2 header as JSON or "")."""
    text = run(["cryptsetup", "luksDump", f"/dev/{node}"], timeout_s=60).stdout
    if re.search(r"^Version:\s+2$", text, re.MULTILINE):
        return text, run(["cryptsetup", "luksDump", "--dump-json-metadata", f"/dev/{node}"], timeout_s=60).stdout
    return text, ""


def luks_of(text: str, metadata: str, on: str, mapped: str, known: tuple[FileSystem | None, int]) -> Luks:
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    if not metadata:
        return Luks(
            uuid=values["UUID"],
            on=on,
            version=1,
            name=mapped,
            cipher=f"{values['Cipher name']}-{values['Cipher mode']}",
            key_bytes=int(values["MK bits"]) // 8,
            offset_bytes=int(values["Payload offset"]) * SECTOR,
            size_bytes=known[1],
            kdf="pbkdf2",
            passphrases=len(re.findall(r"^Key Slot \d+: ENABLED", text, re.MULTILINE)),
            holds=known[0],
        )
    header = json.loads(metadata)
    segment = header["segments"]["0"]
    slots = {name: slot for name, slot in header["keyslots"].items() if "kdf" in slot}
    tokens = header["tokens"].values()
    bound = {slot for token in tokens if token["type"] not in TYPED_TOKENS for slot in token["keyslots"]}
    free = [slot for name, slot in slots.items() if name not in bound]
    label = values.get("Label", "")
    return Luks(
        uuid=values["UUID"],
        on=on,
        version=2,
        label="" if label == "(no label)" else label,
        name=mapped,
        cipher=segment["encryption"],
        key_bytes=int(next(iter(slots.values()))["key_size"]) if slots else 0,
        sector_bytes=int(segment["sector_size"]),
        offset_bytes=int(segment["offset"]),
        size_bytes=known[1],
        kdf=free[0]["kdf"]["type"] if free else "",
        passphrases=len(free),
        tokens=tuple(sorted({str(token["type"]) for token in tokens})),
        holds=known[0],
    )
