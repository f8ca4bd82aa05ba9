"""A machine that moved: what it had, what the new one has, and what the shipped recipes make of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agent.model.compare import compare
from agent.model.difference import Difference, Item, Op
from agent.model.profile import Device, Package, Platform, Role, Section, Status, Unit
from agent.model.recipe import BoundRecipe
from agent.model.recipe_match import bind_all
from agent.model.situation import Situation
from agent.restore.recipe_folder import read_recipes
from tests.model.machines_of_tests import situation, source, target

RECIPES = read_recipes()
SECTIONS = tuple(
    Section(name, Status.COMPLETE) for name in ("devices", "storage", "network", "os", "software", "services")
)
VMWARE = Platform(virtualization="vmware", system_vendor="VMware, Inc.", product_name="VMware7,1")
EC2 = Platform(virtualization="kvm", system_vendor="Amazon EC2", product_name="m5.large")
KVM = Platform(virtualization="kvm", system_vendor="QEMU", product_name="Q35")
DELL = Platform(system_vendor="Dell Inc.", product_name="R640", board_name="A", cpu_vendor="GenuineIntel", cpu_count=32,
                memory_bytes=64 << 30)  # fmt: skip
HPE = Platform(system_vendor="HPE", product_name="DL325", board_name="B", cpu_vendor="AuthenticAMD", cpu_count=8,
               memory_bytes=8 << 30)  # fmt: skip


def device(key: str, driver: str = "", role: Role = Role.OTHER, modalias: str = "") -> Device:
    return Device(key, key.partition(":")[0], "0", modalias or key, role=role, driver=driver)


ACPI = device("acpi::PNP0C0A:::#1")
COM1 = device("acpi::PNP0501:::#1", modalias="acpi:PNP0501:")


def moved(
    old: Platform, new: Platform, *, packages: str = "", units: str = "", files: dict[str, str] | None = None,
    devices: tuple[Device, ...] = (), new_devices: tuple[Device, ...] = (), **more: Any,
) -> Situation:  # fmt: skip
    before = source(
        platform=replace(old, firmware=source().platform.firmware), sections=SECTIONS, devices=devices,
        packages=(*source().packages, *(Package(name, "amd64", "1.0") for name in packages.split())),
        units=tuple(Unit(name, "enabled") for name in units.split()),
    )  # fmt: skip
    after = target(
        platform=replace(new, firmware=target().platform.firmware), sections=SECTIONS, devices=(ACPI, *new_devices)
    )
    return situation(files, source=before, target=after, **more)


def adapted(one: Situation) -> tuple[Difference, tuple[BoundRecipe, ...]]:
    bound, difference = bind_all(RECIPES, compare(one), one)
    return difference, bound


def items_of(one: Situation, kind: str, op: Op | None = None) -> list[Item]:
    found, _ = adapted(one)
    return [item for item in found.items if item.kind == kind and op in (None, item.op)]


def operations(one: Situation, recipe: str) -> list[Any]:
    return [operation for bound in adapted(one)[1] if bound.id == recipe for operation in bound.operations]


def removed(one: Situation) -> dict[str, Item]:
    return {item.key: item for item in items_of(one, "software", Op.REMOVE)}
