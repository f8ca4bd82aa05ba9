"""Settings that name disks, chips, ports or the screen of the old machine."""

from __future__ import annotations

import re
from collections.abc import Iterator

from agent.model.bound_software import virt
from agent.model.clashes import uuids_on
from agent.model.difference import Item, Op, Tier
from agent.model.plan import MakeArray
from agent.model.profile import Profile, Role, Status
from agent.model.situation import Situation
from agent.model.tree import plain_names, read_text

SMARTD = ("/etc/smartd.conf", "/etc/smartmontools/smartd.conf")
CHRONY = ("/etc/chrony.conf", "/etc/chrony/chrony.conf")
XORG, XORG_FOLDER = "/etc/X11/xorg.conf", "/etc/X11/xorg.conf.d"
LVM = "/etc/lvm/lvm.conf"
# A list of patterns, which may go over several lines and hold comments; the recipe comments out what this matches.
_LVM_FILTER = re.compile(
    r"""^[ \t]*((?:global_)?filter)[ \t]*=\s*\[((?:[^"'\[\]#]|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|#[^\n]*\n)*)\]"""
    r"[ \t]*(?:#[^\n]*)?$",
    re.MULTILINE,
)
_LVM_PATTERN = re.compile(r"""#[^\n]*|"((?:[^"\\\n]|\\.)*)"|'([^'\n]*)'""")
_ANY_NAME = re.compile(r"\^?/?(?:dev)?/?(?:\.[*+]?/?\$?)?")  # .*  .  .*/  /  ^/dev/.*
MULTIPATH = ("/etc/multipath/bindings", "/etc/multipath/wwids", "/etc/multipath/prkeys")
MDADM = ("/etc/mdadm/mdadm.conf", "/etc/mdadm.conf")
ADJTIME = "/etc/adjtime"
SYSCTL_FOLDER = "/etc/sysctl.d"
# Drivers of X that are made for one kind of card; fbdev, vesa and modesetting work with any.
X_DRIVERS = re.compile(
    r"^[ \t]*Driver[ \t]+\"(nvidia|nv|nouveau|fglrx|radeon|ati|amdgpu|intel|i810|vmware|vboxvideo|cirrus|qxl|mga|ast|"
    r"matrox|openchrome|via|savage|sis|trident|xgi)\"",
    re.MULTILINE | re.IGNORECASE,
)
BARE, GUEST = "throughput-performance", "virtual-guest"


def settings_items(situation: Situation) -> Iterator[Item]:
    yield from disk_settings(situation)
    yield from array_items(situation)
    yield from display_settings(situation)
    yield from tuned_items(situation)
    yield from port_items(situation)
    yield from clock_items(situation)
    yield from memory_items(situation)
    yield from guard_items(situation)


def disk_settings(situation: Situation) -> Iterator[Item]:
    """The disk is always another one: even on the same machine it is written anew."""
    tree = situation.tree
    for path in SMARTD:
        if re.search(r"^[ \t]*/dev/", read_text(tree, path), re.MULTILINE):
            yield _item(Op.CHANGE, "smartd", path, f"{path} watches disks by the names of the old machine")
    if re.search(r"^[ \t]*/dev/[^\n{]*\{", read_text(tree, "/etc/hdparm.conf"), re.MULTILINE):
        yield _item(Op.REMOVE, "hdparm", "/etc/hdparm.conf", "/etc/hdparm.conf sets disks of the old machine by name")
    for path in MULTIPATH:
        if re.search(r"^[^#\s]", read_text(tree, path), re.MULTILINE):
            yield _item(Op.REMOVE, "multipath", path, f"{path} names disks of the old machine by their WWIDs")
    for name, patterns in _LVM_FILTER.findall(read_text(tree, LVM)):
        if _hides_other_disks(patterns):
            reason = f"{name} in {LVM} lets only disks of the old machine be seen"
            yield _item(Op.CHANGE, "lvm-filter", LVM, reason, name)


def _hides_other_disks(patterns: str) -> bool:
    """Some names accepted, all others rejected. One that only rejects keeps a host off its guests' disks: it stays."""
    entries = [(double or single).replace("\\", "") for double, single in _LVM_PATTERN.findall(patterns)]
    accepts = any(entry.startswith("a") and "/dev/" in entry for entry in entries)
    return accepts and any(entry.startswith("r") and _ANY_NAME.fullmatch(entry[2:-1]) for entry in entries)


def array_items(situation: Situation) -> Iterator[Item]:
    """Lines of arrays that become what lies on them, or stay behind: mdadm would report them as lost."""
    made = {step.array.uuid for step in situation.stack if isinstance(step, MakeArray)}
    written = {situation.disk.name, *(disk.name for disk in situation.also)}
    disks = (disk for disk in situation.target.disks if disk.name not in written)
    here = {_digits(uuid) for uuid in (*made, *(uuid for disk in disks for uuid in uuids_on(disk)))}
    for path in MDADM:
        lines = re.findall(r"^ARRAY\b[^\n]*\bUUID=([0-9a-f:]+)", read_text(situation.tree, path), re.M | re.I)
        for uuid in dict.fromkeys(lines):
            if _digits(uuid) not in here:
                yield _item(
                    Op.REMOVE, "array", path, f"{path} names array {uuid}, which this machine will not have", uuid
                )


def _digits(uuid: str) -> str:
    """mdadm and blkid group them differently."""
    return "".join(filter(str.isalnum, uuid)).lower()


def display_settings(situation: Situation) -> Iterator[Item]:
    tree, source, target = situation.tree, situation.source, situation.target
    known = source.status("devices") is Status.COMPLETE and target.status("devices") is Status.COMPLETE
    if not known or displays(source) == displays(target):
        return
    names = [name for name in plain_names(tree, XORG_FOLDER) if name.endswith(".conf")]
    for path in (XORG, *(f"{XORG_FOLDER}/{name}" for name in names)):
        text = read_text(tree, path)
        for driver in dict.fromkeys(X_DRIVERS.findall(text)):
            reason = f"{path} asks for the driver {driver} of a card that stays behind"
            yield _item(Op.CHANGE, "x-driver", path, reason, driver, "modesetting")
        if re.search(r"^[ \t]*BusID[ \t]", text, re.MULTILINE | re.IGNORECASE):
            yield _item(Op.REMOVE, "x-place", path, f"{path} names the card by its place in the old machine", "BusID")


def displays(profile: Profile) -> set[str]:
    return {device.key.partition("#")[0] for device in profile.devices if device.role is Role.DISPLAY}


def tuned_items(situation: Situation) -> Iterator[Item]:
    profile = read_text(situation.tree, "/etc/tuned/active_profile").strip()
    guest = virt(situation.target) != "none"
    wrong = profile in (BARE, "balanced") if guest else profile == GUEST
    changed = guest != (virt(situation.source) != "none")
    if wrong and changed:
        better = GUEST if guest else BARE
        reason = f"tuned's profile {profile} is for {'physical machines' if guest else 'guests'}"
        yield _item(Op.CHANGE, "tuned", "/etc/tuned/active_profile", reason, profile, better)


def port_items(situation: Situation) -> Iterator[Item]:
    """Terminals on ports that are gone hold the boot up for 90 seconds; clocks that are gone stop chrony."""
    tree, source, target = situation.tree, situation.source, situation.target
    ports = sum(device.modalias.startswith("acpi:PNP0501") for device in target.devices)
    looked = target.status("devices") is Status.COMPLETE and any(d.bus == "acpi" for d in target.devices)
    for unit in source.units:
        found = re.fullmatch(r"serial-getty@(ttyS|hvc|xvc)(\d+)\.service", unit.name)
        if not found or unit.state != "enabled":
            continue
        virtual = virt(target) == "xen" or any(d.modalias.startswith("virtio:d00000003") for d in target.devices)
        gone = looked and int(found[2]) >= ports if found[1] == "ttyS" else looked and not virtual
        if gone:
            reason = f"{unit.name} waits for a port that this machine does not have"
            yield _item(Op.REMOVE, "serial-getty", unit.name, reason, found[1] + found[2])
    if virt(source) == virt(target):
        return
    for path in CHRONY:
        for device in dict.fromkeys(
            re.findall(r"^[ \t]*refclock[ \t]+PHC[ \t]+([\w/.:-]+)", read_text(tree, path), re.M)
        ):
            reason = (
                f"{path} takes the time from {device}, a clock of the old machine; without it chrony does not start"
            )
            yield _item(Op.REMOVE, "refclock", path, reason, device)


def clock_items(situation: Situation) -> Iterator[Item]:
    text = read_text(situation.tree, ADJTIME)
    if not text:
        return
    if not re.match(r"0\.0+ 0 0\.0+\s", text):
        yield _item(Op.CHANGE, "clock", ADJTIME, f"{ADJTIME} holds the drift of the old machine's clock")
    if text.splitlines()[2:3] == ["LOCAL"]:
        reason = "the hardware clock is read as local time, as the image has it: see ‘timedatectl’ if the time is wrong"
        item = _item(Op.MAP, "clock", "local-time", reason)
        yield Item(id="", op=item.op, kind=item.kind, key=item.key, tier=Tier.LATER, reason=reason,
                   handled_by=("preserved",))  # fmt: skip


def memory_items(situation: Situation) -> Iterator[Item]:
    tree, memory = situation.tree, situation.target.platform.memory_bytes
    for path in ("/etc/sysctl.conf", *(f"{SYSCTL_FOLDER}/{name}" for name in plain_names(tree, SYSCTL_FOLDER))):
        for count in re.findall(r"^[ \t]*vm\.nr_hugepages[ \t]*=[ \t]*(\d+)", read_text(tree, path), re.MULTILINE):
            taken = int(count) * (2 << 20)
            if memory and taken > memory // 2:
                reason = f"{path} takes {taken >> 20} MiB of this machine's {memory >> 20} MiB for huge pages"
                yield _item(Op.REMOVE, "huge-pages", path, reason, count)


def guard_items(situation: Situation) -> Iterator[Item]:
    """Said, not changed: what guards a system is for its owner to open."""
    source, target = situation.source, situation.target
    enabled = {unit.name for unit in source.units if unit.state == "enabled"}
    before = {device.key for device in source.devices}
    new = [device for device in target.devices if device.bus == "usb" and device.key not in before]
    if "usbguard.service" in enabled and new:
        names = ", ".join(device.label or device.modalias for device in new[:4])
        reason = f"USBGuard will block {names}: allow them by ‘usbguard generate-policy’ from the console or by ssh"
        yield _item(Op.CHANGE, "guard", "usbguard", reason)
    if any(situation.tree.exists(path) for path in ("/var/lib/aide/aide.db", "/var/lib/aide/aide.db.gz")):
        reason = "AIDE will report what was adapted; the restore's report lists it: make its base anew after checking"
        item = _item(Op.CHANGE, "guard", "aide", reason)
        yield Item(id="", op=item.op, kind=item.kind, key=item.key, tier=Tier.LATER, reason=reason)


def _item(  # noqa: PLR0913 - an item's own fields
    op: Op, kind: str, key: str, reason: str, source: str = "", target: str = ""
) -> Item:
    return Item(id="", op=op, kind=kind, key=key, tier=Tier.SHOULD, reason=reason, source=source, target=target)
