"""The decision on Debian's real kernels: the cloud flavour's image on machines of iron, the generic kernel at hand."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from agent.depot.components import component_from_deb
from agent.model.compare import compare
from agent.model.difference import Verdict
from agent.model.drivers import KernelIndex
from agent.model.image import Component
from agent.model.profile import Kernel, Network, Package
from agent.model.recipe import Install, RemovePackage
from agent.model.recipe_match import bind_all
from agent.model.situation import Situation
from agent.model.storage import ChainLink
from agent.model.tree import MemoryTree
from agent.restore.recipe_folder import read_recipes
from tests.model.debian_kernel import kernel_package, package, unpacked_kernel
from tests.model.machines_of_tests import DISK, FSTAB, NEW_MAC, nic, situation, source, target

pytestmark = pytest.mark.root

# Modaliases as sysfs shows them; the drivers that the generic kernel has for them.
IRON = {
    "ahci": "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01",
    "megaraid_sas": "pci:v00001000d0000005Dsv00001028sd00001F47bc01sc04i00",
    "mpt3sas": "pci:v00001000d00000097sv00001000sd00003090bc01sc07i00",
    "hpsa": "pci:v0000103Cd0000323Bsv0000103Csd00003354bc01sc04i00",
    "vmd": "pci:v00008086d0000467Fsv00008086sd00000000bc01sc04i00",
    "igb": "pci:v00008086d00001533sv00008086sd00001533bc02sc00i00",
    "i40e": "pci:v00008086d00001572sv00008086sd00000001bc02sc00i00",
    "tg3": "pci:v000014E4d0000165Fsv00001028sd00001F5Bbc02sc00i00",
    "r8169": "pci:v000010ECd00008168sv00001043sd00008554bc02sc00i00",
}
VIRTUAL = {
    "virtio_pci": "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00",
    "vmw_pvscsi": "pci:v000015ADd000007C0sv000015ADsd000007C0bc01sc00i00",
}


@cache
def generic() -> tuple[Component, ...]:
    return component_from_deb(kernel_package("amd64"))[0], component_from_deb(package("linux-image-amd64"))[0]


@cache
def kernel_tree(flavour: str) -> tuple[MemoryTree, str]:
    """What decisions read of a kernel, and an fstab."""
    root, release = unpacked_kernel(flavour)
    files = {
        f"/lib/modules/{release}/{p.name}": p.read_bytes() for p in (root / "lib/modules" / release).glob("modules.*")
    }
    config = f"/boot/config-{release}"
    return MemoryTree({**files, config: (root / config[1:]).read_bytes(), "/etc/fstab": FSTAB.encode()}), release


def cloud_on(**changes: object) -> Situation:
    tree, release = kernel_tree("cloud-amd64")
    name = f"linux-image-{release}"
    kernel = Kernel(release, "cloud-amd64", name, f"/boot/vmlinuz-{release}", f"/boot/initrd.img-{release}", True)
    packages = (*source().packages[:4], Package(name, "amd64", "6.1"))
    profile = source(os=replace(source().os, kernels=(kernel,)), packages=packages)
    return replace(situation(source=profile, components=generic()), tree=tree, **changes)  # type: ignore[arg-type]


@pytest.mark.adapts("B3", "D1", "T1")
def test_the_cloud_kernel_on_nvme_and_e1000e_takes_the_generic_one() -> None:
    case = cloud_on()
    bound, difference = bind_all(read_recipes(), compare(case), case)
    assert difference.blockers == ()
    (recipe,) = [recipe for recipe in bound if recipe.id == "kernel.install-flavour"]
    kernel, meta = generic()
    installs = [op.component for op in recipe.operations if isinstance(op, Install)]
    removals = [op.package for op in recipe.operations if isinstance(op, RemovePackage)]
    assert installs == [kernel.id, meta.id]
    assert removals == ["linux-image-cloud-amd64", case.source.os.kernels[0].package]
    verdicts = {item.target: item.verdict for item in difference.items if item.kind == "device"}
    assert verdicts["nvme"] is Verdict.BUILTIN and verdicts["e1000e"] is Verdict.ABSENT
    drivers = {item.target for item in difference.items if item.kind == "driver"}
    assert {"nvme", "ext4"} <= drivers


@pytest.mark.parametrize("driver", [name for name in IRON if "bc01" in IRON[name]])
@pytest.mark.adapts("B3", "D1", "T1")
def test_every_controller_of_iron_needs_the_generic_kernel(driver: str) -> None:
    chain = (
        ChainLink("acpi:PNP0A08:PNP0A03:", ""),
        ChainLink(IRON[driver], driver),
        ChainLink("scsi:t-0x00", "sd_mod"),
    )
    case = cloud_on(disk=replace(DISK, chain=chain))
    bound, difference = bind_all(read_recipes(), compare(case), case)
    assert difference.blockers == ()
    assert "kernel.install-flavour" in {recipe.id for recipe in bound}
    assert driver in {item.target for item in difference.items if item.kind == "driver"}
    alone = replace(case, components=())
    assert bind_all(read_recipes(), compare(alone), alone)[1].blockers


@pytest.mark.adapts("B1", "T1")
def test_where_nobody_knows_which_driver_it_will_be_the_initramfs_gets_each() -> None:
    ide = ChainLink("pci:v00008086d00007010sv00001AF4sd00001100bc01sc01i80", "")
    for driver, expected in (("", {"ata_piix", "ata_generic"}), ("ata_piix", {"ata_piix"})):
        case = cloud_on(disk=replace(DISK, chain=(replace(ide, driver=driver),)))
        told = {item.target for item in compare(case).items if item.kind == "driver"}
        assert told == expected | {"ext4"}


@pytest.mark.parametrize("driver", [name for name in IRON if "bc02" in IRON[name]])
@pytest.mark.adapts("D1", "T1")
def test_every_card_of_iron_is_driven_by_the_generic_kernel_only(driver: str) -> None:
    case = cloud_on(target=target(network=Network(nics=(nic(NEW_MAC, driver, modalias=IRON[driver]),))))
    choice = [item for item in compare(case).items if item.kind == "kernel"]
    assert [item.target for item in choice] == [generic()[0].id]


@pytest.mark.adapts("B3", "T1")
def test_verdicts_of_both_flavours() -> None:
    cloud = KernelIndex.from_tree(*kernel_tree("cloud-amd64"))
    full = KernelIndex.from_tree(*kernel_tree("amd64"))
    for driver, modalias in IRON.items():
        link = ChainLink(modalias, driver)
        assert full.verdict(link).verdict is Verdict.MODULE and full.verdict(link).modules == (driver,)
        assert cloud.verdict(link).verdict is Verdict.ABSENT, driver
    for driver, modalias in VIRTUAL.items():
        for index in (cloud, full):
            assert index.verdict(ChainLink(modalias, driver)).verdict in (Verdict.MODULE, Verdict.BUILTIN), driver
