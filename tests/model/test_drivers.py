"""Verdicts on devices: the matcher on small kernels here, against ``modprobe -R`` on a whole Debian kernel (root)."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.model.difference import Verdict
from agent.model.drivers import KernelIndex, boot_modules, fold_alias, module_name
from agent.model.image import Component
from agent.model.storage import ChainLink
from agent.model.tree import MemoryTree
from agent.process import run
from tests.model.debian_kernel import unpacked_kernel

RELEASE = "6.1.0-1-test"
E1000E = "pci:v00008086d000010D3sv00008086sd0000A01Fbc02sc00i00"
NVME = "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02"


def kernel(**files: str) -> KernelIndex:
    below = f"/lib/modules/{RELEASE}"
    names = {
        "alias": f"{below}/modules.alias",
        "dep": f"{below}/modules.dep",
        "builtin": f"{below}/modules.builtin",
        "modinfo": f"{below}/modules.builtin.modinfo",
        "softdep": f"{below}/modules.softdep",
        "config": f"/boot/config-{RELEASE}",
    }
    return KernelIndex.from_tree(MemoryTree({names[key]: text.encode() for key, text in files.items()}), RELEASE)


def test_a_pattern_of_the_modules_alias_file_makes_a_module() -> None:
    index = kernel(
        alias="alias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e\n", dep="kernel/drivers/net/e1000e.ko.xz:\n"
    )
    found = index.verdict(ChainLink(E1000E, "e1000e"))
    assert (found.verdict, found.modules) == (Verdict.MODULE, ("e1000e",))


def test_a_built_in_driver_has_no_alias_but_counts() -> None:
    index = kernel(builtin="kernel/drivers/nvme/host/nvme.ko\n")
    assert index.verdict(ChainLink(NVME, "nvme")).verdict is Verdict.BUILTIN
    assert index.verdict(ChainLink(NVME, "")).verdict is Verdict.BUILTIN, "the class alone says nvme"


def test_the_kernel_configuration_is_a_second_witness() -> None:
    assert kernel(config="CONFIG_BLK_DEV_NVME=y\n").verdict(ChainLink(NVME, "nvme")).verdict is Verdict.BUILTIN
    assert kernel(config="CONFIG_BLK_DEV_NVME=m\n").verdict(ChainLink(NVME, "nvme")).verdict is Verdict.ABSENT


PIIX = "pci:v00008086d00007010sv00001AF4sd00001100bc01sc01i80"


@pytest.mark.adapts("B1", "T1")
def test_of_several_drivers_the_one_that_is_bound_comes_first() -> None:
    index = kernel(
        alias="alias pci:v*d*sv*sd*bc01sc01i* ata_generic\nalias pci:v00008086d00007010sv*sd*bc*sc*i* ata_piix\n",
        dep="kernel/drivers/ata/ata_generic.ko:\nkernel/drivers/ata/ata_piix.ko:\n",
    )
    both = ("ata_generic", "ata_piix")
    assert index.verdict(ChainLink(PIIX, "ata_piix"), both).modules == ("ata_piix", "ata_generic")
    assert index.verdict(ChainLink(PIIX, "ata_generic"), both).modules == both
    assert set(index.verdict(ChainLink(PIIX, ""), both).modules) == set(both)


@pytest.mark.adapts("D3", "T1")
def test_a_driver_that_does_not_know_the_id_is_told_from_no_driver() -> None:
    index = kernel(dep="kernel/drivers/net/e1000e.ko:\n")
    assert index.verdict(ChainLink(E1000E, "e1000e")).verdict is Verdict.DRIVER_WITHOUT_ID
    assert index.verdict(ChainLink(E1000E, ""), ("e1000e",)).verdict is Verdict.DRIVER_WITHOUT_ID
    assert kernel(dep="").verdict(ChainLink(E1000E, "e1000e")).verdict is Verdict.ABSENT


def test_a_network_card_nobody_knows_is_absent_and_a_bridge_is_not() -> None:
    index = kernel(dep="")
    assert index.verdict(ChainLink(E1000E, "")).verdict is Verdict.ABSENT
    bridge = ChainLink("pci:v00008086d0000A340sv0sd0bc06sc04i00", "")
    assert index.verdict(bridge).verdict is Verdict.NOT_APPLICABLE
    named = ChainLink(bridge.modalias, "pcieport")
    assert index.verdict(named).verdict is Verdict.NOT_APPLICABLE
    assert index.verdict(ChainLink("acpi:PNP0A08:PNP0A03:", "")).verdict is Verdict.NOT_APPLICABLE


@pytest.mark.adapts("B1", "T1")
def test_the_closure_follows_hard_and_soft_dependencies() -> None:
    index = kernel(
        alias="alias fs-ext4 ext4\nalias scsi:t-0x00* sd_mod\n",
        dep="kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko\nkernel/fs/jbd2/jbd2.ko:\n"
        "kernel/drivers/scsi/sd_mod.ko: kernel/drivers/scsi/scsi_mod.ko\nkernel/drivers/scsi/scsi_mod.ko:\n"
        "kernel/arch/crc32c-intel.ko:\n",
        softdep="softdep jbd2 pre: crc32c-intel crypto-crc32c\n",
    )
    wanted = ("crc32c_intel", "ext4", "jbd2", "scsi_mod", "sd_mod")
    assert boot_modules(index, (ChainLink("scsi:t-0x00", "sd_mod"),), ("ext4",)) == wanted


def test_names_fold_dashes_and_sets_keep_them() -> None:
    assert module_name("kernel/crypto/crc32c-intel.ko.zst") == "crc32c_intel"
    assert fold_alias("snd-hda:[a-f]-x") == "snd_hda:[a-f]_x"


def test_a_component_is_an_index_too() -> None:
    component = Component(
        id="linux-image-x", version="1", kind="kernel", architecture="amd64", for_os="debian 12", package_format="deb",
        payload=(), kernel_release="x", modaliases=("pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e",),
        modules=("e1000e",), builtin=("nvme",),
    )  # fmt: skip
    index = KernelIndex.from_component(component)
    assert index.verdict(ChainLink(E1000E, "e1000e")).verdict is Verdict.MODULE
    assert index.verdict(ChainLink(NVME, "nvme")).verdict is Verdict.BUILTIN


def instance(pattern: str) -> str:
    """A concrete name that ``pattern`` matches: the shortest text for each star, the first of each set."""
    name, rest = "", pattern
    while rest:
        head, rest = rest[0], rest[1:]
        if head == "[":
            inside, _, rest = rest.partition("]")
            name += inside[0]
        elif head == "?":
            name += "0"
        elif head != "*":
            name += head
    return name


@pytest.mark.root
@pytest.mark.parametrize("flavour", ["amd64", "cloud-amd64"])
@pytest.mark.adapts("D1", "T1")
def test_match_equals_modprobe_over_every_alias(flavour: str) -> None:
    """Every pattern of modules.alias, made concrete, is resolved as ``modprobe -R`` resolves it."""
    root, release = unpacked_kernel(flavour)
    below = root / "lib/modules" / release
    files = {f"/lib/modules/{release}/{path.name}": path.read_bytes() for path in below.glob("modules.*")}
    index = KernelIndex.from_tree(MemoryTree(files), release)
    lines = (below / "modules.alias").read_text().splitlines()
    names = sorted({instance(line[6:].rpartition(" ")[0]) for line in lines if line.startswith("alias ")})
    names += [name.replace("00000000", "0000ABCD") for name in names[::50]]
    assert len(names) > 1000
    answers = modprobe(root, release, names)
    differing = {
        name: (set(index.match(name)), answer)
        for name, answer in zip(names, answers, strict=True)
        if set(index.match(name)) != answer
    }
    assert not differing, f"{len(differing)} of {len(names)} differ, e.g. {list(differing.items())[:3]}"


def modprobe(root: Path, release: str, names: list[str]) -> list[set[str]]:
    """What ``modprobe -R`` says of each name; a module's own name after each one tells the answers apart."""
    marker = "zram"
    found: list[set[str]] = []
    for start in range(0, len(names), 200):
        batch = names[start : start + 200]
        words = [word for name in batch for word in (name, marker)]
        command = ["modprobe", "-C", "/dev/null", "-d", str(root), "-S", release, "-a", "-R", "--", *words]
        text = run(command, accept=(0, 1)).stdout.split()
        groups: list[set[str]] = [set()]
        for word in text:
            if word == marker:
                groups.append(set())
            else:
                groups[-1].add(word)
        assert len(groups) == len(batch) + 1
        found += groups[:-1]
    return found
