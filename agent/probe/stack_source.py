"""What a capture does about the stack: names from crypttab, and what does not travel."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from agent.errors import RefusedError
from agent.image.capture import CaptureSource
from agent.model.crypttab import CRYPTTAB, crypt_entries
from agent.model.image import Excluded
from agent.model.stack import device_names, group_on, luks_on, place_named, storeys, why_not
from agent.model.storage import Disk, Luks, Stack
from agent.model.tree import Tree, read_text


def crypttab_names(stack: Stack, disk: Disk, tree: Tree) -> Stack:
    """The stack with its mappings called as the system calls them, not as they were called to be read."""
    lines = crypt_entries(read_text(tree, CRYPTTAB))

    def named(luks: Luks) -> Luks:
        found = [line for line in lines if not line.overwrites and _means(line.device, luks, stack, disk)]
        # One that says the UUID before one of which only the partition's number fits.
        surest = sorted(found, key=lambda line: luks.uuid.lower() not in line.device.lower())
        return replace(luks, name=surest[0].name if surest else luks.name)

    # mdadm makes md0 of the superblock's name host:0; to be read, the array had the next free number.
    shorts = [(array, array.name.rpartition(":")[2]) for array in stack.arrays]
    arrays = tuple(replace(array, node=f"md{short}") if short.isdigit() else array for array, short in shorts)
    return replace(stack, luks=tuple(named(luks) for luks in stack.luks), arrays=arrays)


def _means(device: str, luks: Luks, stack: Stack, disk: Disk) -> bool:
    """Whether crypttab's ``device`` is where this header lies."""
    _, equals, value = device.partition("=")
    value = (value if equals else device.removeprefix("/dev/disk/by-uuid/")).strip("\"'").lower()
    if value == luks.uuid.lower():
        return True
    part = next((part for part in disk.partitions if luks.on == f"{disk.name}:{part.number}"), None)
    if part and value and value.removeprefix("/dev/disk/by-partuuid/") == part.part_uuid:
        return True
    if device in device_names(stack, luks.on) or (luks.on and place_named(stack, device) == luks.on):
        return True
    link = re.fullmatch(r"/dev/disk/by-(?:id|path)/(.+)-part(\d+)", device)
    if link and part and (link[1] == disk.by_path or (disk.serial and disk.serial in link[1])):
        return int(link[2]) == part.number
    # Kernel names change with the machine; of them only the partition's number is left.
    number = re.fullmatch(r"/dev/(?:[shv]d[a-z]|xvd[a-z]|(?:nvme\d+n|mmcblk)\d+p)(\d+)", device)
    return number is not None and part is not None and int(number[1]) == part.number


def refuse_unmade(source: CaptureSource) -> None:
    """What no restore could make anew is refused now, not on the day of the fire."""
    for volume in source.volumes:
        reason = why_not(source.stack, volume.device) if volume.device else ""
        if reason:
            raise RefusedError(
                f"{volume.filesystem.mountpoint or volume.id}: {reason}",
                "capture the tree with ‘regraft capture --root DIR’",
            )


def left_out_of_stack(source: CaptureSource) -> Iterator[Excluded]:
    """What lies in the stack and was not captured: it is made anew, empty."""
    taken = {volume.device for volume in source.volumes}
    for place, held, _ in storeys(source.stack):
        if place in taken or (held is not None and held.kind == "swap"):
            continue
        if luks_on(source.stack, place) or group_on(source.stack, place) or (held is not None and _member(held.kind)):
            continue
        yield Excluded(
            next(iter(device_names(source.stack, place)), place),
            f"{held.kind if held else 'nothing known'} that the system does not mount: it is made anew, empty",
        )


def _member(kind: str) -> bool:
    return kind in ("LVM2_member", "crypto_LUKS", "linux_raid_member")
