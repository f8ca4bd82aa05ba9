"""The difference between the machine an image was made on and the machine it is to run on: what follows from it for
the restored system, each with its reason.

    Situation ──► platform ─ kernel and boot path ─ cards ─ storage ─ identity ─ the rest ──► Difference

Pure. What stands in ``handled_by`` here needs no recipe: the "kernel" has the driver, the "layout" makes it, or it is
"preserved" as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from agent.model import compare_firmware, compare_hardware, compare_loader, compare_storage
from agent.model.difference import Difference, Item, Op, Tier, Verdict
from agent.model.drivers import KernelIndex, flavour_of
from agent.model.kernel_choice import GREEN, KernelChoice, Needed, choose_kernel, default_kernel, judge, witnesses
from agent.model.nic_map import KERNEL_NAME, Pair, map_nics
from agent.model.references import command_line_words
from agent.model.situation import CLONE, Situation
from agent.model.tree import read_text

PRESERVED = ("preserved",)


def compare(situation: Situation) -> Difference:
    """The difference, before recipes: `recipe_match.bind_all` fills in what they handle."""
    choice = choose_kernel(situation)
    items: list[Item] = [
        *compare_hardware.platform_items(situation),
        *(boot_items(situation, choice) if choice else ()),
        *(compare_firmware.firmware_items(situation, choice) if choice else ()),
        *compare_loader.loader_package_items(situation),
        *nic_items(situation, choice),
        *compare_storage.storage_items(situation),
        *console_items(situation),
        *identity_items(situation),
        *compare_hardware.device_items(situation, choice),
    ]
    numbered = tuple(replace(item, id=f"d{number}") for number, item in enumerate(items, 1))
    source, target = situation.source, situation.target
    return Difference(f"{source.machine}@{source.time}", f"{target.machine}@{target.time}", numbered)


def boot_items(situation: Situation, choice: KernelChoice) -> Iterator[Item]:
    """Every device that must work, judged; the kernel that is needed for it; what its initramfs must hold."""
    more = (KernelIndex.from_component(choice.component),) if choice.component else ()
    own_others = witnesses(situation, *more)
    for one in choice.needed:
        yield _device_item(one, choice, own_others)
    if choice.release != choice.own.release:
        yield from kernel_items(situation, choice)
    yield from driver_items(situation, choice)


def _device_item(one: Needed, choice: KernelChoice, others: tuple[KernelIndex, ...]) -> Item:
    found = judge(choice.own_index, one.link, others)
    green = found.verdict in GREEN
    evidence = [("devices", one.link.modalias), ("os", found.reason)]
    evidence += [("component", f"{name}: {why}") for name, why in choice.rejected if not green]
    driver = found.modules[0] if found.modules else one.link.driver
    what = f"on the way to {one.use}" if one.boot else f"of {one.use}, which takes over configured addresses"
    # Without another kernel a must item that the image's own cannot drive stays open, and blocks.
    return Item(
        id="",
        op=Op.ADD,
        kind="device",
        key=one.link.modalias,
        tier=Tier.MUST if found.verdict is not Verdict.NOT_APPLICABLE else Tier.LATER,
        reason=f"device {what}: {found.reason}",
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
        source=choice.own.release, target=component.id if component else choice.release,
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
    for name, why in retired_packages(situation, choice):
        yield Item(id="", op=Op.REMOVE, kind="package", key=name, tier=Tier.MUST, reason=why, source=name)


def retired_packages(situation: Situation, choice: KernelChoice) -> Iterator[tuple[str, str]]:
    """Packages of the flavour that lacks drivers: its name may sort first in GRUB's menu, so that it boots again.

    First the metapackage, which depends on the kernels' own. A newer kernel of the same flavour sorts first by itself.
    """
    flavour = flavour_of(choice.own.release)
    if flavour == flavour_of(choice.release):
        return
    names = {package.name for package in situation.source.packages}
    if flavour and f"linux-image-{flavour}" in names:
        yield f"linux-image-{flavour}", f"brings further kernels of the flavour {flavour}, which lack the drivers"
    for kernel in situation.source.os.kernels:
        if kernel.package in names and flavour_of(kernel.release) == flavour:
            yield kernel.package, f"kernel {kernel.release} lacks drivers and would boot by default"


def driver_items(situation: Situation, choice: KernelChoice) -> Iterator[Item]:
    """Modules that the initramfs of the kernel that will boot must hold."""
    others = witnesses(situation, choice.own_index)
    wanted: dict[str, str] = {}
    for one in choice.needed:
        found = judge(choice.index, one.link, others)
        if one.boot and found.verdict is Verdict.MODULE:
            wanted.setdefault(found.modules[0], f"drives {one.link.modalias} on the way to {one.use}")
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


def nic_items(situation: Situation, choice: KernelChoice | None) -> Iterator[Item]:
    pairs = choice.pairs if choice else map_nics(situation.source, situation.target)
    reachable = any(pair.carries and pair.target for pair in pairs)
    for pair in pairs:
        if pair.target is None:
            yield _lost_nic(pair, reachable)
        elif pair.target.mac != pair.mac:
            yield _mapped_nic(pair, situation)
    yield from config_items(situation, pairs)


def _lost_nic(pair: Pair, reachable: bool) -> Item:
    tier = Tier.LATER if not pair.carries else Tier.SHOULD if reachable else Tier.MUST
    return Item(
        id="", op=Op.REMOVE, kind="nic", key=pair.mac or pair.name, tier=tier, source=pair.name,
        reason=f"interface {pair.name} has no card on this machine: {pair.reason}"
        + ("" if reachable or not pair.carries else "; the restored system would be out of reach"),
    )  # fmt: skip


def _mapped_nic(pair: Pair, situation: Situation) -> Item:
    """A name like eth0 may only be given by rule when no other card can hold it already."""
    assert pair.target is not None
    alone = len(situation.target.network.nics) == 1
    kind = "nic-kernel-name" if KERNEL_NAME.fullmatch(pair.name) and not alone else "nic"
    return Item(
        id="", op=Op.MAP, kind=kind, key=pair.mac or pair.name, tier=Tier.MUST if pair.carries else Tier.SHOULD,
        source=pair.name, target=pair.target.mac,
        reason=f"interface {pair.name} moves to card {pair.target.mac} ({pair.target.driver}): {pair.reason}",
        evidence=(
            ("network", f"old card {pair.mac or 'not known'}"),
            ("network", f"new card at {pair.target.address}"),
        ),
    )  # fmt: skip


def config_items(situation: Situation, pairs: Iterable[Pair]) -> Iterator[Item]:
    """Files that name cards by address: rules for cards that are gone, and bindings that move with their card."""
    here = {nic.mac for nic in situation.target.network.nics}
    moved = {pair.mac: pair.target.mac for pair in pairs if pair.mac and pair.target and pair.target.mac != pair.mac}
    for config in situation.source.network.configs:
        for mac in sorted({mac.lower() for mac in config.macs} - here):
            if config.backend == "udev" or config.path.endswith(".rules"):
                yield Item(
                    id="", op=Op.REMOVE, kind="config", key=config.path, tier=Tier.MUST, source=mac,
                    reason=f"{config.path} names card {mac}, which this machine does not have",
                )  # fmt: skip
            elif mac in moved and config.backend != "ifupdown":  # ifupdown's hwaddress sets an address, binds nothing
                yield Item(
                    id="", op=Op.CHANGE, kind="config", key=config.path, tier=Tier.MUST, source=mac, target=moved[mac],
                    reason=f"{config.path} is bound to card {mac}, which {moved[mac]} replaces",
                )  # fmt: skip


def console_items(situation: Situation) -> Iterator[Item]:
    """Console words of the running command line that no file would give to the next boot entry."""
    kept = command_line_words(situation.tree)
    for word in situation.source.os.cmdline.split():
        if word.startswith("console=") and default_kernel(situation.source):
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
    if tree.exists("/etc/machine-id"):
        yield _identity(Op.CHANGE, "machine-id", "/etc/machine-id", "a clone has a machine id of its own")
    for name in tree.list_dir("/etc/ssh"):
        if name.startswith("ssh_host_") and name.endswith("_key"):
            yield _identity(Op.REMOVE, "ssh-host-key", f"/etc/ssh/{name}", "a clone has ssh host keys of its own")
    if old and new != old:
        item = _identity(Op.CHANGE, "hostname", "/etc/hostname", "a clone has a hostname of its own")
        yield replace(item, source=old, target=new)
    if read_text(tree, "/etc/iscsi/initiatorname.iscsi"):
        item = _identity(Op.CHANGE, "identity", "/etc/iscsi/initiatorname.iscsi", "the iSCSI name stays the source's")
        yield replace(item, tier=Tier.SHOULD)
    static = sorted({a for config in situation.source.network.configs for a in config.addresses})
    if static:
        item = _identity(Op.CHANGE, "identity", "static addresses", f"the clone keeps {', '.join(static)}: change them "
                         "before both machines are on one network")  # fmt: skip
        yield replace(item, tier=Tier.SHOULD)


def _identity(op: Op, kind: str, key: str, reason: str) -> Item:
    return Item(id="", op=op, kind=kind, key=key, tier=Tier.MUST, reason=reason)
