"""Packages of the boot loader that the image lacks on this machine's firmware, where the depot has them.

Without them the medium's own GRUB and shim make the disk boot; with them the system owns its loader, and its updates.
A menu of boot entries as files (the RHEL family) is the exception: the medium's GRUB does not understand it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.model import bls, efi_loaders
from agent.model.bios_loaders import own_modules
from agent.model.component_fit import unfit
from agent.model.difference import Item, Op, Tier
from agent.model.image import Component
from agent.model.kernel_choice import default_kernel
from agent.model.package_version import missing, version_key
from agent.model.profile import Firmware
from agent.model.situation import Situation


@dataclass(frozen=True, slots=True)
class Parts:
    """Debian's packages of one firmware: ``essential`` hold the loader, ``others`` what they may depend on."""

    essential: tuple[str, ...]
    others: tuple[str, ...] = ()


# The halves that go beside each other: grub-pc and grub-efi-amd64 themselves exclude one another.
PARTS = {
    Firmware.BIOS: Parts(("grub-pc-bin",)),
    Firmware.UEFI: Parts(
        ("shim-signed", "grub-efi-amd64-signed"),
        ("grub-efi-amd64-bin", "shim-unsigned", "shim-helpers-amd64-signed", "shim-signed-common"),
    ),
}


# Packages that hold the loader, of systems whose menu is boot entries as files: the RHEL family's, SUSE's.
_OF_ENTRIES = {
    Firmware.UEFI: (("shim-x64", "grub2-efi-x64"), ("shim", "grub2-x86_64-efi")),
    Firmware.BIOS: (("grub2-pc-modules", "grub2-pc"), ("grub2-i386-pc",)),
}
_WHY = {
    Firmware.UEFI: (
        "the image has no signed shim and GRUB for UEFI, and the medium's do not understand its boot entries"
    ),
    Firmware.BIOS: "the image has no GRUB for BIOS, and the medium's does not understand its boot entries",
}


def loader_items(situation: Situation) -> Iterator[Item]:
    """What makes the disk boot on this firmware, where the image does not bring it."""
    yield from required_items(situation) if _needs_its_own(situation) else loader_package_items(situation)


def required_items(situation: Situation) -> Iterator[Item]:
    """The image's own loaders, from the depot; a block that names those that the depot lacks."""
    os, firmware = situation.source.os, situation.target.platform.firmware
    wanted = _OF_ENTRIES[firmware][os.id.startswith(("opensuse", "sle"))]
    lacking = [name for name in wanted if _newest(name, situation) is None]
    why = _WHY[firmware]
    if not lacking:
        for name in wanted:
            yield Item(id="", op=Op.ADD, kind="loader-required", key=name, tier=Tier.MUST, target=name, reason=why)
        return
    unfitting = [f"{c.id} {c.version}: {unfit(c, situation)}" for c in situation.components if c.id in lacking]
    yield Item(
        id="", op=Op.BLOCK, kind="loader-required", key=" ".join(lacking), tier=Tier.MUST,
        reason=f"{why}; add {' and '.join(lacking)} of {os.name or os.id} {os.version} to the depot with ‘regraft "
        "component add’, or install them on the source and capture again"
        + "".join(f"; {said}" for said in unfitting),
    )  # fmt: skip


def _needs_its_own(situation: Situation) -> bool:
    """Boot entries as files, and no loader for this firmware; for UEFI none of which one maker has signed both."""
    tree, firmware = situation.tree, situation.target.platform.firmware
    if firmware not in _OF_ENTRIES or default_kernel(situation.source) is None or not any(bls.entries(tree)):
        return False
    if firmware is Firmware.BIOS:
        return not own_modules(tree.is_file)
    return not any(
        any(map(tree.is_file, shims)) and any(map(tree.is_file, grubs)) for shims, grubs, _ in efi_loaders.places()
    )


def loader_package_items(situation: Situation) -> Iterator[Item]:
    """One item a package, those that others depend on first; none unless all that is needed is there and fits."""
    parts = PARTS.get(situation.target.platform.firmware)
    if parts is None or default_kernel(situation.source) is None or situation.source.os.package_format != "deb":
        return
    have = {package.name for package in situation.source.packages}
    if have.issuperset(parts.essential):
        return
    offered = {name: found for name in (*parts.others, *parts.essential) if (found := _newest(name, situation))}
    chosen = {name: component for name, component in offered.items() if name not in have}
    versions = {component.id: component.version for component in chosen.values()}
    lacking = [one for c in chosen.values() for one in missing(c.depends, situation.source.packages, versions)]
    if lacking or not (have | chosen.keys()).issuperset(parts.essential):
        return
    firmware = situation.target.platform.firmware.value.upper()
    for name in chosen:
        yield Item(
            id="", op=Op.ADD, kind="loader-package", key=name, tier=Tier.SHOULD, target=name,
            reason=f"the image has no GRUB for {firmware} of its own; this brings it, and its updates",
        )  # fmt: skip


def _newest(name: str, situation: Situation) -> Component | None:
    able = [c for c in situation.components if c.id == name and not unfit(c, situation)]
    return max(able, key=lambda component: version_key(component.version), default=None)
