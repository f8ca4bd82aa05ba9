"""What files of the image say about disks, against the disk that is planned."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model.crypttab import CRYPTTAB, crypt_entries, lost_keys, lost_sentence
from agent.model.difference import Item, Op, Tier
from agent.model.plan import MakeLuks
from agent.model.references import MountLine, Planned, mount_lines, resume_devices
from agent.model.situation import Situation
from agent.model.storage import Disk
from agent.model.tree import read_text
from agent.model.wanted import holding_disks
from agent.model.wording import printable, size_text

# Without these the system does not start, so that "go on without it" is no answer.
ESSENTIAL = ("/", "/usr", "/boot", "/var", "/etc")
LAYOUT, PRESERVED = ("layout",), ("preserved",)


def storage_items(situation: Situation) -> Iterator[Item]:
    planned = Planned.of(situation)
    yield from disk_items(situation)
    lines = mount_lines(read_text(situation.tree, "/etc/fstab"))
    for line in lines:
        yield from _swap_items(line, planned, lines, situation) if line.kind == "swap" else _mount_items(line, planned)
    yield from new_esp_items(situation, lines)
    yield from resume_items(situation, planned)
    yield from crypt_items(situation, planned, lines)
    yield from key_items(situation)


def disk_items(situation: Situation) -> Iterator[Item]:
    """Which disk receives which, and whether its sectors suit what was captured."""
    names = holding_disks(situation.manifest)
    disks = [disk for disk in situation.manifest.disks if disk.name in names]
    for source in disks:
        target = situation.receives.get(source.name, situation.disk)
        yield Item(
            id="", op=Op.MAP, kind="disk", key=source.name, tier=Tier.MUST, handled_by=LAYOUT,
            source=_described(source), target=_described(target),
            reason="the image's disk is written here; partition and file system identities are kept",
        )  # fmt: skip
        if source.logical_sector_bytes != target.logical_sector_bytes:
            yield _sector_item(source, target, situation)


def _described(disk: Disk) -> str:
    return f"{disk.name} {disk.model} {size_text(disk.size_bytes)}".replace("  ", " ")


def _sector_item(source: Disk, target: Disk, situation: Situation) -> Item:
    """Trees are made anew in file systems of the right block size; blocks cannot change their sectors."""
    blocks = [v.id for v in situation.manifest.volumes if v.kind == "blocks" and v.disk == source.name]
    reason = "partition table and file systems are made anew for the disk's sectors"
    if blocks:
        reason = (
            f"volume {', '.join(blocks)} was captured as blocks and needs {source.logical_sector_bytes}-byte sectors"
        )
    return Item(
        id="", op=Op.BLOCK if blocks else Op.CHANGE, kind="sector-size", key=source.name, tier=Tier.MUST,
        source=f"{source.logical_sector_bytes} bytes", target=f"{target.logical_sector_bytes} bytes", reason=reason,
        handled_by=() if blocks else LAYOUT,
    )  # fmt: skip


def _swap_items(
    line: MountLine, planned: Planned, lines: tuple[MountLine, ...], situation: Situation
) -> Iterator[Item]:
    if line.device.startswith("/") and not line.device.startswith("/dev/"):
        if not situation.tree.exists(line.device):
            yield _swap(Op.REMOVE, line, "", f"swap file {line.device} is not in the image")
    elif line.on_disk and not planned.has(line.device):
        new = planned.replacement(line.device) or _only_swap(line, planned, lines)
        reason = f"{line.device} is called {new} here" if new else f"no swap {line.device} is planned for this disk"
        yield _swap(Op.CHANGE if new else Op.REMOVE, line, new, reason)


def _only_swap(line: MountLine, planned: Planned, lines: tuple[MountLine, ...]) -> str:
    """The one swap there is, for the first line that cannot name another: two lines of one swap fail."""
    devices = [each.device for each in lines if each.kind == "swap" and each.on_disk]
    taken = any(planned.has(device) or planned.replacement(device) == planned.only_swap for device in devices)
    return planned.only_swap if devices[0] == line.device and not taken else ""


def _mount_items(line: MountLine, planned: Planned) -> Iterator[Item]:
    if not line.on_disk or planned.has(line.device):
        return
    new = planned.replacement(line.device, line.mountpoint)
    if new:
        reason = f"{line.device} depends on the old machine's disks; its file system is {new}"
        yield _mount(Op.CHANGE, line, new, reason)
    elif line.optional:
        yield _mount(Op.REMOVE, line, "", "its device is not on this machine; the boot does not wait for it", PRESERVED)
    elif line.mountpoint in ESSENTIAL:
        yield _mount(Op.BLOCK, line, "", f"{line.mountpoint} lies on {line.device}, which the image does not bring")
    else:
        yield _mount(Op.REMOVE, line, "", f"{line.device} is not on this machine; the boot would wait for it and stop")


def _mount(op: Op, line: MountLine, new: str, reason: str, handled: tuple[str, ...] = ()) -> Item:
    return Item(
        id="", op=op if not handled else Op.CHANGE, kind="mount" if not handled else "optional-mount",
        key=line.mountpoint, tier=Tier.LATER if handled else Tier.MUST, source=line.device, target=new, reason=reason,
        evidence=(("hw-config", f"/etc/fstab: {line.device} {line.mountpoint} {line.kind}"),), handled_by=handled,
    )  # fmt: skip


def _swap(op: Op, line: MountLine, new: str, reason: str) -> Item:
    return Item(
        id="", op=op, kind="swap", key=line.device, tier=Tier.MUST, source=line.device, target=new, reason=reason,
        evidence=(("hw-config", f"/etc/fstab: {line.device} swap"),),
    )  # fmt: skip


def new_esp_items(situation: Situation, lines: tuple[MountLine, ...]) -> Iterator[Item]:
    """An EFI system partition that the layout adds needs its line in fstab, or the loader is never updated."""
    have = {line.mountpoint for line in lines}
    for fs in situation.filesystems.values():
        if fs.kind == "vfat" and fs.mountpoint and fs.mountpoint not in have and situation.tree.exists("/etc/fstab"):
            yield Item(
                id="", op=Op.ADD, kind="mount", key=fs.mountpoint, tier=Tier.MUST, target=f"UUID={fs.uuid}",
                reason="the EFI system partition that this firmware needs is mounted, so that updates reach it",
            )  # fmt: skip


def resume_items(situation: Situation, planned: Planned) -> Iterator[Item]:
    for device in resume_devices(situation.tree):
        if not planned.has(device):
            yield Item(
                id="", op=Op.REMOVE, kind="resume", key=device, tier=Tier.MUST, source=device,
                reason=f"the system would wait for {device} to resume from, which this disk will not have",
            )  # fmt: skip


def crypt_items(situation: Situation, planned: Planned, lines: tuple[MountLine, ...]) -> Iterator[Item]:
    """Devices of crypttab that are called otherwise here; of those not written, what is needed to start blocks."""
    needed = {line.device for line in lines if line.mountpoint in ESSENTIAL}
    # The capture named the mapping by the line that means it, so that the name tells the line again.
    made = {step.luks.name: f"UUID={step.luks.uuid}" for step in situation.stack if isinstance(step, MakeLuks)}
    blocks = (volume.filesystem for volume in situation.manifest.blocks)
    encrypted = {*made.values(), *(f"UUID={fs.uuid}" for fs in blocks if fs.kind == "crypto_LUKS")}
    for line in crypt_entries(read_text(situation.tree, CRYPTTAB)):
        name, device = line.name, line.device
        if planned.has(device) or not (device.startswith("/dev/") or "=" in device):
            continue
        found = planned.replacement(device)
        # A line that overwrites its device would not name here what it overwrote there.
        new = "" if line.overwrites else made.get(name) or (found if found in encrypted else "")
        if new:
            op, reason = Op.CHANGE, f"encrypted device {name} lies on {device}, which is called {new} here"
        else:
            op = Op.BLOCK if f"/dev/mapper/{name}" in needed else Op.REMOVE
            reason = f"encrypted device {name} needs {device}, which this disk will not have"
        yield Item(
            id="", op=op, kind="crypt", key=name, tier=Tier.MUST, source=device, target=new, reason=reason,
            evidence=(("hw-config", f"{CRYPTTAB}: {name} {device}"),),
        )  # fmt: skip


def key_items(situation: Situation) -> Iterator[Item]:
    """Encrypted devices that are made anew, and what opened them and does not any more."""
    for line, lost in lost_keys(situation.stack, situation.tree):
        written = " ".join((line.name, line.device, line.key, ",".join(line.options))).strip()
        yield Item(
            id="", op=Op.CHANGE, kind="crypt-key", key=printable(line.name), tier=Tier.SHOULD, source=lost,
            target="what the restore is given", reason=lost_sentence(line, lost),
            evidence=(("hw-config", f"{CRYPTTAB}: {printable(written)}"),),
        )  # fmt: skip
