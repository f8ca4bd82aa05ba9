"""Words of the kernel command line that name arrays, encrypted devices and volume groups: those that are not there go,
whatever form they are written in; those that are made, or stay, are kept; and what dracut needs to be told is added."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.model.compare import compare
from agent.model.compare_opened import names
from agent.model.difference import Item, Op, Tier
from agent.model.image import Manifest
from agent.model.recipe_match import bind_all
from agent.model.recipe_test import apply
from agent.model.situation import Situation
from agent.model.stack_layout import KEEP, PLAIN
from agent.model.storage import Disk, FileSystem, Stack
from agent.model.tree import MemoryTree
from agent.restore.recipe_folder import read_recipes
from tests.model.machines_of_tests import component
from tests.model.stacks_of_tests import ARRAY_UUID, GIB, LUKS_UUID, group, laid, on_luks, on_lvm, on_raid
from tests.model.test_families import ENTRY, el

RECIPES = read_recipes()
MD = f"rd.md.uuid={ARRAY_UUID}"
GRUBENV = "# GRUB Environment Block\nkernelopts=root=UUID=1 ro {}\n"


def laid_out(image: Manifest, words: str, arrays: str = PLAIN, **more: str) -> Situation:
    """Rocky of that image on one disk; the words stand wherever it keeps its command line."""
    layout = laid(image, 20 * GIB, arrays)
    case = el()
    files = {
        "/etc/fstab": "UUID=11111111-2222-4333-8444-00000000006f / ext4 defaults 0 1\n",
        "/etc/default/grub": f'GRUB_CMDLINE_LINUX="crashkernel=auto {words} rhgb"\n',
        ENTRY: f"title Rocky\noptions root=UUID=11111111-2222-4333-8444-00000000006f ro {words} rhgb\n",
        "/etc/kernel/cmdline": f"root=UUID=11111111-2222-4333-8444-00000000006f ro {words} rhgb\n",
        **more,
    }
    assert isinstance(case.tree, MemoryTree)
    kept = {path: data for path, data in case.tree.files.items() if path.startswith("/lib/modules/")}
    return replace(
        case, manifest=image, partitions=layout.partitions, filesystems=layout.filesystems, stack=layout.stack,
        tree=MemoryTree({**kept, **{path: text.encode() for path, text in files.items() if text}}),
    )  # fmt: skip


def words_of(case: Situation, op: Op) -> list[Item]:
    _, difference = bind_all(RECIPES, compare(case), case)
    found = [item for item in difference.items if (item.kind, item.op, item.tier) == ("cmdline", op, Tier.MUST)]
    assert all(item.handled_by == ("storage.command-line",) for item in found)
    return found


def patched(case: Situation) -> dict[str, str]:
    bound, _ = bind_all(RECIPES, compare(case), case)
    assert isinstance(case.tree, MemoryTree)
    files = {path: data.decode() for path, data in case.tree.files.items()}
    return apply([operation for recipe in bound for operation in recipe.operations], files)


@pytest.mark.adapts("B9", "B20", "T1")
def test_an_array_that_becomes_a_plain_partition_is_named_nowhere() -> None:
    environment = GRUBENV.format(MD)
    case = laid_out(on_raid(lvm=False), MD, **{"/boot/grub2/grubenv": environment + "#" * (1024 - len(environment))})
    assert [item.source for item in words_of(case, Op.REMOVE)] == [MD]
    after = patched(case)
    assert not [path for path, text in after.items() if "rd.md.uuid" in text]
    assert after["/etc/default/grub"] == 'GRUB_CMDLINE_LINUX="crashkernel=auto rhgb"\n'
    assert after["/boot/grub2/grubenv"].startswith("# GRUB Environment Block\nkernelopts=root=UUID=1 ro\n")


@pytest.mark.adapts("B9", "B20", "T1")
def test_words_of_what_is_made_stay_whatever_they_look_like() -> None:
    array = f"{MD} rd.md.uuid={ARRAY_UUID.replace(':', '').upper()} rd.md.uuid=a3ba06fe-5cfe7bf4-e2581feb-df9a4a6a"
    assert words_of(laid_out(on_raid(lvm=False), array, KEEP), Op.REMOVE) == []
    inner = "rd.lvm.lv=debian-vg/root rd.lvm.lv=debian-vg/swap_1 rd.lvm.vg=debian-vg"
    outer = f"rd.luks.uuid=luks-{LUKS_UUID} rd.luks.uuid={LUKS_UUID[:8]} rd.luks.name={LUKS_UUID}=vda3_crypt"
    assert words_of(laid_out(on_luks(), f"{inner} {outer}"), Op.REMOVE) == []


@pytest.mark.adapts("B20", "T1")
@pytest.mark.parametrize(
    "word",
    [MD, f"rd.luks.uuid=luks-{LUKS_UUID}", f"luks.uuid={LUKS_UUID}", f"rd.luks.name={LUKS_UUID}=root",
     "rd.lvm.lv=rl/root", "rd.lvm.lv=debian-vg/gone", "rd.lvm.vg=rl"],
)  # fmt: skip
def test_a_word_of_what_is_not_made_goes(word: str) -> None:
    assert [item.source for item in words_of(laid_out(on_lvm(), f"rd.lvm.lv=debian-vg/root {word}"), Op.REMOVE)] == [
        word
    ]


@pytest.mark.parametrize("word", ["rd.luks.uuid=keysource:dead", "rd.md=0", "rd.lvm.conf=0", "rd.md.uuid", "mem=1G"])
def test_other_words_are_not_judged(word: str) -> None:
    assert words_of(laid_out(on_lvm(), f"rd.lvm.lv=debian-vg/root {word}"), Op.REMOVE) == []


def test_words_of_disks_that_stay_and_of_blocks_are_kept() -> None:
    member = FileSystem("linux_raid_member", "a3ba06fe-5cfe-7bf4-e258-1febdf9a4a6a")
    other = Disk("sdz", 1 << 30, 512, 512, serial="Z", holds=member)
    case = laid_out(on_lvm(), f"{MD} rd.lvm.vg=data rd.lvm.vg=debian-vg")
    data = replace(group("sdz:1", 20 * GIB), name="data")
    case = replace(case, target=replace(case.target, disks=(*case.target.disks, other), stack=Stack(groups=(data,))))
    assert words_of(case, Op.REMOVE) == []
    boot, *rest = case.manifest.volumes
    blocks = replace(boot, kind="blocks", filesystem=FileSystem("LVM2_member", "x"))
    case = laid_out(on_lvm(), "rd.lvm.lv=rl/root rd.lvm.vg=debian-vg")
    case = replace(case, manifest=replace(case.manifest, volumes=(blocks, *rest)))
    assert words_of(case, Op.REMOVE) == []


@pytest.mark.parametrize(
    ("kind", "kept"),
    [("LVM2_member", {"rd.lvm.lv=data/usr"}), ("crypto_LUKS", {"rd.lvm.lv=data/usr"}),
     ("linux_raid_member", {"rd.lvm.lv=data/usr", "rd.luks.uuid=luks-77aa"})],
)  # fmt: skip
def test_what_blocks_hold_inside_is_not_known_and_its_words_stay(kind: str, kept: set[str]) -> None:
    words = "rd.luks.uuid=luks-77aa rd.lvm.lv=data/usr"
    case = laid_out(on_lvm(), f"rd.lvm.vg=debian-vg {words}")
    boot, *rest = case.manifest.volumes
    blocks = replace(boot, kind="blocks", filesystem=FileSystem(kind, "0123"))
    case = replace(case, manifest=replace(case.manifest, volumes=(blocks, *rest)))
    assert {item.source for item in words_of(case, Op.REMOVE)} == set(words.split()) - kept


def test_a_new_kernels_entry_does_not_name_it_either() -> None:
    newer = component("kernel-core", version="5.14.0-503.el9", architecture="x86_64", package_format="rpm",
                      for_os="rocky 9", kernel_release="5.14.0-503.el9.x86_64", depends=())  # fmt: skip
    case = replace(laid_out(on_raid(lvm=False), MD, **{"/etc/kernel/cmdline": ""}), components=(newer,))
    (item,) = (item for item in compare(case).items if item.kind == "kernel-cmdline")
    assert item.target.endswith(" ro rhgb")
    case = replace(laid_out(on_raid(lvm=False), MD), components=(newer,))
    bound, _ = bind_all(RECIPES, compare(case), case)
    order = [recipe.id for recipe in bound]
    assert order.index("storage.command-line") < order.index("kernel.install-flavour"), "it takes the words of the file"


# --- what is missing --------------------------------------------------------------------------------------------------


def added(case: Situation) -> list[str]:
    return [item.target for item in words_of(case, Op.ADD)]


@pytest.mark.adapts("B2", "T1")
@pytest.mark.adapts("B11", "T1")
def test_what_only_a_host_only_initramfs_said_comes_onto_the_command_line() -> None:
    luks = f"rd.luks.uuid={LUKS_UUID}"
    case = laid_out(on_luks(), "quiet")
    assert sorted(added(case)) == [luks, "rd.lvm.vg=debian-vg"]
    after = patched(case)
    for path in (ENTRY, "/etc/default/grub", "/etc/kernel/cmdline"):
        assert luks in after[path] and "rd.lvm.vg=debian-vg" in after[path]
    assert added(laid_out(on_lvm(), "quiet")) == ["rd.lvm.vg=debian-vg"]
    assert sorted(added(laid_out(on_raid(lvm=True), "quiet", KEEP))) == ["rd.lvm.vg=debian-vg", MD]
    assert added(laid_out(on_raid(lvm=False), "quiet")) == [], "the array became a plain partition"


@pytest.mark.adapts("B2", "T1")
@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ("rd.lvm.lv=debian-vg/root", []),
        ("rd.lvm.vg=debian-vg", []),
        ("rd.lvm.lv=debian-vg/home", ["rd.lvm.vg=debian-vg"]),
        ("rd.lvm.lv=debian-vg/root resume=/dev/mapper/debian--vg-swap_1", ["rd.lvm.vg=debian-vg"]),
        ("rd.lvm.lv=debian-vg/root rd.lvm.lv=debian-vg/swap_1 resume=/dev/debian-vg/swap_1", []),
        ("rd.auto rd.lvm.conf=0", []),
        ("rd.auto=1", []),
        ("rd.auto rd.lvm.lv=debian-vg/home", ["rd.lvm.vg=debian-vg"]),
    ],
)
def test_a_word_that_is_there_is_not_added_again(words: str, missing: list[str]) -> None:
    assert added(laid_out(on_lvm(), words)) == missing


def test_other_tools_find_it_themselves() -> None:
    case = laid_out(on_lvm(), "quiet")
    debian = replace(case.source, os=replace(case.source.os, initrd_tool="initramfs-tools"))
    assert added(replace(case, source=debian)) == []


@pytest.mark.adapts("B15", "T1")
def test_a_new_kernels_entry_gets_the_words_too() -> None:
    newer = component("kernel-core", version="5.14.0-503.el9", architecture="x86_64", package_format="rpm",
                      for_os="rocky 9", kernel_release="5.14.0-503.el9.x86_64", depends=())  # fmt: skip
    case = replace(laid_out(on_lvm(), "quiet", **{"/etc/kernel/cmdline": ""}), components=(newer,))
    (item,) = (item for item in compare(case).items if item.kind == "kernel-cmdline")
    assert item.target.endswith(" ro quiet rhgb rd.lvm.vg=debian-vg")


def test_a_place_is_named_by_its_own_kind_of_word_only() -> None:
    assert not names(f"rd.md.uuid={ARRAY_UUID}", f"luks:{ARRAY_UUID}")
    assert not names("rd.lvm.lv=vg", "lv:vg/root") and not names("rd.luks.uuid=luks-", f"luks:{LUKS_UUID}")
