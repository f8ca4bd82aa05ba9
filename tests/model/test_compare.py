"""The difference and what recipes make of it: the demo's case, and every refusal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.model.compare import compare
from agent.model.difference import Difference, Item, Op, Tier, Verdict
from agent.model.profile import Address, Firmware, Kernel, Network, NetworkConfig, Nic, Platform
from agent.model.recipe import AddTo, BoundRecipe, EditMounts, Install, RemovePackage, Request, Write
from agent.model.recipe_match import bind_all
from agent.model.situation import Situation
from agent.model.storage import ChainLink, Disk
from agent.restore.recipe_folder import read_recipes
from tests.model.machines_of_tests import (
    DISK,
    E1000E,
    ESP_UUID,
    FSTAB,
    FULL,
    FULL_ALIASES,
    NEW_MAC,
    OLD_MAC,
    ROOT_UUID,
    SWAP_UUID,
    THIN,
    THIRD_MAC,
    component,
    kernel_files,
    metapackage,
    nic,
    situation,
    source,
    target,
)

RECIPES = read_recipes()
KERNEL = component(f"linux-image-{FULL}")


def decided(case: Situation) -> tuple[dict[str, BoundRecipe], Difference]:
    bound, difference = bind_all(RECIPES, compare(case), case)
    return {recipe.id: recipe for recipe in bound}, difference


def of_kind(difference: Difference, kind: str) -> list[Item]:
    return [item for item in difference.items if item.kind == kind]


@pytest.mark.adapts("B1", "B3", "B12", "B13", "D1", "N1", "T1")
def test_the_demo_case_is_handled_whole() -> None:
    """Cloud kernel, virtio, BIOS → NVMe, e1000e, UEFI, with the generic kernel in the depot."""
    recipes, difference = decided(situation(components=(KERNEL, metapackage())))
    assert difference.blockers == ()
    assert [item.verdict for item in of_kind(difference, "device")][:2] == [Verdict.BUILTIN, Verdict.ABSENT]
    install = recipes["kernel.install-flavour"].operations
    assert install == (
        Install(component=f"linux-image-{FULL}", version="6.1.9-1"),
        Install(component="linux-image-amd64", version="6.1.9-1"),
        RemovePackage(package="linux-image-cloud-amd64"),
        RemovePackage(package=f"linux-image-{THIN}"),
    )
    assert {"initramfs.boot-drivers", "loader.uefi", "net.keep-names", "storage.fstab"} <= recipes.keys()
    requests = [op for op in recipes["initramfs.boot-drivers"].operations if isinstance(op, Request)]
    assert requests == [Request(what="initramfs", modules=("ext4", "nvme"))]
    rules = [op for op in recipes["net.keep-names"].operations if isinstance(op, Write)]
    assert NEW_MAC in rules[0].lines[0] and 'NAME="ens3"' in rules[0].lines[0]
    added = [op for op in recipes["storage.fstab"].operations if isinstance(op, EditMounts)]
    assert [op.value for op in added] == [f"UUID={ESP_UUID} /boot/efi vfat umask=0077 0 1"]


@pytest.mark.adapts("B3", "D1", "T5")
def test_without_a_kernel_in_the_depot_the_restore_is_blocked_and_says_why() -> None:
    _, difference = decided(situation())
    assert [(item.kind, item.key) for item in difference.blockers] == [("device", E1000E)]
    assert f"{THIN} has no e1000e" in difference.blockers[0].reason


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"architecture": "arm64"}, "it is for arm64"),
        ({"for_os": "ubuntu"}, "it is for ubuntu"),
        ({"package_format": "rpm"}, "it is a rpm package"),
        ({"depends": ("linux-base (>= 5)",)}, "neither image nor depot has linux-base (>= 5)"),
        ({"modaliases": (), "modules": ("nvme",)}, "it does not drive"),
    ],
)
def test_an_unfit_kernel_of_the_depot_is_passed_over_with_the_reason(change: dict[str, Any], why: str) -> None:
    _, difference = decided(situation(components=(replace(KERNEL, **change),)))
    (blocker,) = difference.blockers
    assert any(why in text for _, text in blocker.evidence), blocker.evidence


@pytest.mark.adapts("B3", "T1")
def test_of_two_fit_kernels_the_one_of_the_images_version_wins() -> None:
    newer = component("linux-image-6.12", version="6.12.1-1", kernel_release="6.12-amd64")
    difference = compare(situation(components=(newer, KERNEL)))
    (kernel,) = of_kind(difference, "kernel")
    assert kernel.target == f"linux-image-{FULL}"
    assert ("component", f"linux-image-6.12: linux-image-{FULL} was preferred") in kernel.evidence


@pytest.mark.adapts("B3", "T1")
def test_another_kernel_of_the_image_is_preferred_to_one_of_the_depot() -> None:
    kernels = (*source().os.kernels, Kernel(FULL, "amd64", f"linux-image-{FULL}", "/boot/v", "/boot/i"))
    files = kernel_files(FULL, FULL_ALIASES, "virtio_net virtio_blk ext4 nvme e1000e")
    case = situation(files, source=source(os=replace(source().os, kernels=kernels)), components=(KERNEL,))
    recipes, difference = decided(case)
    assert difference.blockers == ()
    assert "kernel.install-flavour" not in recipes
    removed = [op.package for op in recipes["kernel.prefer-installed"].operations if isinstance(op, RemovePackage)]
    assert removed == ["linux-image-cloud-amd64", f"linux-image-{THIN}"]


def test_the_same_hardware_needs_no_kernel_and_no_names() -> None:
    chain = (ChainLink("virtio:d00000002v00001AF4", "virtio_blk"),)
    card = nic(OLD_MAC, "virtio_net", modalias="virtio:d00000001v00001AF4")
    same = target(platform=Platform(firmware=Firmware.BIOS), network=Network(nics=(card,)))
    recipes, difference = decided(situation(target=same, disk=replace(DISK, chain=chain)))
    assert difference.blockers == ()
    assert not {"kernel.install-flavour", "net.keep-names", "loader.uefi"} & recipes.keys()
    assert "loader.bios" in recipes


@pytest.mark.adapts("N2", "T1")
def test_of_two_cards_the_one_with_a_link_takes_the_address() -> None:
    cards = (nic(THIRD_MAC, link="down"), nic(NEW_MAC))
    difference = compare(situation(target=target(network=Network(nics=cards)), components=(KERNEL,)))
    (mapped,) = [item for item in of_kind(difference, "nic") if item.op is Op.MAP]
    assert (mapped.source, mapped.target) == ("ens3", NEW_MAC)


@pytest.mark.adapts("N1", "T1")
def test_a_kernel_name_is_not_given_by_rule_where_another_card_can_hold_it() -> None:
    old = Nic(OLD_MAC, "eth0", addresses=(Address("10.0.0.5/24"),))
    case = situation(
        source=source(network=Network(nics=(old,))),
        target=target(network=Network(nics=(nic(NEW_MAC), nic(THIRD_MAC)))),
        components=(KERNEL,),
    )
    recipes, _ = decided(case)
    assert "net.kernel-names" in recipes and "net.keep-names" not in recipes
    alone, _ = decided(replace(case, target=target()))
    assert "net.keep-names" in alone and "net.kernel-names" not in alone


@pytest.mark.adapts("N2", "T1")
def test_no_card_for_a_configured_address_blocks() -> None:
    _, difference = decided(situation(target=target(network=Network()), components=(KERNEL,)))
    assert "out of reach" in difference.blockers[0].reason


@pytest.mark.adapts("N1", "T1")
def test_an_offline_image_is_mapped_by_its_configuration() -> None:
    configs = (NetworkConfig("ifupdown", "/etc/network/interfaces", interfaces=("lo", "ens3", "br0", "ens3.5")),)
    case = situation(source=source(network=Network(configs=configs)), components=(KERNEL,))
    mapped = [item for item in compare(case).items if item.op is Op.MAP and item.kind == "nic"]
    assert [(item.source, item.target, item.tier) for item in mapped] == [("ens3", NEW_MAC, Tier.MUST)]


@pytest.mark.adapts("N3", "N5", "T1")
def test_rules_for_absent_cards_go_and_bindings_move() -> None:
    configs = (
        NetworkConfig("udev", "/etc/udev/rules.d/70-persistent-net.rules", macs=(OLD_MAC, "52:54:00:00:00:99")),
        NetworkConfig("netplan", "/etc/netplan/01.yaml", interfaces=("ens3",), macs=(OLD_MAC.upper(),)),
    )
    base = source()
    case = situation(source=replace(base, network=replace(base.network, configs=configs)), components=(KERNEL,))
    recipes, difference = decided(case)
    found = [(item.op, item.source, item.target) for item in of_kind(difference, "config")]
    assert found == [
        (Op.REMOVE, "52:54:00:00:00:99", ""),
        (Op.REMOVE, OLD_MAC, ""),
        (Op.CHANGE, OLD_MAC, NEW_MAC),
    ]
    assert {"net.persistent-leftovers", "net.rebind-mac"} <= recipes.keys()
    assert not difference.blockers


@pytest.mark.adapts("B4", "B18", "T1")
def test_fstab_lines_are_led_to_what_will_be_there() -> None:
    fstab = (
        "/dev/vda2 / ext4 defaults 0 1\n/dev/vda3 none swap sw 0 0\nUUID=dead /mnt/old xfs defaults 0 2\n"
        "/dev/sr0 /media/cd iso9660 noauto 0 0\nnas:/x /nas nfs defaults 0 0\ntmpfs /tmp tmpfs defaults 0 0\n"
        "/swapfile none swap sw 0 0\nLABEL=gone none swap sw 0 0\n"
    )
    recipes, difference = decided(situation({"/etc/fstab": fstab}, components=(KERNEL,)))
    mounts = [(item.op, item.key, item.target) for item in of_kind(difference, "mount")]
    assert mounts == [
        (Op.CHANGE, "/", f"UUID={ROOT_UUID}"),
        (Op.REMOVE, "/mnt/old", ""),
        (Op.ADD, "/boot/efi", f"UUID={ESP_UUID}"),
    ]
    swaps = [(item.op, item.key, item.target) for item in of_kind(difference, "swap")]
    assert swaps[0] == (Op.CHANGE, "/dev/vda3", f"UUID={SWAP_UUID}")
    assert swaps[1] == (Op.REMOVE, "/swapfile", "")
    assert {"storage.fstab", "storage.swap"} <= recipes.keys()
    assert not difference.blockers


@pytest.mark.adapts("B18", "T1")
def test_a_root_that_the_image_does_not_bring_blocks() -> None:
    _, difference = decided(situation({"/etc/fstab": "UUID=other /usr ext4 defaults 0 1\n"}, components=(KERNEL,)))
    (blocker,) = difference.blockers
    assert blocker.op is Op.BLOCK and blocker.key == "/usr"


@pytest.mark.adapts("B6", "T1")
@pytest.mark.adapts("B4", "T1")
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (f"/dev/zram0 none swap sw 0 0\nUUID={SWAP_UUID} none swap sw 0 0\n", {}),
        (f"/dev/sdb1 none swap sw 0 0\nUUID={SWAP_UUID} none swap sw 0 0\n", {"/dev/sdb1": ""}),
        ("/dev/sdb1 none swap sw 0 0\n/dev/vda3 none swap sw 0 0\n",
         {"/dev/sdb1": "", "/dev/vda3": f"UUID={SWAP_UUID}"}),
        ("/dev/zram0 none swap sw 0 0\n/dev/sdb1 none swap sw 0 0\nLABEL=x none swap sw 0 0\n",
         {"/dev/sdb1": f"UUID={SWAP_UUID}", "LABEL=x": ""}),
    ],
    ids=["zram", "another-disk", "named-by-place", "first-of-two"],
)  # fmt: skip
def test_one_swap_gets_one_line(lines: str, expected: dict[str, str]) -> None:
    _, difference = decided(situation({"/etc/fstab": f"UUID={ROOT_UUID} / ext4 defaults 0 1\n{lines}"}))
    assert {item.key: item.target for item in of_kind(difference, "swap")} == expected


def test_resume_from_an_absent_swap_is_dropped_and_from_a_planned_one_is_kept() -> None:
    files = {"/etc/initramfs-tools/conf.d/resume": "RESUME=UUID=dead\n"}
    recipes, _ = decided(situation(files, components=(KERNEL,)))
    assert "storage.resume" in recipes
    files = {"/etc/initramfs-tools/conf.d/resume": f"RESUME=UUID={SWAP_UUID}\n"}
    assert "storage.resume" not in decided(situation(files, components=(KERNEL,)))[0]


@pytest.mark.adapts("B20", "T1")
def test_console_words_of_the_running_command_line_are_kept() -> None:
    recipes, difference = decided(situation(components=(KERNEL,)))
    assert "console.serial-kept" not in recipes
    assert of_kind(difference, "console")[0].handled_by == ("preserved",)
    recipes, _ = decided(situation({"/etc/default/grub": "GRUB_TIMEOUT=1\n"}, components=(KERNEL,)))
    words = [op.word for op in recipes["console.serial-kept"].operations if isinstance(op, AddTo)]
    assert words == ["console=ttyS0"]


@pytest.mark.adapts("I1", "I2", "T1")
def test_identity_changes_in_clone_mode_only() -> None:
    files = {"/etc/machine-id": "x\n", "/etc/ssh/ssh_host_rsa_key": "s", "/etc/ssh/ssh_host_rsa_key.pub": "p"}
    restore, _ = decided(situation(files, components=(KERNEL,)))
    assert not [name for name in restore if name.startswith("identity.")]
    clone, difference = decided(situation(files, components=(KERNEL,), mode="clone", name="web2"))
    assert {"identity.clone-machine-id", "identity.clone-ssh-host-keys", "identity.clone-hostname"} <= clone.keys()
    assert not difference.blockers
    assert any(item.key == "static addresses" and item.tier is Tier.SHOULD for item in difference.items)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"target": target(platform=Platform(architecture="aarch64", firmware=Firmware.UEFI))}, "platform"),
        ({"target": target(platform=Platform(firmware=Firmware.UNKNOWN))}, "firmware"),
        ({"source": source(os=replace(source().os, loader="systemd-boot"))}, "loader"),
    ],
)
def test_what_nothing_can_mend_blocks(changes: dict[str, Any], kind: str) -> None:
    _, difference = decided(situation(components=(KERNEL,), **changes))
    assert [item.kind for item in difference.blockers] == [kind]


@pytest.mark.adapts("B17", "T1")
def test_a_processor_below_the_distributions_level_blocks() -> None:
    os = replace(source().os, id="rhel", version="9.4", package_format="rpm")
    difference = compare(situation(source=source(os=os)))
    (blocked,) = [item for item in difference.items if item.op is Op.BLOCK]
    assert (blocked.kind, blocked.source, blocked.target) == ("cpu", "x86-64-v2", "x86-64-v1")


@pytest.mark.adapts("B16", "T1")
def test_other_sectors_are_no_obstacle_for_trees_and_one_for_blocks() -> None:
    big = Disk("sda", 6 << 30, 4096, 4096, chain=DISK.chain)
    case = situation(disk=big, components=(KERNEL,))
    assert not decided(case)[1].blockers
    volume = replace(case.manifest.volumes[0], kind="blocks")
    blocked = replace(case, manifest=replace(case.manifest, volumes=(volume,)))
    assert [item.kind for item in decided(blocked)[1].blockers] == ["sector-size"]


@pytest.mark.adapts("B24", "T1")
@pytest.mark.parametrize(("count", "told"), [(-1, 0), (0, 1), (1, 0), (3, 0)])
def test_firmware_that_reads_no_disk_is_told_of_and_blocks_nothing(count: int, told: int) -> None:
    platform = replace(target().platform, firmware_disks=count)
    _, difference = decided(situation(components=(KERNEL,), target=target(platform=platform)))
    found = [item for item in of_kind(difference, "firmware") if item.key == "disks"]
    assert len(found) == told
    assert all("read no disk" in item.reason and not item.handled_by for item in found)
    assert not difference.blockers


def test_every_item_has_a_reason_and_a_number() -> None:
    difference = compare(situation({"/etc/fstab": FSTAB}, components=(KERNEL,)))
    assert [item.id for item in difference.items] == [f"d{n + 1}" for n in range(len(difference.items))]
    assert all(item.reason for item in difference.items)


@pytest.mark.adapts("D2", "T1")
def test_missing_firmware_is_taken_from_a_component_and_never_blocks() -> None:
    hungry = replace(KERNEL, needs_firmware=("e1000e/a.fw e1000e", "e1000e/b.fw e1000e", "other.fw other"))
    firmware = component("firmware-e", kind="firmware", kernel_release="", modules=(), modaliases=(),
                         firmware=("e1000e/b.fw.xz",))  # fmt: skip
    recipes, difference = decided(situation(components=(hungry, firmware)))
    (found,) = of_kind(difference, "firmware-file")
    assert (found.key, found.source, found.target) == ("e1000e/b.fw", "e1000e", "firmware-e")
    assert Install(component="firmware-e", version="6.1.9-1") in recipes["firmware.install"].operations
    _, difference = decided(situation(components=(hungry,)))
    assert of_kind(difference, "firmware-file")[0].target == "" and not difference.blockers
    present = situation({"/lib/firmware/e1000e/a.fw.zst": "x"}, components=(hungry,))
    assert not of_kind(compare(present), "firmware-file")
