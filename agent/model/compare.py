"""The difference between the machine an image was made on and the machine it is to run on: what follows from it for
the restored system, each with its reason.

    Situation ──► platform ─ kernel and boot path ─ cards ─ storage ─ identity ─ the rest ──► Difference

Pure. What stands in ``handled_by`` here needs no recipe: the "kernel" has the driver, the "layout" makes it, or it is
"preserved" as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from agent.model import (
    compare_cmdline,
    compare_firmware,
    compare_hardware,
    compare_identity,
    compare_loader,
    compare_modules,
    compare_network,
    compare_opened,
    compare_settings,
    compare_software,
    compare_storage,
)
from agent.model.bls import entry_machine_id, entry_words
from agent.model.difference import Difference, Item, Op, Tier, Verdict
from agent.model.drivers import KernelIndex, flavour_of, fold
from agent.model.image import Component
from agent.model.kernel_choice import GREEN, KernelChoice, Needed, choose_kernel, default_kernel, judge, witnesses
from agent.model.references import Planned, command_line_words
from agent.model.situation import CLONE, Situation
from agent.model.tree import Tree, read_text
from agent.model.wanted import derived

PRESERVED = ("preserved",)
HOSTS = "/etc/hosts"
SAFE_WORD = re.compile(r"[A-Za-z0-9._:/=,@+~-]+")


def compare(situation: Situation) -> Difference:
    """The difference, before recipes: `recipe_match.bind_all` fills in what they handle."""
    choice = choose_kernel(situation)
    items: list[Item] = [
        *compare_hardware.platform_items(situation),
        *(boot_items(situation, choice) if choice else ()),
        *(compare_firmware.firmware_items(situation, choice) if choice else ()),
        *compare_loader.loader_items(situation),
        *compare_network.network_items(situation, choice),
        *compare_storage.storage_items(situation),
        *root_items(situation),
        *bound_items(situation, choice),
        *identity_items(situation),
        *compare_identity.clone_items(situation),
        *compare_hardware.device_items(situation, choice),
    ]
    numbered = tuple(replace(item, id=f"d{number}") for number, item in enumerate(items, 1))
    source, target = situation.source, situation.target
    return Difference(f"{source.machine}@{source.time}", f"{target.machine}@{target.time}", numbered)


def boot_items(situation: Situation, choice: KernelChoice) -> Iterator[Item]:
    """Every device that must work, judged; the kernel that is needed for it; what its initramfs must hold."""
    more = tuple(KernelIndex.from_component(one) for one in (choice.component, *choice.drivers) if one)
    own_others = witnesses(situation, *more)
    for one in choice.needed:
        yield _device_item(one, choice, own_others)
    if choice.component or choice.release != choice.own.release:
        yield from kernel_items(situation, choice)
    yield from driver_package_items(situation, choice)
    yield from driver_items(situation, choice)


def _device_item(one: Needed, choice: KernelChoice, others: tuple[KernelIndex, ...]) -> Item:
    found = judge(choice.own_index, one.link, others)
    green = found.verdict in GREEN
    evidence = [("devices", one.link.modalias), ("os", found.reason)]
    evidence += [("component", f"{name}: {why}") for name, why in choice.rejected if not green]
    driver = found.modules[0] if found.modules else one.link.driver
    # Where nothing helps, the person must know what was looked at.
    tried = "; ".join(f"{name}: {why}" for name, why in choice.rejected)
    helpless = not green and choice.component is None and not choice.drivers and choice.release == choice.own.release
    what = f"on the way to {one.use}" if one.boot else f"of {one.use}, which takes over configured addresses"
    # Without another kernel a must item that the image's own cannot drive stays open, and blocks.
    return Item(
        id="",
        op=Op.ADD,
        kind="device",
        key=one.link.modalias,
        tier=Tier.MUST if found.verdict is not Verdict.NOT_APPLICABLE else Tier.LATER,
        reason=f"device {what}: {found.reason}" + (f"; {tried}" if tried and helpless else ""),
        target=driver,
        verdict=found.verdict,
        evidence=tuple(evidence),
        handled_by=("kernel",) if green else (),
    )


def kernel_items(situation: Situation, choice: KernelChoice) -> Iterator[Item]:
    """The kernel to install, or to prefer; what keeps it up to date; the packages of the one it replaces."""
    component = choice.component
    yield Item(
        id="", op=Op.ADD if component else Op.CHANGE, kind="kernel", key=choice.release, tier=Tier.MUST,
        reason=f"the image's kernel {choice.own.release} does not drive this machine; {choice.reason}",
        source=choice.own.release, target=said_name(component, situation) if component else choice.release,
        evidence=tuple(("component", f"{name}: {why}") for name, why in choice.rejected),
    )  # fmt: skip
    for follower in choice.with_it:
        yield Item(
            id="", op=Op.ADD, kind="package", key=follower.id, tier=Tier.MUST, target=follower.id,
            reason=f"brings the updates of {choice.release}",
        )  # fmt: skip
    if component and not choice.with_it:
        yield Item(
            id="", op=Op.CHANGE, kind="package", key=component.id, tier=Tier.SHOULD,
            reason=f"no component keeps {component.id} up to date: install its metapackage after the restore",
        )  # fmt: skip
    yield from command_line_items(situation)
    yield from base_package_items(situation, choice)
    for name, why in retired_packages(situation, choice):
        yield Item(id="", op=Op.REMOVE, kind="package", key=name, tier=Tier.MUST, reason=why, source=name)


def base_package_items(situation: Situation, choice: KernelChoice) -> Iterator[Item]:
    """SUSE's kernel-default-base holds some of kernel-default's own files: it goes first."""
    component = choice.component
    names = {package.name for package in situation.source.packages}
    if component and f"{component.id}-base" in names and component.package_format == "rpm":
        yield Item(
            id="", op=Op.REMOVE, kind="base-package", key=f"{component.id}-base", tier=Tier.MUST,
            source=f"{component.id}-base", reason=f"{component.id} holds the same files, and all drivers",
        )  # fmt: skip


def root_items(situation: Situation) -> Iterator[Item]:
    """Boot entries that are files name their root themselves: no tool makes them anew."""
    planned = Planned.of(situation)
    for word in entry_words(situation.tree):
        device = word.removeprefix("root=")
        if device == word or planned.has(device) or device.startswith(("/dev/mapper/", "zfs")):
            continue
        found = planned.replacement(device, "/")
        yield Item(
            id="", op=Op.CHANGE, kind="root-option", key=device, tier=Tier.MUST, source=word,
            target=f"root={found}" if found else "",
            reason=f"boot entries look for their root file system on {device}, "
            + (f"which is {found} on this disk" if found else "which this disk does not have"),
        )  # fmt: skip


def command_line_items(situation: Situation) -> Iterator[Item]:
    """Of an image with boot entries as files: what kernel-install will give the new kernel's."""
    moved = {item.source: item.target for item in root_items(situation)}
    planned, stale = Planned.of(situation), compare_opened.stale_words(situation)
    words = [
        moved.get(word) or word
        for word in entry_words(situation.tree)
        if word not in stale and (not word.startswith("resume=") or planned.has(word.removeprefix("resume=")))
    ]
    words += [word for word in compare_opened.missing_words(situation) if words]
    safe = [word for word in words if SAFE_WORD.fullmatch(word)]
    if not words or read_text(situation.tree, "/etc/kernel/cmdline").strip():
        return
    lost = [word for word in words if word not in safe]
    yield Item(
        id="", op=Op.CHANGE, kind="kernel-cmdline", key="/etc/kernel/cmdline", tier=Tier.MUST, target=" ".join(safe),
        reason="the new kernel's boot entry gets the command line of the image's entries"
        + (f", but for {len(lost)} words with unusual characters" if lost else ""),
    )  # fmt: skip


def said_name(component: Component, situation: Situation) -> str:
    """Its id, and which version where the depot has several: kernels of rpm all have one name."""
    several = sum(one.id == component.id for one in situation.components) > 1
    return f"{component.id}={component.version}" if several else component.id


def driver_package_items(situation: Situation, choice: KernelChoice) -> Iterator[Item]:
    """Drivers of the depot that the kernel which will boot needs."""
    for component in choice.drivers:
        yield Item(
            id="", op=Op.ADD, kind="driver-package", key=component.id, tier=Tier.MUST, source=choice.release,
            target=said_name(component, situation), reason=choice.reason,
            evidence=tuple(("component", f"{name}: {why}") for name, why in choice.rejected),
        )  # fmt: skip


def retired_packages(situation: Situation, choice: KernelChoice) -> Iterator[tuple[str, str]]:
    """Packages of Debian's flavour that lacks drivers: its name may sort first in GRUB's menu, and boot again.

    First the metapackage, which depends on the kernels' own. A newer kernel of the same flavour sorts first by itself.
    """
    flavour = flavour_of(choice.own.release)
    if flavour == flavour_of(choice.release) or situation.source.os.package_format != "deb":
        return
    names = {package.name for package in situation.source.packages}
    if flavour and f"linux-image-{flavour}" in names:
        yield f"linux-image-{flavour}", f"brings further kernels of the flavour {flavour}, which lack the drivers"
    for kernel in situation.source.os.kernels:
        if (
            kernel.package in names
            and kernel.package.endswith(kernel.release)
            and flavour_of(kernel.release) == flavour
        ):
            yield kernel.package, f"kernel {kernel.release} lacks drivers and would boot by default"


def driver_items(situation: Situation, choice: KernelChoice) -> Iterator[Item]:
    """Modules that the initramfs of the kernel that will boot must hold."""
    others = witnesses(situation, choice.own_index)
    wanted: dict[str, str] = {}
    for one in choice.needed:
        found = judge(choice.index, one.link, others)
        if one.boot and found.verdict is Verdict.MODULE:
            # Where nobody knows which of several it will be, the initramfs holds each of them.
            is_known = found.modules[0] == fold(one.link.driver)
            for module in found.modules[:1] if is_known else found.modules:
                wanted.setdefault(module, f"drives {one.link.modalias} on the way to {one.use}")
    for volume in situation.manifest.volumes:
        if volume.filesystem.mountpoint in ("/", "/usr"):
            kind = volume.filesystem.kind
            for module in choice.index.match(f"fs-{kind}") or (kind,):
                if choice.index.has_module(module):
                    wanted.setdefault(module, f"mounts the {kind} file system of {volume.filesystem.mountpoint}")
    for module, why in wanted.items():
        yield Item(
            id="", op=Op.ADD, kind="driver", key=module, tier=Tier.MUST, reason=why, source=choice.release,
            target=module, verdict=Verdict.MODULE,
        )  # fmt: skip


def bound_items(situation: Situation, choice: KernelChoice | None) -> Iterator[Item]:
    """What was made for the old machine: software, modules, words of the command line, settings."""
    drivers = compare_modules.known_drivers(situation, choice)
    yield from console_items(situation, compare_cmdline.dropped_words(situation, drivers))
    yield from compare_cmdline.cmdline_items(situation, drivers)
    yield from compare_opened.opened_items(situation)
    yield from compare_software.software_items(situation)
    yield from compare_modules.module_items(situation, choice)
    yield from compare_settings.settings_items(situation)


def console_items(situation: Situation, dropped: frozenset[str] = frozenset()) -> Iterator[Item]:
    """Console words of the running command line that no file would give to the next boot entry."""
    kept = command_line_words(situation.tree)
    for word in situation.source.os.cmdline.split():
        if word.startswith("console=") and word not in dropped and default_kernel(situation.source):
            yield Item(
                id="", op=Op.MAP if word in kept else Op.CHANGE, kind="console", key=word, tier=Tier.SHOULD,
                source=word, target=word,
                reason="the console on the kernel command line is kept",
                handled_by=PRESERVED if word in kept else (),
            )  # fmt: skip


def identity_items(situation: Situation) -> Iterator[Item]:
    """A clone is another machine: what tells machines apart is made anew."""
    if situation.mode != CLONE:
        return
    tree, old, new = situation.tree, situation.source.hostname, situation.new_name
    named_by = entry_machine_id(tree)
    if named_by:
        item = _identity(Op.CHANGE, "boot-entries", "/boot/loader/entries", "boot entries are named by the machine id")
        yield replace(item, source=named_by, target=clone_machine_id(situation))
    elif tree.exists("/etc/machine-id"):
        yield _identity(Op.CHANGE, "machine-id", "/etc/machine-id", "a clone has a machine id of its own")
    for name in tree.list_dir("/etc/ssh"):
        if name.startswith("ssh_host_") and name.endswith("_key"):
            yield _identity(Op.REMOVE, "ssh-host-key", f"/etc/ssh/{name}", "a clone has ssh host keys of its own")
    if old and new != old:
        item = _identity(Op.CHANGE, "hostname", "/etc/hostname", "a clone has a hostname of its own")
        yield replace(item, source=old, target=new)
        yield from hosts_items(tree, old, new)
    static = sorted({a for config in situation.source.network.configs for a in config.addresses})
    if static:
        item = _identity(Op.CHANGE, "identity", "static addresses", f"the clone keeps {', '.join(static)}: change them "
                         "before both machines are on one network")  # fmt: skip
        yield replace(item, tier=Tier.SHOULD)
    given = sorted({mac for config in situation.source.network.configs for mac in config.sets_macs})
    if given:
        item = _identity(Op.CHANGE, "identity", "MAC addresses", f"the clone's cards are given {', '.join(given)} "
                         "as the source's are: change them before both machines are on one network")  # fmt: skip
        yield replace(item, tier=Tier.SHOULD)


def hosts_items(tree: Tree, old: str, new: str) -> Iterator[Item]:
    """The source's names in /etc/hosts, each with the clone's: short ones, and with a domain those that are its own."""
    label, _, domain = old.partition(".")
    new_label, _, new_domain = new.partition(".")
    lines = [line.partition("#")[0].split() for line in read_text(tree, HOSTS).splitlines()]
    names = [name for line in lines for name in line[1:] if SAFE_WORD.fullmatch(name)]
    for name in dict.fromkeys(names if label != "localhost" else ()):
        short, dot, own = name.partition(".")
        if short != label or (dot and domain and own != domain):
            continue
        instead = f"{new_label}.{new_domain or own}" if dot else new_label
        if instead != name:
            item = _identity(Op.CHANGE, "hosts-name", HOSTS, f"{HOSTS} calls the source {name}")
            yield replace(item, tier=Tier.SHOULD, source=name, target=instead)


def clone_machine_id(situation: Situation) -> str:
    """A machine id for this clone, the same at every run of the same restore; no other machine derives it.

    Entries that are named by it must be so before its first boot; elsewhere the first boot makes one.
    """
    target = situation.target
    told = [target.platform.system_uuid, situation.disk.serial, situation.disk.wwn, situation.new_name,
            *sorted(nic.mac for nic in target.network.nics)]  # fmt: skip
    return derived(situation.manifest, "\n".join(["machine-id", *told])).hex


def _identity(op: Op, kind: str, key: str, reason: str) -> Item:
    return Item(id="", op=op, kind=kind, key=key, tier=Tier.MUST, reason=reason)
