"""Build the PE: packages → segments → one ISO that boots from CD and stick, by BIOS and UEFI, with Secure Boot."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from agent.version import VERSION
from pe_build import segments
from pe_build.config import FIRMWARE_PACKAGES, KERNEL_PACKAGES, LABEL, OVERLAY, PACKAGES, TIME_S, log
from pe_build.customize import segment_of
from pe_build.freeze import frozen
from pe_build.modules import firmware_segment, kernel_release, modules_segment
from pe_build.packages import Apt, Unpacked, unpack
from pe_build.rootfs import base_segment, tree_members

# In the order in which the kernel unpacks them.
SEGMENTS = ("base.img", "modules.img", "firmware.img", "agent.img", "config.img", "end.img")
AGENT_ZSTD_LEVEL = 12  # rebuilt with every change of the agent: seconds count more than its last 2 MB
EFI_GUID = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
# Built into the BIOS core image; the signed UEFI image brings its own choice.
BIOS_MODULES = (
    *("biosdisk", "iso9660", "part_msdos", "part_gpt", "fat", "search", "search_fs_file", "normal", "linux", "boot"),
    *("configfile", "echo", "test", "true", "sleep", "halt", "reboot", "serial", "terminal", "terminfo", "smbios"),
    *("all_video", "gzio", "ls", "cat", "minicmd", "loadenv", "chain", "regexp"),
)


@dataclass(frozen=True, slots=True)
class Order:
    """What to build and where it goes."""

    output: Path
    entry: Path
    cache: Path
    config: Path | None = None
    netboot: Path | None = None
    refresh: bool = False


def build_iso(order: Order) -> None:
    """From the host's package sources to ``order.output``; every part is kept by what it was made of."""
    apt = Apt(order.cache / "apt")
    apt.prepare(order.refresh)
    wanted = wanted_packages(apt)
    lock = apt.resolve(wanted)
    parts = order.cache / f"parts-{parts_key(lock)}"
    source = unpack(apt, wanted, lock, order.cache)
    if not parts.exists():
        make_parts(source, parts, lock)
    agent_segment = make_agent_segment(order.entry, order.cache)
    tree = order.cache / f"iso-{order.output.stem}"
    arrange(tree, parts, agent_segment, segment_of(order.config) if order.config else segments.config_segment(b""))
    write_iso(source, tree, parts, order.output)
    if order.netboot:
        shutil.copytree(tree / "pe", order.netboot, dirs_exist_ok=True)
    shutil.rmtree(tree)
    log(f"{order.output}: {order.output.stat().st_size / 1e6:.1f} MB")


def wanted_packages(apt: Apt) -> tuple[str, ...]:
    """The fixed list, the newest signed kernel, and the firmware that can be had."""
    available = set(apt.names("^firmware-"))
    kernels = apt.names(KERNEL_PACKAGES)
    kernel = max(kernels, key=version_key)
    return (*PACKAGES, kernel, *(name for name in FIRMWARE_PACKAGES if name in available))


def version_key(package: str) -> tuple[int, ...]:
    """The numbers of a kernel package's name: 6.12.117+deb12 is newer than 6.1.0-56."""
    words = package.removeprefix("linux-image-").replace("+deb12", "").replace("-", ".").split(".")
    return tuple(int(word) for word in words if word.isdigit())


def parts_key(lock: Sequence[str]) -> str:
    """Digest of the packages and of the code and files that turn them into parts."""
    digest = sha256("\n".join(lock).encode())
    for place in sorted(Path(__file__).parent.rglob("*")):
        if place.is_file() and "__pycache__" not in place.parts and place.name not in ("freeze.py", "cli.py"):
            digest.update(place.name.encode() + b"\0" + place.read_bytes())
    return digest.hexdigest()[:16]


def make_parts(source: Unpacked, parts: Path, lock: Sequence[str]) -> None:
    """Everything of the medium that does not depend on the agent."""
    partial = parts.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    stage = partial / "stage"
    (partial / "base.img").write_bytes(base_segment(source, stage / "base"))
    (partial / "modules.img").write_bytes(modules_segment(source, stage / "modules"))
    firmware, missing = firmware_segment(source, stage / "modules")
    (partial / "firmware.img").write_bytes(firmware)
    shutil.copy2(source.root / "boot" / f"vmlinuz-{kernel_release(source)}", partial / "vmlinuz")
    make_loaders(source, partial)
    manifest = {"regraft": VERSION, "kernel": kernel_release(source), "packages": lock, "firmware_missing": missing}
    (partial / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    partial.rename(parts)


def make_loaders(source: Unpacked, parts: Path) -> None:
    """GRUB for BIOS as an El Torito image, and a FAT image with the signed chain for UEFI."""
    grub = source.root / "usr/lib/grub/i386-pc"
    source.run(
        *("usr/bin/grub-mkimage", "--directory", grub, "--format", "i386-pc-eltorito", "--prefix", "/boot/grub"),
        *("--output", parts / "eltorito.img", *BIOS_MODULES),
    )
    shutil.copy2(grub / "boot_hybrid.img", parts / "boot_hybrid.img")
    efi = parts / "EFI/BOOT"
    efi.mkdir(parents=True)
    for name, origin in {
        "BOOTX64.EFI": "usr/lib/shim/shimx64.efi.signed",
        "grubx64.efi": "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed",
        "mmx64.efi": "usr/lib/shim/mmx64.efi.signed",
    }.items():
        shutil.copyfile(source.root / origin, efi / name)
    image = parts / "efi.img"
    used = sum(place.stat().st_size for place in efi.iterdir())
    image.write_bytes(bytes((used // (1 << 20) + 2) << 20))
    source.run("usr/bin/mformat", "-i", image, "-N", "52475246", "-v", "REGRAFTEFI", "::")
    source.run("usr/bin/mmd", "-i", image, "::/EFI", "::/EFI/BOOT")
    source.run("usr/bin/mcopy", "-i", image, *sorted(efi.iterdir()), "::/EFI/BOOT/")


def make_agent_segment(entry: Path, cache: Path) -> Path:
    """The frozen agent below /opt/regraft as a segment, kept by the key of the freeze."""
    folder = frozen(entry, cache)
    kept = cache / f"{folder.name}.img"
    if not kept.exists():
        members = list(tree_members(folder, "opt/regraft/"))
        log(f"compressing {sum(len(member.content) for member in members) >> 20} MiB of the agent")
        partial = kept.with_suffix(".partial")
        partial.write_bytes(segments.compressed(segments.pack(members), AGENT_ZSTD_LEVEL))
        partial.rename(kept)
    return kept


def arrange(tree: Path, parts: Path, agent_segment: Path, config_segment: bytes) -> None:
    """The files of the ISO as they lie in it."""
    shutil.rmtree(tree, ignore_errors=True)
    for folder in (".disk", "boot/grub", "EFI/BOOT", "pe"):
        (tree / folder).mkdir(parents=True)
    (tree / ".disk/info").write_text(f"Regraft {VERSION}\n")  # the signed GRUB finds its medium by this file
    grub_cfg = (OVERLAY / "grub.cfg").read_text()
    (tree / "boot/grub/grub.cfg").write_text(
        grub_cfg.replace("@SEGMENTS@", " ".join(f"/pe/{name}" for name in SEGMENTS))
    )
    shutil.copyfile(parts / "eltorito.img", tree / "boot/grub/eltorito.img")
    for place in (parts / "EFI/BOOT").iterdir():
        shutil.copyfile(place, tree / "EFI/BOOT" / place.name)
    for name in ("vmlinuz", "base.img", "modules.img", "firmware.img", "manifest.json"):
        shutil.copyfile(parts / name, tree / "pe" / name)
    shutil.copyfile(agent_segment, tree / "pe/agent.img")
    (tree / "pe/config.img").write_bytes(config_segment)
    fixed = [name for name in ("vmlinuz", *SEGMENTS) if name not in ("config.img", "end.img")]
    sums = "".join(f"{sha256((tree / 'pe' / name).read_bytes()).hexdigest()}  {name}\n" for name in fixed)
    (tree / "pe/end.img").write_bytes(segments.end_segment(sums))
    (tree / "pe/SHA256SUMS").write_text(sums)


def stamp() -> str:
    """The one time of everything in the ISO, in xorriso's words."""
    return time.strftime("%Y%m%d%H%M%S00", time.gmtime(TIME_S))


def write_iso(source: Unpacked, tree: Path, parts: Path, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    source.run(
        *("usr/bin/xorriso", "-as", "mkisofs", "-quiet", "-r", "-V", LABEL, "--set_all_file_dates", stamp()),
        *(f"--modification-date={stamp()}", "--gpt_disk_guid", "modification-date"),
        *("--grub2-mbr", parts / "boot_hybrid.img", "-partition_offset", "16", "--mbr-force-bootable"),
        *("-append_partition", "2", EFI_GUID, parts / "efi.img", "-appended_part_as_gpt"),
        *("-c", "boot/boot.cat", "-b", "boot/grub/eltorito.img", "-no-emul-boot", "-boot-load-size", "4"),
        *("-boot-info-table", "--grub2-boot-info", "-eltorito-alt-boot"),
        *("-e", "--interval:appended_partition_2:all::", "-no-emul-boot", "-o", partial, tree),
    )
    partial.rename(output)
