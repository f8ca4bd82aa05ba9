"""A GRUB of the image's own for the other kind of firmware, where the depot has it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.model.compare_loader import loader_package_items
from agent.model.image import Component
from agent.model.profile import Firmware, Package, Platform
from agent.model.situation import Situation
from tests.model.machines_of_tests import component, situation, source, target

GRUB = Package("grub-common", "amd64", "2.06-13")


def part(name: str, *depends: str, **changes: Any) -> Component:
    given = {"kind": "loader", "kernel_release": "", "modules": (), "modaliases": (), "version": "2.06-13"}
    return component(name, depends=depends, **{**given, **changes})


def case(firmware: Firmware, *components: Component, packages: tuple[Package, ...] = (GRUB,)) -> Situation:
    own = replace(source(), packages=packages)
    return situation(source=own, target=target(platform=Platform(firmware=firmware)), components=components)


def names(found: Situation) -> list[str]:
    return [item.key for item in loader_package_items(found)]


SIGNED = (
    part("shim-signed", "shim-signed-common", "grub-efi-amd64-bin"),
    part("shim-signed-common", "grub-common"),
    part("grub-efi-amd64-signed", "grub-common (>= 2.06)"),
    part("grub-efi-amd64-bin", "grub-common (= 2.06-13)"),
)


@pytest.mark.adapts("B12", "T1")
def test_from_uefi_to_bios() -> None:
    assert names(case(Firmware.BIOS, part("grub-pc-bin", "grub-common (= 2.06-13)"))) == ["grub-pc-bin"]


@pytest.mark.adapts("B12", "T1")
def test_from_bios_to_uefi_in_the_order_of_what_depends_on_what() -> None:
    assert names(case(Firmware.UEFI, *SIGNED)) == [
        "grub-efi-amd64-bin", "shim-signed-common", "shim-signed", "grub-efi-amd64-signed",
    ]  # fmt: skip


def test_none_where_the_image_has_its_own() -> None:
    own = Package("grub-pc-bin", "amd64", "2.06-13")
    assert not names(case(Firmware.BIOS, part("grub-pc-bin"), packages=(GRUB, own)))


@pytest.mark.parametrize(
    "components",
    [
        (part("grub-pc-bin", "grub-common (= 2.12-1)"),),  # made for another grub-common
        (part("grub-pc-bin", for_os="debian 13"),),
        (),
    ],
)
def test_none_that_does_not_fit(components: tuple[Component, ...]) -> None:
    assert not names(case(Firmware.BIOS, *components))


def test_no_half_of_a_signed_chain() -> None:
    assert not names(case(Firmware.UEFI, *SIGNED[1:]))
