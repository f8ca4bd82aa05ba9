"""Lists, blacklists, options and out-of-tree builds of kernel modules that were made for the old machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from agent.model.bound_software import virt
from agent.model.compare_software import has_software
from agent.model.component_fit import unfit
from agent.model.difference import Item, Op, Tier
from agent.model.drivers import fold
from agent.model.edits import shell_values
from agent.model.kernel_choice import KernelChoice, judge
from agent.model.package_version import version_key
from agent.model.profile import Profile, Role, Status
from agent.model.situation import Situation
from agent.model.storage import ChainLink
from agent.model.tree import Tree, plain_names, read_text

LISTS = ("/etc/modules", "/etc/initramfs-tools/modules")
PACKAGES_FOLDERS = ("/usr/lib/modprobe.d", "/lib/modprobe.d")
LIST_FOLDER, OPTIONS_FOLDER, DKMS = "/etc/modules-load.d", "/etc/modprobe.d", "/var/lib/dkms"
SUSE_KERNEL = "/etc/sysconfig/kernel"
# Modules of one hypervisor's devices; virtio's are left alone: they load anywhere.
OF_HYPERVISOR = {
    "vmware": re.compile(r"vmw_\w+|vmxnet3?|vmhgfs|vmmemctl|vmci|pvscsi"),
    "oracle": re.compile(r"vbox\w+"),
    "microsoft": re.compile(r"hv_\w+|hyperv_\w+"),
    "xen": re.compile(r"xen_\w+|xenfs"),
    "parallels": re.compile(r"prl_\w+"),
}
OF_BOARD = re.compile(r"it87|nct6\d+|w83\w+|f71\w+|f75\w+|smsc47\w+|asus_atk0110|coretemp|k\d+temp|dell_smm_hwmon|i8k")
OUT_OF_TREE = re.compile(r"/(updates|extra|weak-updates)/")
SHIM_REVOKED_BEFORE = (15, 8)  # SBAT revocations of January 2024, shim,4: github.com/rhboot/shim SbatLevel_Variable.txt
_LINE = re.compile(r"^[ \t]*(blacklist|install|alias[ \t]+\S+|options)[ \t]+([\w-]+)(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Drivers:
    """Modules all of whose devices stayed behind, and those that the new machine needs."""

    gone: frozenset[str]
    here: frozenset[str]


def module_items(situation: Situation, choice: KernelChoice | None) -> Iterator[Item]:
    drivers = known_drivers(situation, choice)
    yield from list_items(situation, drivers)
    yield from modprobe_items(situation, drivers, choice)
    yield from built_items(situation, drivers)
    yield from secure_boot_items(situation, choice, drivers)


def known_drivers(situation: Situation, choice: KernelChoice | None) -> Drivers:
    """Where devices were not looked at, nothing counts as gone.

    Nor does a driver one of whose devices is here, whatever drives it now: the medium knows nothing of vfio-pci or of
    DPDK, which the old machine gave its card to.
    """
    source, target = situation.source, situation.target
    here = _bound(target) | _bound_chains(target)
    if choice:
        for device in target.devices:
            here |= set(choice.index.match(device.modalias)) if device.modalias else set()
    looked = source.status("devices") is Status.COMPLETE and target.status("devices") is Status.COMPLETE
    gone = (_bound(source) | _bound_chains(source)) - _bound_to(source, _devices(target)) - here if looked else set()
    return Drivers(frozenset(gone), frozenset(here))


def _devices(profile: Profile) -> set[str]:
    """What the same devices are called in another profile: keys without the count of equal ones, and modaliases."""
    keys = {device.key.partition("#")[0] for device in profile.devices}
    aliases = {device.modalias for device in profile.devices}
    return keys | aliases | {link.modalias for chain in _chains(profile) for link in chain}


def _bound_to(profile: Profile, devices: set[str]) -> set[str]:
    """Drivers that any of these devices has in the profile."""
    found = {fold(d.driver) for d in profile.devices if d.driver and d.key.partition("#")[0] in devices}
    links = [link for chain in _chains(profile) for link in chain]
    return found | {fold(link.driver) for link in links if link.driver and link.modalias in devices}


def _bound(profile: Profile) -> set[str]:
    return {fold(device.driver) for device in profile.devices if device.driver}


def _bound_chains(profile: Profile) -> set[str]:
    links = {fold(link.driver) for chain in _chains(profile) for link in chain if link.driver}
    return links | {fold(nic.driver) for nic in profile.network.nics if nic.driver}


def _chains(profile: Profile) -> list[tuple[ChainLink, ...]]:
    return [disk.chain for disk in profile.disks] + [nic.chain for nic in profile.network.nics]


def why_gone(module: str, situation: Situation, drivers: Drivers) -> str:
    """Why a module that a list names has nothing to drive; "" when it may have."""
    name = fold(module)
    if name in drivers.here:
        return ""
    if name in drivers.gone:
        return "drove a device that stays behind"
    for hypervisor, pattern in OF_HYPERVISOR.items():
        if pattern.fullmatch(name) and virt(situation.target) != hypervisor:
            return f"is for guests of {hypervisor}"
    source, target = situation.source.platform, situation.target.platform
    moved = (source.system_vendor, source.product_name) != (target.system_vendor, target.product_name)
    return "reads sensors of the old board" if moved and OF_BOARD.fullmatch(name) else ""


def list_items(situation: Situation, drivers: Drivers) -> Iterator[Item]:
    tree = situation.tree
    paths = [*LISTS, *(f"{LIST_FOLDER}/{name}" for name in plain_names(tree, LIST_FOLDER) if name.endswith(".conf"))]
    for path in paths:
        for module in re.findall(
            r"^[ \t]*([A-Za-z][\w-]*)[ \t]*(?:[ \t][^\n]*)?$", read_text(tree, path), re.MULTILINE
        ):
            why = why_gone(module, situation, drivers)
            if why:
                yield _item(Op.REMOVE, "module-list", path, f"{path} loads {module}, which {why}", source=module)
    words = [w for value in shell_values(read_text(tree, SUSE_KERNEL), "INITRD_MODULES")[-1:] for w in value.split()]
    for module in words:
        why = why_gone(module, situation, drivers)
        if why:
            reason = f"INITRD_MODULES names {module}, which {why}"
            yield _item(Op.REMOVE, "initrd-modules", SUSE_KERNEL, reason, source=module)


def modprobe_items(situation: Situation, drivers: Drivers, choice: KernelChoice | None) -> Iterator[Item]:
    """Blacklists of what is needed now, aliases of what is gone, options of the other maker's virtualisation."""
    tree = situation.tree
    needed, wanted = needed_modules(situation, choice, banned_modules(tree))
    for path in _modprobe_files(tree, OPTIONS_FOLDER):
        for verb, module, rest in _LINE.findall(read_text(tree, path)):
            if _forbids(verb, rest) and fold(module) in needed | wanted:
                reason = f"{path} forbids {module}, which drives a device of this machine"
                tier = Tier.MUST if fold(module) in needed else Tier.SHOULD
                yield _item(Op.CHANGE, "blacklist", path, reason, source=module, tier=tier)
            elif verb.startswith("alias") and fold(module) in drivers.gone:
                reason = f"{path} gives another name to {module}, which drove a device that stays behind"
                yield _item(Op.REMOVE, "module-alias", path, reason, source=module)
            elif verb == "options" and re.fullmatch(r"\s+nested=\w+\s*", rest):
                yield from _nested(situation, path, module)


def _modprobe_files(tree: Tree, folder: str) -> list[str]:
    return [f"{folder}/{name}" for name in plain_names(tree, folder) if name.endswith(".conf")]


def _forbids(verb: str, rest: str) -> bool:
    return verb == "blacklist" or (verb == "install" and bool(re.search(r"/(false|true)\b", rest)))


def banned_modules(tree: Tree) -> frozenset[str]:
    """Modules that do not load by themselves, whoever says so: the system's owner or a package."""
    paths = [path for folder in (OPTIONS_FOLDER, *PACKAGES_FOLDERS) for path in _modprobe_files(tree, folder)]
    lines = [line for path in paths for line in _LINE.findall(read_text(tree, path))]
    return frozenset(fold(module) for verb, module, rest in lines if _forbids(verb, rest))


def _nested(situation: Situation, path: str, module: str) -> Iterator[Item]:
    """Guests inside guests: the one option that both makers' modules have."""
    other = {"kvm_intel": ("AuthenticAMD", "kvm_amd"), "kvm_amd": ("GenuineIntel", "kvm_intel")}.get(fold(module))
    if other and situation.target.platform.cpu_vendor == other[0]:
        reason = f"{path} sets an option of {module}; on this processor {other[1]} has it"
        yield _item(Op.CHANGE, "module-options", path, reason, source=module, target=other[1])


def needed_modules(
    situation: Situation, choice: KernelChoice | None, banned: frozenset[str]
) -> tuple[set[str], set[str]]:
    """Modules of the way to the disk and of cards with addresses; modules of other devices that are new.

    Where a device has several and one of them may load, a ban chooses between them, as r8169 beside the maker's r8168:
    it stays. Not on the way to the disk, which was written by the driver that this machine has now.
    """
    if choice is None:
        return set(), set()
    judged = [(one.boot, judge(choice.index, one.link, ()).modules) for one in choice.needed]
    needed = {modules[0] for boot, modules in judged if modules and (boot or banned.issuperset(modules))}
    before = {device.key for device in situation.source.devices}
    wanted: set[str] = set()
    for device in situation.target.devices:
        if device.key in before or device.role is Role.OTHER or not device.modalias:
            continue
        # Drivers of the console alone take a card from the one that X and Wayland need: they are banned everywhere.
        found = [name for name in choice.index.match(device.modalias) if not _drives_console(name, choice)]
        if found and banned.issuperset(found):
            wanted.add(fold(device.driver) if fold(device.driver) in found else found[0])
    has_own = any("nvidia" in index.modules for index in (choice.index, choice.own_index))
    if has_own or has_software("nvidia", situation):
        wanted -= {"nouveau"}  # the driver of NVIDIA's own takes its place
    return needed, wanted - needed


def _drives_console(module: str, choice: KernelChoice) -> bool:
    paths = {**choice.own_index.paths, **choice.index.paths}
    return "/drivers/video/fbdev/" in paths.get(module, "")


def built_items(situation: Situation, drivers: Drivers) -> Iterator[Item]:
    """Drivers that are built from source with every kernel, or came as packages of a maker."""
    tree, names = situation.tree, {package.name for package in situation.source.packages}
    for name in plain_names(tree, DKMS):
        for version in plain_names(tree, f"{DKMS}/{name}"):
            built = dkms_modules(tree, f"{DKMS}/{name}/{version}")
            if not built & drivers.gone or built & drivers.here:
                continue
            reason = f"{name} {version} is built for a device that stays behind"
            if f"{name}-dkms" in names:
                yield _item(Op.REMOVE, "driver-package", f"{name}-dkms", reason, source=f"{name}-dkms")
            else:
                yield _item(Op.REMOVE, "dkms", name, reason, source=name, target=version)
    for package in sorted(names):
        found = re.fullmatch(r"kmod-([\w-]+)", package)
        if found and fold(found[1]) in drivers.gone:
            reason = f"{package} drives a device that stays behind"
            yield _item(Op.REMOVE, "driver-package", package, reason, source=package)


def dkms_modules(tree: Tree, folder: str) -> set[str]:
    """Modules that DKMS built for any kernel: <folder>/<release>/<architecture>/module/*.ko*."""
    below = [f"{folder}/{r}/{a}" for r in plain_names(tree, folder) for a in plain_names(tree, f"{folder}/{r}")]
    files = [name for one in below for name in plain_names(tree, f"{one}/module")]
    return {fold(name.partition(".ko")[0]) for name in files if ".ko" in name}


def secure_boot_items(situation: Situation, choice: KernelChoice | None, drivers: Drivers) -> Iterator[Item]:
    if situation.target.platform.secure_boot != "on":
        return
    paths = choice.index.paths if choice else {}
    foreign = sorted(name for name, path in paths.items() if OUT_OF_TREE.search(path) and name not in drivers.gone)
    if foreign:
        listed = ", ".join(foreign[:5]) + (" …" if len(foreign) > 5 else "")
        reason = (
            f"{listed}: made outside of the kernel; the old machine's firmware holds the keys that allow them: "
            "enrol them here with ‘mokutil --import’"
        )
        yield _item(Op.CHANGE, "secure-boot", "machine-owner-keys", reason, target=f"{len(foreign)} modules")
    for package in situation.source.packages:
        version = shim_version(package.version) if package.name in ("shim-signed", "shim-x64", "shim") else None
        if version and version < SHIM_REVOKED_BEFORE:
            better = _newer_shim(package.name, situation)
            reason = (
                f"{package.name} {package.version} is older than shim 15.8: firmware with newer revocations refuses it"
            )
            yield _item(Op.CHANGE, "shim", package.name, reason, source=package.version, target=better)
            return


def shim_version(text: str) -> tuple[int, int] | None:
    """Debian: 1.39+15.7-1; Fedora: 15.6-2; SUSE: 15.4."""
    found = re.search(r"(?:^|\+|:)(1[0-9])\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _newer_shim(name: str, situation: Situation) -> str:
    fitting = [c for c in situation.components if c.id == name and not unfit(c, situation)]
    good = [c for c in fitting if (shim_version(c.version) or (0, 0)) >= SHIM_REVOKED_BEFORE]
    return max(good, key=lambda c: version_key(c.version)).id if good else ""


def _item(  # noqa: PLR0913 - an item's own fields
    op: Op, kind: str, key: str, reason: str, *, source: str = "", target: str = "", tier: Tier = Tier.SHOULD
) -> Item:
    return Item(id="", op=op, kind=kind, key=key, tier=tier, reason=reason, source=source, target=target)
