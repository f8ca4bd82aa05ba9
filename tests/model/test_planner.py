"""The order of steps is a law of safety; these tests hold it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.model.image import ComponentFile
from agent.model.layout import Layout
from agent.model.plan import (
    ApplyRecipe,
    ClearDisk,
    EnrolKey,
    InstallBootloader,
    MakeFilesystem,
    Plan,
    PlannedFilesystem,
    PlannedPartition,
    RebuildInitramfs,
    VerifyBoot,
    VerifyTree,
    WriteTable,
    WriteTree,
    decode,
    describe,
    digest,
    encode,
)
from agent.model.planner import ESP_TYPES, NAME_RULES, Decisions, host_files, make_plan
from agent.model.recipe import AnyOperation, BoundRecipe, Install, RemovePackage, Request
from agent.model.storage import FileSystem
from tests.model.machines_of_tests import DISK, ESP_UUID, FULL, ROOT_UUID, THIN, component, situation, source, target
from tests.model.stacks_of_tests import on_luks, on_lvm

KERNEL = component(f"linux-image-{FULL}")
LAYOUT = Layout(
    table="gpt",
    table_id="11111111-1111-1111-1111-111111111111",
    partitions=(
        PlannedPartition(number=1, start_bytes=1 << 20, size_bytes=1 << 29, type=ESP_TYPES[0], part_uuid="p1"),
        PlannedPartition(number=2, start_bytes=1 << 30, size_bytes=4 << 30, type="x", part_uuid="p2"),
    ),
    filesystems={
        1: PlannedFilesystem(kind="vfat", uuid=ESP_UUID, mountpoint="/boot/efi"),
        2: PlannedFilesystem(kind="ext4", uuid=ROOT_UUID, mountpoint="/"),
    },
    volumes={"root": 2},
    notes=("the root volume shrinks",),
)


def recipe(name: str, *operations: AnyOperation) -> BoundRecipe:
    return BoundRecipe(
        id=name, title=name, tier="must", phase="install", why="", items=(), operations=operations, checks=()
    )


INSTALL = recipe("kernel.install-flavour", Install(component=KERNEL.id, version=KERNEL.version))
REMOVE = recipe("kernel.retire", RemovePackage(package=f"linux-image-{THIN}"))
INITRAMFS = recipe("initramfs.boot-drivers", Request(what="initramfs", modules=("nvme", "ext4")))


def decisions(*recipes: BoundRecipe, **changes: object) -> Decisions:
    given = Decisions(
        manifest=situation().manifest,
        manifest_sha256="a" * 64,
        source=source(),
        target=target(disks=(DISK, replace(DISK, name="sda", serial="S2", model="Other"))),
        target_profile_sha256="b" * 64,
        difference_sha256="c" * 64,
        disk=DISK,
        layout=LAYOUT,
        recipes=recipes,
        components=(KERNEL,),
        mode="restore",
    )
    return replace(given, **changes)  # type: ignore[arg-type]


@pytest.mark.adapts("B11", "T1")
def test_dracut_is_asked_for_crypttab_where_the_root_is_encrypted() -> None:
    """And nowhere else: the initramfs would wait for every line of it."""
    dracut = source(os=replace(source().os, initrd_tool="dracut"))
    assert host_files(decisions(source=dracut)) == (NAME_RULES,)
    assert host_files(decisions(source=dracut, manifest=on_lvm())) == (NAME_RULES,)
    assert host_files(decisions(source=dracut, manifest=on_luks())) == (NAME_RULES, "/etc/crypttab")
    assert host_files(decisions(manifest=on_luks())) == (), "initramfs-tools takes them by itself"
    steps = make_plan(decisions(INITRAMFS, source=dracut)).steps
    assert {step.files for step in steps if isinstance(step, RebuildInitramfs)} == {(NAME_RULES,)}


def kinds(plan: Plan) -> list[type]:
    return [type(step) for step in plan.steps]


def test_the_order_of_steps() -> None:
    assert kinds(make_plan(decisions(INSTALL, INITRAMFS))) == [
        ClearDisk, WriteTable, MakeFilesystem, MakeFilesystem, WriteTree, VerifyTree, ApplyRecipe, ApplyRecipe,
        RebuildInitramfs, RebuildInitramfs, InstallBootloader, VerifyBoot,
    ]  # fmt: skip


def test_keys_are_enrolled_when_all_files_are_there() -> None:
    """The EFI system partition's too, which come last."""
    key = EnrolKey(on=2, uuid="u", name="data", path="/boot/efi/data.key")
    manifest = situation().manifest
    esp = replace(manifest.volumes[0], id="esp", filesystem=FileSystem("vfat", ESP_UUID, mountpoint="/boot/efi"))
    plan = make_plan(
        decisions(
            INITRAMFS, keys=(key,), manifest=replace(manifest, volumes=(esp, *manifest.volumes)),
            layout=replace(LAYOUT, volumes={"root": 2, "esp": 1}),
        )
    )  # fmt: skip
    places = kinds(plan)
    last_read = max(place for place, kind in enumerate(places) if kind is VerifyTree)
    assert last_read + 1 == places.index(EnrolKey) == places.index(InstallBootloader) - 1
    assert decode(encode(plan)) == plan


def test_the_loader_looks_for_the_file_system_that_is_made() -> None:
    """An image of a directory or an archive does not know a UUID; what is made for it has one."""
    manifest = situation().manifest
    nameless = replace(manifest.volumes[0], filesystem=replace(manifest.volumes[0].filesystem, uuid=""))
    plan = make_plan(decisions(INITRAMFS, manifest=replace(manifest, volumes=(nameless,))))
    (loader,) = (step for step in plan.steps if isinstance(step, InstallBootloader))
    assert loader.boot_filesystem_uuid == ROOT_UUID


def test_the_same_decisions_give_the_same_plan_and_it_survives_json() -> None:
    plan = make_plan(decisions(INSTALL, INITRAMFS))
    assert digest(plan) == digest(make_plan(decisions(INSTALL, INITRAMFS)))
    assert decode(encode(plan)) == plan
    assert digest(plan) != digest(make_plan(decisions(INITRAMFS)))


def test_an_esp_that_the_image_brings_comes_after_the_adaptation() -> None:
    manifest = situation().manifest
    esp = replace(
        manifest.volumes[0], id="esp", partition=1, filesystem=FileSystem("vfat", ESP_UUID, mountpoint="/boot/efi")
    )
    changed = replace(manifest, volumes=(esp, *manifest.volumes))
    layout = replace(LAYOUT, volumes={"root": 2, "esp": 1})
    plan = make_plan(decisions(INSTALL, INITRAMFS, manifest=changed, layout=layout))
    written = [step.volume for step in plan.steps if isinstance(step, WriteTree)]
    assert written == ["root", "esp"]
    places = kinds(plan)
    esp_place = max(place for place, kind in enumerate(places) if kind is WriteTree)
    assert esp_place > max(place for place, kind in enumerate(places) if kind in (ApplyRecipe, RebuildInitramfs))
    assert esp_place < places.index(InstallBootloader)


@pytest.mark.adapts("B1", "B3", "T1")
def test_the_installed_kernel_comes_first_and_holds_the_modules() -> None:
    rebuilt = [s for s in make_plan(decisions(INSTALL, INITRAMFS)).steps if isinstance(s, RebuildInitramfs)]
    assert [(step.release, step.modules) for step in rebuilt] == [(FULL, ("nvme", "ext4")), (THIN, ())]


def test_a_removed_kernel_is_neither_rebuilt_nor_proved() -> None:
    plan = make_plan(decisions(INSTALL, REMOVE, INITRAMFS))
    assert [step.release for step in plan.steps if isinstance(step, RebuildInitramfs)] == [FULL]
    assert [step.releases for step in plan.steps if isinstance(step, VerifyBoot)] == [(FULL,)]


def test_components_are_pinned_and_other_disks_named() -> None:
    plan = make_plan(decisions(INSTALL))
    assert [(c.id, c.version) for c in plan.components] == [(KERNEL.id, KERNEL.version)]
    assert len(plan.untouched) == 1
    assert "S2" in plan.untouched[0]
    assert plan.warnings == LAYOUT.notes


def test_what_no_recipe_installs_is_no_part_of_a_plan_and_so_never_fetched() -> None:
    """Preflight and execution read a depot's components by this list alone; a removed package brings none."""
    file = ComponentFile("x.deb", "0" * 64, 1)
    all_there = (KERNEL, component("tools"), component(f"linux-image-{THIN}"))
    offered = tuple(replace(one, payload=(file,)) for one in all_there)
    plan = make_plan(decisions(INSTALL, REMOVE, components=offered))
    assert [c.files for c in plan.components] == [((f"components/{KERNEL.id}/{KERNEL.version}/x.deb", "0" * 64, 1),)]
    assert make_plan(decisions(REMOVE, components=offered)).components == ()


def test_a_tree_without_a_kernel_gets_no_loader() -> None:
    plan = make_plan(decisions(source=source(os=replace(source().os, kernels=()))))
    assert InstallBootloader not in kinds(plan)
    assert VerifyBoot not in kinds(plan)


def test_every_step_says_what_it_does_and_what_it_destroys() -> None:
    plan = make_plan(decisions(INSTALL, INITRAMFS))
    told = [describe(step) for step in plan.steps]
    assert all(told)
    assert told[0].startswith("ERASE nvme0n1")
    assert "N1" in told[0]
