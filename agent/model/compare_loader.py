"""Packages of the boot loader that the image lacks on this machine's firmware, where the depot has them.

Without them the medium's own GRUB and shim make the disk boot; with them the system owns its loader, and its updates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
