"""From decisions to the plan: every step of a restore, in order. Pure: the same decisions give the same plan.

clear ► table ► file systems ► write every volume ► read every volume back
      ► recipes in phase order ► initramfs ► boot loader ► proof

A disk without a system that is adapted (Windows, or data) has no recipes, loader and proof: its own boot files and boot
code come back as they were, last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from msgspec import structs

from agent.model import plan
from agent.model.choices import NONE, Choices, unused_components
from agent.model.clashes import same_names
from agent.model.crypttab import CRYPTTAB
from agent.model.image import BLOCKS, BootCode, Component, Manifest, Volume
from agent.model.layout import Layout, esp_partition
from agent.model.plan import (
    ApplyRecipe,
    BootDisk,
    ClearDisk,
    ComponentChoice,
    EnrolKey,
    InstallBootloader,
    MakeFilesystem,
    Plan,
    PlannedFilesystem,
    RebuildInitramfs,
    Relabel,
    Step,
    VerifyBlocks,
    VerifyBoot,
    VerifyTree,
    WriteBlocks,
    WriteBootCode,
    WriteTable,
    WriteTree,
)
from agent.model.profile import Firmware, Kernel, Profile
from agent.model.recipe import BoundRecipe, Install, RemovePackage, Request
from agent.model.stack_layout import boot_modules, boot_places
from agent.model.storage import Disk
from agent.model.target_disk import identity
from agent.model.wanted import main_disk
from agent.model.wording import size_text

# Folder below EFI/ where it is not the os-release ID.
EFI_FOLDERS = {"rhel": "redhat", "ol": "redhat", "opensuse-leap": "opensuse", "opensuse-tumbleweed": "opensuse",
               "sles": "sles", "amzn": "amzn"}  # fmt: skip
NAME_RULES = "/etc/udev/rules.d/70-persistent-net.rules"
ESP_TYPES = ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0xef")


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was decided before the plan: its only inputs."""

    manifest: Manifest
    manifest_sha256: str
    source: Profile
    target: Profile
    target_profile_sha256: str
    difference_sha256: str
    disk: Disk
    layout: Layout
    recipes: tuple[BoundRecipe, ...]
    components: tuple[Component, ...]
    mode: str
    trust_metadata: bool = False
    choices: Choices = NONE
    site_recipes: tuple[str, ...] = ()  # told in the plan: which recipes are not the shipped ones
    also: tuple[tuple[Disk, Layout], ...] = ()  # further disks that are written
    notes: tuple[str, ...] = ()  # which disk receives what, and what a person must know of how it was decided
    ties: tuple[str, ...] = ()
    grow: str = ""
    keys: tuple[EnrolKey, ...] = ()  # files of the system that open its encrypted devices

    @property
    def layouts(self) -> tuple[tuple[str, Layout], ...]:
        """Each disk's name, as steps say it, and its layout."""
        return (("", self.layout), *((disk.name, layout) for disk, layout in self.also))


def make_plan(decisions: Decisions) -> Plan:
    """The plan of one restore."""
    disk = identity(decisions.disk)
    components = tuple(component_choices(decisions))
    also = tuple(identity(each) for each, _ in decisions.also)
    written = {decisions.disk.name, *(each.name for each in also)}
    notes = tuple(note for _, layout in decisions.layouts for note in layout.notes)
    unsure = (*decisions.ties, *same_names(decisions.layouts, decisions.target.disks, written))
    return Plan(
        format=plan.FORMAT,
        mode=decisions.mode,
        image=str(decisions.manifest.ref),
        manifest_sha256=decisions.manifest_sha256,
        source_profile_sha256=decisions.manifest.profile.sha256,
        target_profile_sha256=decisions.target_profile_sha256,
        difference_sha256=decisions.difference_sha256,
        disk=disk,
        untouched=tuple(untouched(decisions)),
        components=components,
        steps=(*disk_steps(decisions), *volume_steps(decisions, esp=False), *system_steps(decisions, disk)),
        warnings=(
            *decisions.notes,
            *notes,
            *unsure,
            *unadapted_notes(decisions),
            *unused_components(decisions.choices, (component.id for component in components)),
        ),
        choices=decisions.choices,
        site_recipes=decisions.site_recipes,
        also=also,
        grow=decisions.grow,
        unsure=unsure,
    )


def unadapted_notes(decisions: Decisions) -> Iterator[str]:
    """What a person must know of a disk whose system comes back as it was."""
    manifest, source = decisions.manifest, decisions.source
    if any(volume.filesystem.kind == "BitLocker" for volume in manifest.blocks):
        yield "BitLocker asks for its recovery key on a machine whose TPM it does not know"
    if any(fit.size_bytes for fit in decisions.layout.fits):
        yield "Windows checks a file system that was grown at its next start"
    if not manifest.blocks or source.os.kernels:
        return
    yield "the disk's own boot files are restored as they were; no system on it is adapted to this machine"
    if decisions.mode == "clone":
        yield "names and identities inside are the source's: renew them in the system itself, as by sysprep"
    firmware = decisions.target.platform.firmware
    on_esp = any(part.type.lower() in ESP_TYPES for part in decisions.layout.partitions)
    if firmware is Firmware.UEFI and not on_esp:
        yield "this machine boots by UEFI, and the disk has no EFI system partition: it starts by BIOS only, or not"
    if firmware is Firmware.BIOS and on_esp and not manifest.boot_code:
        yield "this machine boots by BIOS, and the disk has boot files for UEFI only"


def untouched(decisions: Decisions) -> Iterator[str]:
    """Every other disk of the target, one line each: what the plan does not write."""
    written = {decisions.disk.name, *(disk.name for disk, _ in decisions.also)}
    for disk in decisions.target.disks:
        if disk.name not in written:
            yield f"{disk.name} {disk.model} serial {disk.serial or '-'} {size_text(disk.size_bytes)}"


def component_choices(decisions: Decisions) -> Iterator[ComponentChoice]:
    """The payloads that recipes install, pinned by digest."""
    for recipe in decisions.recipes:
        for operation in recipe.operations:
            if isinstance(operation, Install):
                for chosen in components_named(decisions.components, operation):
                    itself = chosen.id == operation.component and not operation.needed_by
                    asked = operation.needed_by or operation.component
                    folder = f"components/{chosen.id}/{chosen.version}"
                    yield ComponentChoice(
                        id=chosen.id,
                        version=chosen.version,
                        files=tuple((f"{folder}/{f.path}", f.sha256, f.size_bytes) for f in chosen.payload),
                        reason=f"{recipe.id}: {recipe.title if itself else f'installed with {asked}'}",
                    )


def components_named(components: Iterable[Component], operation: Install) -> tuple[Component, ...]:
    """Everything that one installation brings, the component itself last."""
    known = {f"{one.id}={one.version}": one for one in components}
    return tuple(known[name] for name in (*operation.together, f"{operation.component}={operation.version}"))


def disk_steps(decisions: Decisions) -> Iterator[Step]:
    """Every table first: what stands on partitions may stand on those of several disks."""
    for target, layout in ((decisions.disk, decisions.layout), *decisions.also):
        disk = identity(target)
        yield ClearDisk(disk=disk)
        yield WriteTable(disk=disk, table=layout.table, table_id=layout.table_id, partitions=layout.partitions)
    for name, layout in decisions.layouts:
        yield from layout.stack
        for number in sorted(layout.filesystems):
            yield MakeFilesystem(partition=number, filesystem=layout.filesystems[number], disk=name)


def volume_steps(decisions: Decisions, *, esp: bool) -> Iterator[Step]:
    """Write volumes, outermost mount point first; then read them back.

    The EFI system partition comes apart from the others, after adaptation: a disk that holds half a system must not
    have a loader that the firmware starts.
    """
    ordered = sorted(decisions.manifest.volumes, key=lambda v: len(v.filesystem.mountpoint.rstrip("/")))
    planned = [(volume, *_place_of(volume, decisions)) for volume in ordered]
    planned = [(volume, name, number) for volume, name, number in planned if _on_esp(decisions, name, number) is esp]
    trusting = decisions.trust_metadata
    made = [
        _block_steps(volume, name, number) if volume.kind == BLOCKS else _tree_steps(volume, name, number, trusting)
        for volume, name, number in planned
    ]
    yield from (written for written, _ in made)
    yield from (verified for _, verified in made)
    for name, layout in decisions.layouts:
        fits = (fit for fit in layout.fits if fit.volume in {volume.id for volume, _, _ in planned})
        yield from (structs.replace(fit, disk=name) for fit in fits)


def _place_of(volume: Volume, decisions: Decisions) -> tuple[str, int]:
    """Disk, as steps say it, and partition number."""
    return next((name, layout.volumes[volume.id]) for name, layout in decisions.layouts if volume.id in layout.volumes)


def _made_for(volume: Volume, decisions: Decisions) -> PlannedFilesystem:
    """The file system that a volume gets: it has a UUID, too, where that of the image's is not known."""
    name, number = _place_of(volume, decisions)
    return dict(decisions.layouts)[name].filesystems[number]


def _on_esp(decisions: Decisions, name: str, number: int) -> bool:
    parts = dict(decisions.layouts)[name].partitions
    return any(part.number == number and part.type.lower() in ESP_TYPES for part in parts)


def _tree_steps(volume: Volume, disk: str, number: int, trust_metadata: bool) -> tuple[Step, Step]:
    written = WriteTree(
        volume=volume.id,
        partition=number,
        mountpoint=mountpoint(volume),
        listing_sha256=volume.listing.sha256,
        entries=volume.entries,
        content_bytes=volume.content_bytes,
        trust_metadata=trust_metadata,
        disk=disk,
    )
    return written, VerifyTree(
        volume=volume.id,
        partition=number,
        mountpoint=mountpoint(volume),
        listing_sha256=volume.listing.sha256,
        trust_metadata=trust_metadata,
        disk=disk,
    )


def _block_steps(volume: Volume, disk: str, number: int) -> tuple[Step, Step]:
    written = WriteBlocks(
        volume=volume.id,
        partition=number,
        listing_sha256=volume.listing.sha256,
        size_bytes=volume.size_bytes,
        content_bytes=volume.content_bytes,
        disk=disk,
    )
    return written, VerifyBlocks(volume=volume.id, partition=number, listing_sha256=volume.listing.sha256, disk=disk)


def system_steps(decisions: Decisions, disk: plan.DiskIdentity) -> Iterator[Step]:
    """Recipes, then what they asked for once, then the boot path and its proof."""
    yield from adaptation_steps(decisions)
    releases, modules = boot_releases(decisions), requested_modules(decisions.recipes)
    yield from volume_steps(decisions, esp=True)
    yield from decisions.keys  # which may lie there, too
    if not releases:
        # A container or a chroot, with nothing to boot; or a disk whose own system comes back as it was.
        yield from (WriteBootCode(disk=disk, code=each.code) for each in own_boot_code(decisions))
        return
    firmware = decisions.target.platform.firmware
    esp, also = esp_partition(decisions.layout), tuple(further_boot_disks(decisions))
    yield InstallBootloader(
        firmware=firmware,
        disk=disk,
        esp_partition=esp if firmware is Firmware.UEFI else 0,
        boot_filesystem_uuid=_made_for(boot_volume(decisions.manifest), decisions).uuid,
        boot_directory="/" if mountpoint(boot_volume(decisions.manifest)) == "/boot" else "/boot",
        label=decisions.source.os.id or "regraft",
        distributor=EFI_FOLDERS.get(decisions.source.os.id, decisions.source.os.id) or "debian",
        also=also,
    )
    if requested(decisions.recipes, "relabel"):
        yield Relabel()
    needed = dict.fromkeys((*modules, *boot_modules(decisions.manifest, decisions.layout.stack)))
    yield VerifyBoot(firmware=firmware, esp_partition=esp, releases=releases, modules=tuple(needed), also=also)


def further_boot_disks(decisions: Decisions) -> Iterator[BootDisk]:
    """The disks beside the first from which the system starts, too."""
    uefi = decisions.target.platform.firmware is Firmware.UEFI
    for disk, layout in decisions.also:
        if layout.boots:
            yield BootDisk(disk=identity(disk), esp_partition=esp_partition(layout) if uefi else 0)


def own_boot_code(decisions: Decisions) -> tuple[BootCode, ...]:
    """The boot code of the disk whose table is taken over; it knows no other kind of table."""
    main = main_disk(decisions.manifest)
    if main is None or main.table != decisions.layout.table:
        return ()
    return tuple(each for each in decisions.manifest.boot_code if each.disk == main.name)


def adaptation_steps(decisions: Decisions) -> Iterator[ApplyRecipe | RebuildInitramfs]:
    """What is done to the files, whatever disk they lie on."""
    for recipe in decisions.recipes:
        yield ApplyRecipe(recipe=recipe)
    releases, modules = boot_releases(decisions), requested_modules(decisions.recipes)
    if requested(decisions.recipes, "initramfs"):
        for release in releases:
            yield RebuildInitramfs(
                release=release,
                tool=decisions.source.os.initrd_tool or "initramfs-tools",
                modules=modules if release == releases[0] else (),
                files=host_files(decisions),
            )


def host_files(decisions: Decisions) -> tuple[str, ...]:
    """What dracut leaves out of an initramfs that is not host-only: names of network cards, and of LUKS devices.

    With crypttab in it the root's device gets its own name, options and key again; others are not opened there, as the
    kernel command line names those that are (`compare_opened`). One that has nothing to open gets no crypttab: it
    would wait for every line.
    """
    if decisions.source.os.initrd_tool != "dracut":
        return ()
    encrypted = any(place.startswith("luks:") for place in boot_places(decisions.manifest))
    return (NAME_RULES, CRYPTTAB) if encrypted else (NAME_RULES,)


def boot_releases(decisions: Decisions) -> tuple[str, ...]:
    """Kernels the machine may boot, the default first: those a recipe installs, then those of the image
    that no recipe removes."""
    installed = [
        chosen.kernel_release
        for recipe in decisions.recipes
        for operation in recipe.operations
        if isinstance(operation, Install)
        for chosen in components_named(decisions.components, operation)
        if chosen.kernel_release and chosen.kind == "kernel"
    ]
    removed = {
        package
        for recipe in decisions.recipes
        for operation in recipe.operations
        if isinstance(operation, RemovePackage)
        for package in operation.packages
    }
    kernels = [k for k in decisions.source.os.kernels if k.initrd and k.package not in removed]
    present = [kernel.release for kernel in sorted(kernels, key=_default_first)]
    return tuple(dict.fromkeys([*installed, *present]))


def _default_first(kernel: Kernel) -> bool:
    return not kernel.default


def requested(recipes: Iterable[BoundRecipe], what: str) -> bool:
    return any(isinstance(op, Request) and op.what == what for recipe in recipes for op in recipe.operations)


def requested_modules(recipes: Iterable[BoundRecipe]) -> tuple[str, ...]:
    """Modules that the initramfs of the default kernel must hold, each once, in order of request."""
    wanted = [
        module
        for recipe in recipes
        for operation in recipe.operations
        if isinstance(operation, Request) and operation.what == "initramfs"
        for module in operation.modules
    ]
    return tuple(dict.fromkeys(wanted))


def boot_volume(manifest: Manifest) -> Volume:
    """The volume that holds /boot: one of its own, or the root's."""
    by_mountpoint = {mountpoint(volume): volume for volume in manifest.trees}
    return by_mountpoint.get("/boot") or by_mountpoint["/"]


def mountpoint(volume: Volume) -> str:
    return volume.filesystem.mountpoint or "/"
