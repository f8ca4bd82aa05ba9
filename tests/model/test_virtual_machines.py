"""Machines that QEMU emulates, as the live system saw them: what was bound there is what is chosen from a kernel's own
list, and every one of them is decided for.

The profiles were taken by ``python -m tests.lab profiles``.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest

from agent.model.compare import compare
from agent.model.difference import Verdict
from agent.model.drivers import KernelIndex
from agent.model.profile import Firmware, Profile
from agent.model.profile_xml import dump_profile, load_profile
from agent.model.recipe_match import bind_all
from agent.model.storage import ChainLink
from agent.restore.recipe_folder import read_recipes
from tests.commands.system import MACHINES
from tests.lab.machine import Machine, disk_serial, nic_mac
from tests.lab.profiles import MACHINES as HARDWARE
from tests.model.test_demo_decision import cloud_on, kernel_tree

VIRTUAL = MACHINES / "virtual"
# Of both kernels, what has no module of its own: nothing to be put into an initramfs.
BUILT_IN = {"nvme", "nvme_core"}


def profile_of(hardware: Machine) -> Profile:
    return load_profile((VIRTUAL / f"{hardware.name}.xml").read_bytes())


each_machine = pytest.mark.parametrize("hardware", HARDWARE, ids=lambda hardware: hardware.name)


def links(profile: Profile) -> list[ChainLink]:
    """Of disks and cards all that was driven, without the medium."""
    disks = (disk.chain for disk in profile.disks if not disk.boot_medium)
    found = chain.from_iterable((*disks, *(nic.chain for nic in profile.network.nics)))
    return [link for link in dict.fromkeys(found) if link.driver]


def test_there_is_a_profile_of_each_and_no_other() -> None:
    assert {path.stem for path in VIRTUAL.glob("*.xml")} == {hardware.name for hardware in HARDWARE}


@each_machine
def test_a_profile_says_what_the_machine_was_made_of(hardware: Machine) -> None:
    profile = profile_of(hardware)
    disks = [disk for disk in profile.disks if not disk.boot_medium]
    found = sorted((disk.size_bytes, disk.logical_sector_bytes) for disk in disks)
    assert found == sorted((made.size_bytes, made.sector_bytes) for made in hardware.disks)
    # A card's number, and that of an enclosure behind UAS, QEMU makes itself; the address of a card on USB the guest.
    own = [place for place, made in enumerate(hardware.disks) if made.bus not in ("uas", "sdhci")]
    assert {disk_serial(hardware, place) for place in own} <= {disk.serial for disk in disks}
    assert len(profile.network.nics) == len(hardware.nics)
    wired = [place for place, nic in enumerate(hardware.nics) if not nic.model.startswith("usb-")]
    assert {nic_mac(hardware, place) for place in wired} <= {nic.mac for nic in profile.network.nics}
    assert profile.platform.firmware is (Firmware.BIOS if hardware.firmware == "bios" else Firmware.UEFI)
    assert profile.platform.secure_boot == ("on" if hardware.firmware == "uefi-secure" else "off")
    assert profile.platform.product_name == hardware.smbios.product


@each_machine
def test_a_profile_comes_back_from_its_xml(hardware: Machine) -> None:
    profile = profile_of(hardware)
    assert load_profile(dump_profile(profile)) == profile


@pytest.mark.root
@pytest.mark.adapts("D1", "T1")
@each_machine
def test_a_kernels_list_names_what_was_bound(hardware: Machine) -> None:
    """The live system has the generic kernel: the driver that sysfs showed is one of those that the list has."""
    index = KernelIndex.from_tree(*kernel_tree("amd64"))
    found = links(profile_of(hardware))
    assert len(found) >= len(hardware.disks) + len(hardware.nics)
    for link in found:
        verdict = index.verdict(link)
        assert verdict.verdict in (Verdict.MODULE, Verdict.BUILTIN), link
        assert verdict.verdict is Verdict.BUILTIN or link.driver in verdict.modules, (link, verdict)


@pytest.mark.root
@pytest.mark.adapts("B1", "B3", "D1", "T1")
@each_machine
def test_an_image_of_the_cloud_is_decided_for_each(hardware: Machine) -> None:
    """The demo's image: its kernel stays where it drives disk and card, else the generic one comes; nothing blocks, and
    what carries the root is told as a driver of the initramfs."""
    profile = profile_of(hardware)
    disk = replace(next(disk for disk in profile.disks if not disk.boot_medium), size_bytes=20 << 30)
    case = cloud_on(target=replace(profile, disks=(disk,)), disk=disk)
    cloud = KernelIndex.from_tree(*kernel_tree("cloud-amd64"))
    able = all(
        cloud.verdict(link).verdict is not Verdict.ABSENT
        for link in (*disk.chain, *profile.network.nics[0].chain)
        if link.driver
    )
    bound, difference = bind_all(read_recipes(), compare(case), case)
    assert difference.blockers == ()
    assert ("kernel.install-flavour" in {recipe.id for recipe in bound}) is not able
    told = {item.target for item in difference.items if item.kind == "driver"}
    assert {link.driver for link in disk.chain if link.driver} <= told | BUILT_IN | {"sd_mod"}
