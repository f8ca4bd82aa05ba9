"""Who is measured: each packs a tree or an unmounted file system into a store, and unpacks it again.

Peers run as a careful administrator would run them: all processors, all metadata, zstd level 3 wherever they know it,
and their own defaults otherwise. Each ends with the target synced, so that nobody is measured by what is left in
the cache.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REGRAFT = f"{sys.executable} -m agent"
PROCESSORS = os.cpu_count() or 1
TAR_METADATA = "--xattrs --xattrs-include='*' --acls --numeric-owner"
UNTAR = f"tar -C {{target}} {TAR_METADATA} -xpf - && sync -f {{target}}"
RESTIC = "restic -q -r {store}"


@dataclass(frozen=True, slots=True)
class Contestant:
    """Shell commands. What stands in braces:

    {tree} what is captured, mounted; {image} the same, an unmounted file system in a file; {machine} whose it is;
    {store} a folder of the contestant's own; {cache} another, for what it remembers; {archive} a new name for every
    capture into one store; {target} an empty file system, mounted; {node} a blank block device.
    """

    name: str
    pack: str
    unpack: str
    programs: tuple[str, ...] = ()  # that must be there
    packages: tuple[str, ...] = ()  # of Debian, that bring them
    prepare: str = "true"
    checks: str = ""  # what of the data it reads it checks while it restores; nothing: no digest at all
    devices: bool = False  # reads {image} and writes {node}
    keeps_acls: bool = True


@dataclass(frozen=True, slots=True)
class Places:
    """What a contestant's commands speak of."""

    tree: Path = Path("/nonexistent")
    image: Path = Path("/nonexistent")
    store: Path = Path("/nonexistent")
    cache: Path = Path("/nonexistent")
    target: Path = Path("/nonexistent")
    node: Path = Path("/nonexistent")
    machine: str = "bench"
    archive: str = "first"

    def fill(self, template: str) -> str:
        return template.format(
            tree=self.tree, image=self.image, store=self.store, cache=self.cache, target=self.target, node=self.node,
            machine=self.machine, archive=self.archive,
        )  # fmt: skip


REGRAFT_CONTESTANT = Contestant(
    name="regraft",
    # Signature, profile, listing and every frame are verified on the way; there is no way to switch that off.
    checks="signature, SHA-256 of the listing, BLAKE3 of every frame",
    prepare=f"rmdir {{store}} && {REGRAFT} depot init {{store}}",
    pack=f"{REGRAFT} capture --depot {{store}} --name {{machine}} --root {{tree}} --json",
    unpack=f"{REGRAFT} extract {{machine}} --depot {{store}} --to {{target}} --json && sync -f {{target}}",
)
TAR = Contestant(
    name="tar",
    programs=("tar", "zstd"),
    packages=("tar", "zstd"),
    checks="XXH64 of the stream, 32 bits of it, known at its end",
    pack=f"tar -C {{tree}} {TAR_METADATA} -cf - . | zstd -q -3 -T0 -o {{store}}/tar.zst",
    unpack=f"zstd -qdc {{store}}/tar.zst | {UNTAR}",
)
SQUASHFS = Contestant(
    name="squashfs",
    programs=("mksquashfs", "unsquashfs"),
    packages=("squashfs-tools",),
    keeps_acls=False,  # the format has none, and says so on standard error
    pack="mksquashfs {tree} {store}/tree.squashfs -comp zstd -Xcompression-level 3 -no-progress -quiet",
    unpack=f"unsquashfs -p {PROCESSORS} -no-progress -quiet -force -dest {{target}} {{store}}/tree.squashfs "
    "&& sync -f {target}",
)
QEMU_IMG = Contestant(
    name="qemu-img",
    programs=("qemu-img",),
    packages=("qemu-utils",),
    devices=True,
    pack="qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd -m 8 -W {image} {store}/disk.qcow2",
    # The device is blank, and it may know: zeros are then not written.
    unpack="qemu-img convert -f qcow2 -O raw -n --target-is-zero -m 8 -W {store}/disk.qcow2 {node} && sync {node}",
)
BMAPTOOL = Contestant(
    name="bmaptool",
    programs=("bmaptool", "zstd"),
    packages=("bmap-tools", "zstd"),
    checks="SHA-256 of every range of blocks",
    devices=True,
    pack="bmaptool -q create -o {store}/disk.bmap {image} && zstd -q -3 -T0 {image} -o {store}/disk.img.zst",
    unpack="bmaptool -q copy --bmap {store}/disk.bmap {store}/disk.img.zst {node} && sync {node}",
)
PARTCLONE = Contestant(
    name="partclone",
    programs=("partclone.restore", "partclone.ext4", "partclone.ntfs", "zstd"),
    packages=("partclone", "zstd"),
    checks="CRC-32 of every group of blocks",
    devices=True,
    pack="partclone.ext4 -c -q -L {cache}/log -s {image} -o - | zstd -q -3 -T0 -o {store}/part.zst",
    unpack="zstd -qdc {store}/part.zst | partclone.restore -q -L {cache}/log -s - -o {node} && sync {node}",
)
RESTIC_CONTESTANT = Contestant(
    name="restic",
    programs=("restic",),
    packages=("restic",),
    checks="Poly1305 and SHA-256 of every chunk",
    prepare=f"{RESTIC} init --repository-version 2",
    pack=f"cd {{tree}} && {RESTIC} --cache-dir {{cache}} backup --host {{machine}} .",
    # A machine that is restored has no cache yet, and a repository on a disk of its own needs none.
    unpack=f"{RESTIC} --no-cache restore latest --host {{machine}} --target {{target}} && sync -f {{target}}",
)
BORG = Contestant(
    name="borg",
    programs=("borg",),
    packages=("borgbackup",),
    checks="CRC-32 and the keyed hash of every chunk",
    prepare="borg init -e none {store}",
    pack="cd {tree} && BORG_BASE_DIR={cache} borg create --numeric-ids --compression zstd,3 {store}::{archive} .",
    unpack="cd {target} && BORG_BASE_DIR={cache} borg extract --numeric-ids {store}::{archive} && sync -f {target}",
)
WIMLIB = Contestant(
    name="wimlib",
    programs=("wimcapture", "wimapply"),
    packages=("wimtools",),
    checks="SHA-1 of every file",
    pack="wimcapture {tree} {store}/tree.wim --unix-data --compress=fast",
    unpack="wimapply {store}/tree.wim 1 {target} --unix-data && sync -f {target}",
)
ALL = (REGRAFT_CONTESTANT, SQUASHFS, QEMU_IMG, TAR, BMAPTOOL, PARTCLONE, RESTIC_CONTESTANT, BORG, WIMLIB)
PEERS = tuple(one.name for one in ALL if one is not REGRAFT_CONTESTANT)


def environment(memory: Path) -> Mapping[str, str]:
    """What all run with: one language, no question asked, no key or cache of the user's."""
    return {
        "LC_ALL": "C.UTF-8",
        "REGRAFT_HOME": str(memory / "home"),
        "PYTHONDONTWRITEBYTECODE": "",  # as installed: nobody compiles a program each time it starts
        "RESTIC_PASSWORD": "bench",
        "BORG_BASE_DIR": str(memory / "borg"),
        "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    }


def stored_bytes(store: Path) -> int:
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
