"""A partition table as sfdisk reads and prints it. Sizes in sectors of the disk, as everywhere in its words."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from agent.model.plan import PlannedPartition, WriteTable

_GPT_ENTRIES_BYTES = 16384


def script(step: WriteTable, sector_bytes: int) -> str:
    """The whole table as input of sfdisk."""
    gpt = step.table == "gpt"
    lines = [f"label: {'gpt' if gpt else 'dos'}", f"label-id: {step.table_id}", "unit: sectors"]
    if gpt:
        lines.append(f"first-lba: {2 + _GPT_ENTRIES_BYTES // sector_bytes}")
    for part in in_order(step.partitions):
        fields = [f"start={part.start_bytes // sector_bytes}", f"size={part.size_bytes // sector_bytes}"]
        fields.append(f"type={part.type.removeprefix('0x')}")
        if gpt:
            fields.append(f"uuid={part.part_uuid}")
            if is_plain(part.part_label):
                fields.append(f'name="{part.part_label}"')
            if part.flags:
                fields.append(f'attrs="{" ".join(part.flags)}"')
        elif "boot" in part.flags:
            fields.append("bootable")
        lines.append(f"{part.number} : {', '.join(fields)}")
    return "\n".join(lines) + "\n"


def in_order(partitions: Iterable[PlannedPartition]) -> list[PlannedPartition]:
    """The order in which they can be made: an extended partition before the logical ones inside it."""
    return sorted(partitions, key=lambda part: (part.purpose != "extended", part.start_bytes))


def is_plain(label: str) -> bool:
    """Whether a script can quote the label; others are set one by one."""
    return bool(label) and label.isascii() and label.isprintable() and not set(label) & set('"\\')


def differences(printed: str, node: str, step: WriteTable, sector_bytes: int) -> list[str]:
    """Where a table, as ``sfdisk --json`` printed it, is not the planned one; empty when it is."""
    if not printed.strip():
        return ["there is no partition table"]
    found = msgspec.json.decode(printed.encode(), type=_Printed).partitiontable
    wrong = []
    if (found.label, found.id.lower()) != ("gpt" if step.table == "gpt" else "dos", step.table_id.lower()):
        wrong.append(f"table is {found.label} {found.id}, expected {step.table} {step.table_id}")
    have = {part.number(node): part for part in found.partitions}
    planned = {part.number: part for part in step.partitions}
    if set(have) != set(planned):
        wrong.append(f"partitions are {sorted(have)}, expected {sorted(planned)}")
    for number in sorted(set(have) & set(planned)):
        expected = _expected(planned[number], step.table, sector_bytes)
        read = have[number].facts(step.table)
        wrong += [
            f"partition {number}: {key} is {read[key]}, expected {value}"
            for key, value in expected.items()
            if value != read[key]
        ]
    return wrong


class _PrintedPartition(msgspec.Struct, frozen=True):
    node: str
    start: int
    size: int
    type: str
    uuid: str = ""
    name: str = ""
    attrs: str = ""
    bootable: bool = False

    def number(self, disk: str) -> int:
        return int(self.node.removeprefix(disk).removeprefix("p"))

    def facts(self, table: str) -> dict[str, object]:
        place: dict[str, object] = {"start": self.start, "size": self.size}
        if table == "gpt":
            named = {"type": self.type.lower(), "uuid": self.uuid.lower(), "name": self.name}
            return place | named | {"attributes": _attributes(self.attrs)}
        return place | {"type": int(self.type, 16), "bootable": self.bootable}


class _PrintedTable(msgspec.Struct, frozen=True):
    label: str
    id: str = ""
    partitions: tuple[_PrintedPartition, ...] = ()


class _Printed(msgspec.Struct, frozen=True):
    partitiontable: _PrintedTable


def _expected(part: PlannedPartition, table: str, sector_bytes: int) -> dict[str, object]:
    place: dict[str, object] = {
        "start": part.start_bytes // sector_bytes,
        "size": part.size_bytes // sector_bytes,
    }
    if table == "gpt":
        named = {"type": part.type.lower(), "uuid": part.part_uuid.lower(), "name": part.part_label}
        return place | named | {"attributes": _attributes(" ".join(part.flags))}
    return place | {"type": int(part.type, 16), "bootable": "boot" in part.flags}


def _attributes(text: str) -> frozenset[str]:
    """``RequiredPartition GUID:60,63`` as single attributes."""
    return frozenset(word.removeprefix("GUID:") for word in text.replace(",", " ").split())
