"""The RHEL family and SUSE on trees laid out as theirs are: what is decided, and what becomes of their files (T1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.model import bls, edits
from agent.model.compare import compare
from agent.model.component_fit import unfit
from agent.model.difference import Item, Op
from agent.model.image import Component
from agent.model.planner import EFI_FOLDERS
from agent.model.profile import Firmware, Kernel, OperatingSystem, Package, Platform
from agent.model.recipe import AddTo, DropFrom, Install, Request
from agent.model.recipe_match import bind_all
from agent.model.recipe_test import apply
from agent.model.situation import CLONE, Situation
from agent.model.tree import MemoryTree
from agent.restore.recipe_folder import read_recipes
from tests.model.machines_of_tests import ROOT_UUID, THIN, THIN_FILES, component, situation, source, target

EL = "5.14.0-427.el9.x86_64"
ID = "0123456789abcdef0123456789abcdef"
ENTRY = f"/boot/loader/entries/{ID}-{EL}.conf"
GRUBENV = f"# GRUB Environment Block\nsaved_entry={ID}-{EL}\nkernelopts=root=UUID={ROOT_UUID} ro resume=UUID=gone\n"
FILES = {
    "/etc/machine-id": f"{ID}\n",
    ENTRY: f"title Rocky\nversion {EL}\nlinux /boot/vmlinuz-{EL}\ninitrd /boot/initramfs-{EL}.img $tuned_initrd\n"
    f"options root=UUID={ROOT_UUID} ro resume=UUID=dead console=ttyS0,115200 $kernelopts\n",
    "/boot/loader/entries/x-0-rescue.conf": "options root=UUID=old\n",
    "/boot/grub2/grubenv": GRUBENV + "#" * (1024 - len(GRUBENV)),
    f"/boot/initramfs-{EL}kdump.img": "host-only",
    "/etc/selinux/config": "# x\nSELINUX=enforcing\n",
    "/etc/lvm/devices/system.devices": "IDTYPE=sys_wwid",
}
SHIPPED = read_recipes()


def el(system: str = "rocky", version: str = "9.4", level: int = 2, **more: Any) -> Situation:
    files = {path.replace(THIN, EL): text.replace(THIN, EL) for path, text in THIN_FILES.items()}
    own = source(os=OperatingSystem(
        id=system, version=version, name=system, package_format="rpm", loader="grub2", initrd_tool="dracut",
        kernels=(Kernel(EL, "", "kernel-core", f"/boot/vmlinuz-{EL}", f"/boot/initramfs-{EL}.img", True),),
    ), packages=())  # fmt: skip
    iron = target(platform=Platform(firmware=Firmware.UEFI, system_vendor="ACME", cpu_level=level, system_uuid="u-1"))
    tree = {path: text.encode() for path, text in {**files, **FILES}.items()}
    return replace(situation(source=own, target=iron, **more), tree=MemoryTree(tree))


def items(case: Situation, kind: str) -> list[Item]:
    return [item for item in compare(case).items if item.kind == kind]


def patched(case: Situation) -> tuple[dict[str, str], list[str], set[str]]:
    """(the files after every recipe that applies, their recipes, what was requested)."""
    bound, _ = bind_all(SHIPPED, compare(case), case)
    operations = [operation for recipe in bound for operation in recipe.operations]
    after = apply(operations, FILES)
    return after, [one.id for one in bound], {one.what for one in operations if isinstance(one, Request)}


# --- boot entries -----------------------------------------------------------------------------------------------------


def test_the_words_of_entries_and_of_the_environment_they_refer_to() -> None:
    tree = el().tree
    words = bls.entry_words(tree)
    assert words == [f"root=UUID={ROOT_UUID}", "ro", "resume=UUID=dead", "console=ttyS0,115200", "resume=UUID=gone"]
    assert bls.entry_machine_id(tree) == ID
    assert bls.named_files(FILES[ENTRY]) == (f"/boot/vmlinuz-{EL}", f"/boot/initramfs-{EL}.img")


@pytest.mark.adapts("B6", "T1")
def test_no_place_names_a_swap_that_is_gone() -> None:
    after, _, requested = patched(el())
    assert "resume=" not in after[ENTRY] and after[ENTRY].endswith("console=ttyS0,115200 $kernelopts\n")
    assert "resume=" not in after["/boot/grub2/grubenv"] and len(after["/boot/grub2/grubenv"]) == 1024
    assert "initramfs" in requested


@pytest.mark.adapts("B20", "T1")
def test_words_are_added_to_and_dropped_from_every_form() -> None:
    add, drop = AddTo(path=ENTRY, key="options", word="quiet"), DropFrom(path=ENTRY, key="options", word="console=*")
    once = edits.edit(add, FILES[ENTRY])
    assert once is not None and once.endswith("$kernelopts quiet\n") and edits.edit(add, once) == once
    gone = edits.edit(drop, FILES[ENTRY])
    assert gone is not None and "console=" not in gone and "title Rocky" in gone
    block = FILES["/boot/grub2/grubenv"]
    more = edits.edit(AddTo(path="/boot/grub2/grubenv", key="kernelopts", word="quiet"), block)
    assert more is not None and len(more) == 1024 and "gone quiet\n#" in more
    assert edits.edit(AddTo(path="/boot/grub2/grubenv", key="absent", word="x"), block) == block


@pytest.mark.adapts("B15", "T1")
@pytest.mark.adapts("I1", "T1")
def test_a_clones_entries_are_named_by_its_own_machine_id() -> None:
    after, recipes, _ = patched(el(mode=CLONE, name="two"))
    own = after["/etc/machine-id"].strip()
    assert own != ID and len(own) == 32 and "identity.clone-machine-id" not in recipes
    assert f"/boot/loader/entries/{own}-{EL}.conf" in after and ENTRY not in after
    assert f"saved_entry={own}-{EL}" in after["/boot/grub2/grubenv"] and len(after["/boot/grub2/grubenv"]) == 1024
    again, _, _ = patched(el(mode=CLONE, name="two"))
    other, _, _ = patched(el(mode=CLONE, name="three"))
    assert again["/etc/machine-id"] == after["/etc/machine-id"] != other["/etc/machine-id"]
    kept, _, _ = patched(el())
    assert kept["/etc/machine-id"].strip() == ID and ENTRY in kept, "a restore keeps its identity"


@pytest.mark.adapts("B15", "T1")
def test_a_new_kernels_entry_gets_the_images_command_line_not_that_of_the_medium() -> None:
    newer = component("kernel-core", version="5.14.0-503.el9", architecture="x86_64", package_format="rpm",
                      for_os="rocky 9", kernel_release="5.14.0-503.el9.x86_64", depends=())  # fmt: skip
    after, recipes, _ = patched(el(components=(newer,)))
    assert {"kernel.command-line", "kernel.install-flavour"} <= set(recipes)
    assert after["/etc/kernel/cmdline"].startswith(f"root=UUID={ROOT_UUID} ro ")
    assert "resume=" not in after["/etc/kernel/cmdline"]


# --- the loader -------------------------------------------------------------------------------------------------------


def loader(name: str, **more: Any) -> Component:
    given = {"kind": "other", "version": "15.8-4", "architecture": "x86_64", "package_format": "rpm",
             "for_os": "rocky 9", "kernel_release": "", "modules": (), "modaliases": (), "depends": ()}  # fmt: skip
    return component(name, **{**given, **more})


@pytest.mark.adapts("B12", "T1")
def test_from_bios_to_uefi_without_the_loaders_is_blocked_with_what_to_add() -> None:
    """Late it would fail with the disk erased: the medium's GRUB does not read boot entries as files."""
    _, difference = bind_all(SHIPPED, compare(el()), el())
    (blocker,) = (item for item in difference.blockers if item.kind == "loader-required")
    assert "add shim-x64 and grub2-efi-x64 of rocky 9.4 to the depot with ‘regraft component add’" in blocker.reason
    half = el(components=(loader("shim-x64"), loader("grub2-efi-x64", for_os="rocky 8")))
    (blocker,) = (item for item in compare(half).blockers if item.kind == "loader-required")
    assert blocker.key == "grub2-efi-x64" and "grub2-efi-x64 15.8-4: it is for rocky 8" in blocker.reason


@pytest.mark.adapts("B12", "T1")
def test_from_bios_to_uefi_the_loaders_come_from_the_depot() -> None:
    case = el(components=(loader("shim-x64"), loader("grub2-efi-x64")))
    bound, difference = bind_all(SHIPPED, compare(case), case)
    assert not [item for item in difference.blockers if item.kind == "loader-required"]
    (own,) = (one for one in bound if one.id == "loader.required")
    assert [op.component for op in own.operations if isinstance(op, Install)] == ["shim-x64", "grub2-efi-x64"]


@pytest.mark.adapts("B12", "T1")
def test_nothing_is_required_where_the_image_has_loaders_or_bios_starts_it() -> None:
    folder = "/boot/efi/EFI/rocky"
    case = el()
    assert isinstance(case.tree, MemoryTree)
    files = {path: case.tree.read_bytes(path) for path in FILES}
    with_own = replace(case, tree=MemoryTree({**files, f"{folder}/shimx64.efi": b"x", f"{folder}/grubx64.efi": b"x"}))
    assert not items(with_own, "loader-required")
    alone = replace(case, tree=MemoryTree({**files, f"{folder}/shimx64.efi": b"x", "/usr/lib64/efi/grub.efi": b"x"}))
    assert items(alone, "loader-required"), "shim and GRUB of different makers do not trust each other"
    bios = replace(case, target=replace(case.target, platform=Platform(firmware=Firmware.BIOS, cpu_level=2)))
    (blocker,) = (item for item in compare(bios).blockers if item.kind == "loader-required")
    assert "add grub2-pc-modules and grub2-pc of rocky 9.4 to the depot" in blocker.reason, "blscfg is not Debian's"
    modules = MemoryTree({**files, "/usr/lib/grub/i386-pc/kernel.img": b"x"})
    assert not items(replace(bios, tree=modules), "loader-required")
    entries = {path: data for path, data in files.items() if "/loader/entries/" not in path}
    assert not items(replace(case, tree=MemoryTree(entries)), "loader-required"), "the medium's GRUB starts it"


# --- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.adapts("B7", "T1")
@pytest.mark.adapts("B21", "T1")
@pytest.mark.adapts("C1", "T1")
def test_what_is_bound_to_the_old_disk_goes_and_labels_are_asked_for() -> None:
    after, recipes, requested = patched(el())
    assert "/etc/lvm/devices/system.devices" not in after and f"/boot/initramfs-{EL}kdump.img" not in after
    assert {"initramfs", "bootloader", "relabel"} <= requested
    assert "storage.lvm-devices" in recipes


@pytest.mark.adapts("B17", "T1")
@pytest.mark.parametrize(
    ("system", "version", "level", "blocked"),
    [("rocky", "9.4", 1, True), ("rhel", "9.4", 2, False), ("rhel", "10.0", 2, True), ("almalinux", "10.0", 2, False),
     ("rhel", "8.9", 1, False), ("opensuse-leap", "15.6", 1, False), ("opensuse-leap", "16.0", 1, True)],
)  # fmt: skip
def test_a_processor_below_what_the_system_is_built_for(system: str, version: str, level: int, blocked: bool) -> None:
    found = [item for item in items(el(system, version, level), "cpu") if item.op is Op.BLOCK]
    assert bool(found) is blocked


@pytest.mark.adapts("B3", "T1")
def test_suse_base_kernel_gives_way_to_the_full_one() -> None:
    """kernel-default-base and kernel-default hold the same files."""
    release = "6.4.0-150600.23.7-default"
    files = {path.replace(THIN, release): text.replace(THIN, release) for path, text in THIN_FILES.items()}
    full: Component = component(
        "kernel-default", version="6.4.0-150600.23.7.3", architecture="x86_64", package_format="rpm", for_os="sles",
        kernel_release=release, depends=(),
    )  # fmt: skip
    base = el("sles", "15.6", components=(full,))
    kernels = (
        Kernel(release, "default", "kernel-default-base", f"/boot/vmlinuz-{release}", f"/boot/initrd-{release}", True),
    )

    own = replace(base.source, os=replace(base.source.os, kernels=kernels),
                  packages=(Package("kernel-default-base", "x86_64", "6.4.0-150600.23.7.3.150600.12"),))  # fmt: skip
    case = replace(base, source=own, tree=MemoryTree({path: text.encode() for path, text in files.items()}))
    bound, difference = bind_all(SHIPPED, compare(case), case)
    assert difference.blockers == ()
    did = [type(op).__name__ for one in bound for op in one.operations if one.phase in ("remove", "install")]
    assert did[:2] == ["RemovePackage", "Install"]


@pytest.mark.adapts("D1", "T1")
@pytest.mark.parametrize(
    ("system", "version", "wanted", "fits"),
    [("opensuse-leap", "15.6", "sles", True), ("opensuse-leap", "15.6", "sles 15", True),
     ("opensuse-leap", "16.0", "sles 15", False), ("sles", "15.6", "opensuse-leap", False),
     ("opensuse-tumbleweed", "20261101", "sles", False), ("rocky", "9.4", "el 9", True), ("ol", "8.9", "el 9", False),
     ("fedora", "40", "el 9", False), ("rocky", "9.4", "rhel 9", False)],
)  # fmt: skip
def test_packages_that_several_systems_take(system: str, version: str, wanted: str, fits: bool) -> None:
    why = unfit(component("card", architecture="noarch", package_format="rpm", for_os=wanted), el(system, version))
    told = f"it is for {wanted}, the image is {system} {version} (if that is wrong, add it again with --for-os)"
    assert why == ("" if fits else told)


def test_folders_of_the_efi_system_partition() -> None:
    assert EFI_FOLDERS["rhel"] == "redhat" and EFI_FOLDERS["opensuse-leap"] == "opensuse"


@pytest.mark.adapts("B4", "T1")
def test_boot_entries_name_the_root_of_the_new_disk() -> None:
    moved = {path: text.replace(f"root=UUID={ROOT_UUID}", "root=/dev/vda2") for path, text in FILES.items()}
    case = replace(el(), tree=MemoryTree({path: text.encode() for path, text in moved.items()}))
    bound, difference = bind_all(SHIPPED, compare(case), case)
    (item,) = (one for one in difference.items if one.kind == "root-option")
    assert item.target == f"root=UUID={ROOT_UUID}" and item.handled_by == ("storage.root-option",)
    after = apply([operation for one in bound for operation in one.operations], moved)
    assert f"root=UUID={ROOT_UUID}" in after[ENTRY] and "/dev/vda2" not in after[ENTRY]
    assert not items(el(), "root-option"), "what the disk has stays"
