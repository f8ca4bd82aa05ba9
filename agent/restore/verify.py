"""Proof that the restored disk will boot, read from the disk itself. One red check, and nothing is rebooted."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from msgspec import structs

from agent.errors import PatchError
from agent.model import bls
from agent.model.crypttab import CRYPTTAB, crypt_entries
from agent.model.plan import VerifyBoot
from agent.model.profile import Firmware
from agent.model.references import mount_lines
from agent.model.report import CheckResult
from agent.model.tree import Tree, read_text
from agent.probe.live_tree import LiveTree
from agent.restore import boot, initramfs
from agent.restore.disk import DiskHandle
from agent.restore.esp import FALLBACK, built_in_folder
from agent.restore.filesystems import signature
from agent.restore.inside import InsideRoot
from agent.restore.mounts import top_inside_filesystem

_LOADED = re.compile(r"^\s*(linux|linux16|linuxefi|initrd|initrd16|initrdefi)\s+(.*)$")
_SEARCHED = re.compile(r"search\.fs_uuid (\S+)|--fs-uuid\s+(?:--set=\S+\s+)?(?:--hint\S*\s+)*([0-9A-Fa-f-]{4,36})")
_CORE = b"GRUB"
_NORMAL = "i386-pc/normal.mod"
_TAGS = {"UUID": "UUID", "LABEL": "LABEL", "PARTUUID": "PART_ENTRY_UUID", "PARTLABEL": "PART_ENTRY_NAME"}
_BY = {"by-uuid": "UUID", "by-label": "LABEL", "by-partuuid": "PARTUUID", "by-partlabel": "PARTLABEL"}


def verify_boot(root: Path, step: VerifyBoot, disk: DiskHandle, nodes: Sequence[Path] = ()) -> tuple[CheckResult, ...]:
    """Every check, the red ones included. ``nodes``: all that was written, if that is more than ``disk``."""
    names = present_names(nodes or disk.nodes()) | {"PATH": frozenset(f"/dev/{name}" for name in disk.links)}
    tree = LiveTree(root)
    checks = [check for release in step.releases for check in kernel_checks(root, tree, release, step)]
    checks += reference_checks(tree, names)
    checks += configuration_checks(root, tree, step.releases, names)
    checks += loader_checks(root, step, disk, names)
    return tuple(checks)


def verify_further_disk(
    root: Path, step: VerifyBoot, disk: DiskHandle, esp_partition: int, nodes: Sequence[Path]
) -> tuple[CheckResult, ...]:
    """The loader's files of a disk that starts the same system."""
    if step.firmware != Firmware.UEFI:
        checks = [*bios_checks(disk)]
    else:
        with boot.esp_of(root, disk, esp_partition) as place:
            checks = [*uefi_checks(place, present_names(nodes))]
    return tuple(structs.replace(check, name=f"{check.name} of {disk.identity.name}") for check in checks)


def present_names(nodes: Sequence[Path]) -> dict[str, frozenset[str]]:
    """Tag → values that the partitions have now, read past every cache; UUIDs in lower case."""
    found: dict[str, set[str]] = {tag: set() for tag in _TAGS}
    for node in nodes:
        seen = signature(node)
        for tag, key in _TAGS.items():
            if seen.get(key):
                found[tag].add(_folded(tag, seen[key]))
    return {tag: frozenset(values) for tag, values in found.items()}


def _folded(tag: str, value: str) -> str:
    return value.lower() if "UUID" in tag else value


# --- kernels ----------------------------------------------------------------------------------------------------------


def kernel_checks(root: Path, tree: Tree, release: str, step: VerifyBoot) -> Iterator[CheckResult]:
    """Kernel and initramfs are there, and the latter holds what the default kernel needs to find its root."""
    yield kernel_check(tree, release)
    initrd = initramfs.initrd_path(InsideRoot(root), release)
    if not initrd:
        yield CheckResult(name=f"initramfs {release}", ok=False, detail="there is none in /boot")
        return
    wanted = step.modules if release == step.releases[0] else ()
    try:
        missing = initramfs.modules_missing(root, release, initrd, wanted)
    except PatchError as error:
        yield CheckResult(name=f"initramfs {release}", ok=False, detail=error.message)
        return
    said = f"lacks {', '.join(missing)}" if missing else f"holds {', '.join(wanted) or 'what it should'}"
    yield CheckResult(name=f"initramfs {release}", ok=not missing, detail=f"{initrd} {said}")


def kernel_check(tree: Tree, release: str) -> CheckResult:
    """The kernel's own file is there, and is one."""
    path = f"/boot/vmlinuz-{release}"
    return _file(tree, f"kernel {release}", path, lambda data: data[0x202:0x206] == b"HdrS" or data[:2] == b"MZ")


def _file(tree: Tree, name: str, path: str, good: Callable[[bytes], bool]) -> CheckResult:
    try:
        data = tree.read_bytes(path)
    except FileNotFoundError:
        return CheckResult(name=name, ok=False, detail=f"{path} is not there")
    ok = bool(data) and good(data)
    return CheckResult(
        name=name, ok=ok, detail=f"{path}, {len(data):,} bytes" + ("" if ok else ", is not what it should be")
    )


# --- references -------------------------------------------------------------------------------------------------------


def reference_checks(tree: Tree, names: dict[str, frozenset[str]]) -> Iterator[CheckResult]:
    """What fstab and crypttab name is on the disk."""
    for line in mount_lines(read_text(tree, "/etc/fstab")):
        if line.on_disk and not line.optional:
            yield _resolves("fstab", line.device, f"{line.device} on {line.mountpoint}", names)
    for entry in crypt_entries(read_text(tree, CRYPTTAB)):
        if entry.device.startswith("/dev/") or "=" in entry.device:
            yield _resolves("crypttab", entry.device, f"{entry.name} on {entry.device}", names)


def _resolves(where: str, device: str, said: str, names: dict[str, frozenset[str]]) -> CheckResult:
    tag, value = ("PATH", device) if device in names.get("PATH", ()) else _tag_of(device)
    ok = bool(tag) and _folded(tag, value) in names[tag]
    return CheckResult(name=where, ok=ok, detail=f"{said} {'is there' if ok else 'is not on the disk'}")


def _tag_of(device: str) -> tuple[str, str]:
    """``UUID=…`` and ``/dev/disk/by-uuid/…`` alike; no tag for other names, which move."""
    tag, found, value = device.partition("=")
    if found and tag in _TAGS:
        return tag, value.strip("\"'")
    parts = PurePosixPath(device).parts
    if parts[:3] == ("/", "dev", "disk") and len(parts) == 5 and parts[3] in _BY:
        return _BY[parts[3]], parts[4]
    return "", ""


# --- the loader's configuration ---------------------------------------------------------------------------------------


def configuration_checks(
    root: Path, tree: Tree, releases: tuple[str, ...], names: dict[str, frozenset[str]]
) -> Iterator[CheckResult]:
    """grub.cfg starts the wanted kernels; every file and root that it names is there."""
    path = boot.configuration_path(InsideRoot(root))
    text = read_text(tree, path)
    if not text:
        yield CheckResult(name="grub.cfg", ok=False, detail=f"{path} is not there or empty")
        return
    if "blscfg" in text:
        text += as_menu(tree)
    for release in releases:
        ok = f"vmlinuz-{release}" in text
        said = "starts" if ok else "does not start"
        yield CheckResult(name="grub.cfg", ok=ok, detail=f"{path} {said} kernel {release}")
    # GRUB sees a btrfs from its top: /@rootfs/boot/vmlinuz is /boot/vmlinuz of the system.
    loaded, devices = named_by(text, top_inside_filesystem(root / "boot"))
    absent = sorted(file for file in loaded if not (tree.exists(file) or tree.exists(f"/boot{file}")))
    yield CheckResult(
        name="grub.cfg files",
        ok=not absent,
        detail=f"not there: {', '.join(absent)}" if absent else f"all {len(loaded)} kernels and initramfs are there",
    )
    for device in sorted(devices):
        yield _resolves("grub.cfg root", device, device, names)


def as_menu(tree: Tree) -> str:
    """The boot entries that are files of their own, as a grub.cfg would say it; what ‘blscfg’ reads."""
    lines = []
    for _, entry in bls.entries(tree):
        options = bls.options(entry, tree)
        named = bls.named_files(entry)
        lines += [f"linux {named[0]} {options}" if named else "", *(f"initrd {path}" for path in named[1:])]
    return "\n" + "\n".join(lines) + "\n"


def named_by(grub_cfg: str, top: str = "/") -> tuple[frozenset[str], frozenset[str]]:
    """(files that its entries load, devices they name as root= or resume=); of the files what is below ``top``."""
    prefix = top.rstrip("/") + "/"
    files: set[str] = set()
    devices: set[str] = set()
    for line in grub_cfg.splitlines():
        found = _LOADED.match(line)
        if not found:
            continue
        words = found[2].split()
        if found[1].startswith("initrd"):
            files.update("/" + word.removeprefix(prefix).lstrip("/") for word in words if word.startswith("/"))
            continue
        files.update("/" + word.removeprefix(prefix).lstrip("/") for word in words[:1] if word.startswith("/"))
        for word in words[1:]:
            key, _, value = word.partition("=")
            if key in ("root", "resume") and value not in ("", "none"):
                devices.add(value)
    return frozenset(files), frozenset(devices)


# --- the loader's files -----------------------------------------------------------------------------------------------


def loader_checks(
    root: Path, step: VerifyBoot, disk: DiskHandle, names: dict[str, frozenset[str]]
) -> Iterator[CheckResult]:
    if step.firmware != Firmware.UEFI:
        yield from bios_checks(disk)
        yield menu_check(LiveTree(root), boot.configuration_path(InsideRoot(root)))
        return
    try:
        place = boot.esp_place(root, disk, step.esp_partition)
    except PatchError as error:
        yield CheckResult(name="EFI system partition", ok=False, detail=error.message)
        return
    yield from uefi_checks(place, names)


def uefi_checks(place: Path, names: dict[str, frozenset[str]]) -> Iterator[CheckResult]:
    """Fallback loader, GRUB beside it, and a stub that leads to a file system of this disk."""
    esp = LiveTree(place)
    for file in (f"EFI/{FALLBACK}/BOOTX64.EFI", f"EFI/{FALLBACK}/grubx64.efi"):
        yield _file(esp, "loader", f"/{_as_cased(place, file)}", lambda data: data[:2] == b"MZ")
    # Signed GRUB looks in the folder that is built into it, an unsigned one beside itself.
    grub = place / _as_cased(place, f"EFI/{FALLBACK}/grubx64.efi")
    own = built_in_folder(grub.read_bytes()) if grub.is_file() else FALLBACK
    for folder in dict.fromkeys((FALLBACK, own)):
        yield _stub_check(place, _as_cased(place, f"EFI/{folder}/grub.cfg"), names)


def _stub_check(place: Path, path: str, names: dict[str, frozenset[str]]) -> CheckResult:
    try:
        text = LiveTree(place).read_bytes(f"/{path}").decode(errors="replace")
    except FileNotFoundError:
        return CheckResult(name="loader stub", ok=False, detail=f"{path} is not there")
    wanted = [first or second for first, second in _SEARCHED.findall(text)]
    ok = bool(wanted) and all(uuid.lower() in names["UUID"] for uuid in wanted)
    return CheckResult(name="loader stub", ok=ok, detail=f"{path} looks for {', '.join(wanted) or 'nothing'}")


def _as_cased(place: Path, path: str) -> str:
    at, words = place, []
    for part in path.split("/"):
        names = os.listdir(at) if at.is_dir() else []  # noqa: PTH208 - names only
        words.append(next((name for name in names if name.lower() == part.lower()), part))
        at /= words[-1]
    return "/".join(words)


def menu_check(tree: Tree, menu: str) -> CheckResult:
    """GRUB's modules for BIOS lie beside the menu; or where the medium's GRUB has them, with a menu that leads there.

    Which of the two places is built into the core image cannot be read: that part of it is compressed.
    """
    folder, signpost = menu.rpartition("/")[0], boot.SIGNPOST.rpartition("/")[0]
    beside = tree.is_file(f"{folder}/{_NORMAL}")
    leads = f"{folder.removeprefix('/boot')}'/grub.cfg" in read_text(tree, boot.SIGNPOST)
    led = tree.is_file(f"{signpost}/{_NORMAL}") and leads
    said = (
        f"are beside {menu}" if beside else f"are below {signpost}, which leads to {menu}" if led else "are not there"
    )
    return CheckResult(name="GRUB’s modules", ok=beside or led, detail=f"GRUB’s modules for BIOS {said}")


def bios_checks(disk: DiskHandle) -> Iterator[CheckResult]:
    """Boot code in the first sector, and a core image where it reads it from."""
    sector = os.pread(disk.descriptor, 512, 0)
    yield CheckResult(
        name="boot sector",
        ok=sector[510:512] == b"\x55\xaa" and _CORE in sector[:440],
        detail="GRUB’s boot code is in the first sector" if _CORE in sector[:440] else "holds no boot code of GRUB",
    )
    # boot.img, offset 0x5c: the sector of the core image (GRUB, grub-core/boot/i386/pc/boot.S).
    core_sector = int.from_bytes(sector[0x5C:0x64], "little")
    core = os.pread(disk.descriptor, 512, core_sector * 512) if 0 < core_sector < 1 << 40 else b""
    yield CheckResult(
        name="core image", ok=any(core), detail=f"{'is' if any(core) else 'is not'} at sector {core_sector}"
    )
