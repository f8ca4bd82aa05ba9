"""Words of the kernel command line that name what the initramfs opens: arrays, encrypted devices, volume groups.

dracut opens what they name and nothing else, and waits for each of them: one whose device is gone ends in its emergency
shell (parse-md.sh, parse-lvm.sh and parse-crypt.sh of its modules; systemd-cryptsetup-generator reads luks.uuid too).
A host-only initramfs holds such words itself, in /etc/cmdline.d; SUSE has them nowhere else, and one that is built for
any machine is without.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from agent.model.difference import Item, Op, Tier
from agent.model.plan import MakeArray, MakeLuks, MakeVolumeGroup, StackStep
from agent.model.references import all_command_line_words, resume_devices
from agent.model.situation import Situation
from agent.model.stack import all_below, on_disks, place_named, storeys
from agent.model.stack_layout import boot_places
from agent.model.storage import FileSystem
from agent.model.tree import SAFE

# What holds a key for another device (keysource:) is not waited for, and may be a stick.
_NAMES = re.compile(r"(?:rd\.md\.uuid|(?:rd\.)?luks\.uuid|(?:rd\.)?luks\.name|rd\.lvm\.(?:lv|vg))=(?!keysource:).+")
_KEYS = {"array": "rd.md.", "luks": "rd.luks.", "lv": "rd.lvm."}  # by kind of place
# What comes block by block may hold what nobody has read the name of: words of these kinds stay.
_UNREAD = {
    "LVM2_member": ("rd.lvm.",),
    "crypto_LUKS": ("rd.lvm.",),
    "linux_raid_member": ("rd.lvm.", "rd.luks.", "luks."),
}
_MEMBERS = {"linux_raid_member": "array", "crypto_LUKS": "luks"}


def opened_items(situation: Situation) -> Iterator[Item]:
    for word in stale_words(situation):
        yield Item(
            id="", op=Op.REMOVE, kind="cmdline", key=word, tier=Tier.MUST, source=word,
            reason=f"‘{word}’ on the kernel command line names what this machine will not have: the initramfs would "
            "wait for it, and give up",
        )  # fmt: skip
    for word in missing_words(situation):
        yield Item(
            id="", op=Op.ADD, kind="cmdline", key=word, tier=Tier.MUST, target=word,
            reason=f"‘{word}’ is not on the kernel command line: an initramfs for any machine opens nothing without it",
        )  # fmt: skip


def stale_words(situation: Situation) -> tuple[str, ...]:
    """Words whose device is neither made nor there already."""
    here = {*made_places(situation.stack), *_kept_places(situation)}
    unread = tuple(key for volume in situation.manifest.blocks for key in _UNREAD.get(volume.filesystem.kind, ()))
    return tuple(
        word
        for word in all_command_line_words(situation.tree)
        if SAFE.fullmatch(word) and _NAMES.fullmatch(word) and not word.startswith(unread)
        if not any(names(word, place) for place in here)
    )


def missing_words(situation: Situation) -> tuple[str, ...]:
    """Words without which dracut does not open what the root, /usr and the place to resume from stand on."""
    if situation.source.os.initrd_tool != "dracut":
        return ()
    stack, words = situation.manifest.stack, all_command_line_words(situation.tree)
    resumed = (place_named(stack, device) for device in resume_devices(situation.tree))
    needed = boot_places(situation.manifest).union(*(all_below(stack, place) for place in resumed if place))
    places = (place for place in made_places(situation.stack) if place in needed)
    return tuple(dict.fromkeys(_word(place) for place in places if not _is_opened(place, words)))


def _is_opened(place: str, words: tuple[str, ...]) -> bool:
    """Whether dracut opens it; with rd.auto it opens all of a kind that no word names."""
    alike = [word for word in words if word.startswith(_KEYS[place.partition(":")[0]]) and _NAMES.fullmatch(word)]
    by_itself = "rd.auto" in words or "rd.auto=1" in words
    return any(names(word, place) for word in words) or (by_itself and not alike)


def _word(place: str) -> str:
    """Of LVM the group: a volume's word would leave those closed that no word names, swap to resume from among them."""
    kind, _, name = place.partition(":")
    return f"rd.lvm.vg={name.partition('/')[0]}" if kind == "lv" else f"{_KEYS[kind]}uuid={name}"


def names(word: str, place: str) -> bool:
    """Whether a word of the command line means the device at a place of a stack."""
    key, _, value = word.partition("=")
    kind, _, name = place.partition(":")
    match key.removeprefix("rd."):
        case "md.uuid":
            return kind == "array" and _digits(value) == _digits(name)
        case "luks.uuid" | "luks.name":
            # dracut takes a part of the UUID, too, and the name that it gives to the mapping.
            said = _digits(value.partition("=")[0].removeprefix("luks-"))
            return kind == "luks" and bool(said) and said in _digits(name)
        case "lvm.vg":
            return kind == "lv" and name.partition("/")[0] == value
        case "lvm.lv":
            return kind == "lv" and name == value
    return False


def _digits(uuid: str) -> str:
    """mdadm, blkid and people group them differently."""
    return "".join(filter(str.isalnum, uuid)).lower()


def made_places(steps: Iterable[StackStep]) -> Iterator[str]:
    """The places of the stack that the steps make."""
    for step in steps:
        match step:
            case MakeLuks(luks=luks):
                yield f"luks:{luks.uuid}"
            case MakeArray(array=array):
                yield f"array:{array.uuid}"
            case MakeVolumeGroup(group=group):
                yield from (f"lv:{group.name}/{volume.name}" for volume in group.logical)


def _kept_places(situation: Situation) -> Iterator[str]:
    """What comes block by block, and what lies on disks that stay as they are."""
    written = {situation.disk.name, *(disk.name for disk in situation.also)}
    others = [disk for disk in situation.target.disks if disk.name not in written]
    stack = on_disks(situation.target.stack, (disk.name for disk in others))
    yield from (place for place, _, _ in storeys(stack))
    held: list[FileSystem | None] = [volume.filesystem for volume in situation.manifest.blocks]
    held += [each for disk in others for each in (disk.holds, *(part.holds for part in disk.partitions))]
    yield from (f"{_MEMBERS[each.kind]}:{each.uuid}" for each in held if each is not None and each.kind in _MEMBERS)
