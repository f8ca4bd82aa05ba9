"""What is measured: each contestant packs one tree into a store, and unpacks it onto an empty file system.

Peers run as a careful administrator would run them: all processors, all metadata, the same compression (zstd, level 3).
Each ends with the target's file system synced, so that nobody is measured by what is left in the cache.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

REGRAFT = f"{sys.executable} -m agent"
TAR_METADATA = "--xattrs --xattrs-include='*' --acls --numeric-owner"


@dataclass(frozen=True, slots=True)
class Contestant:
    """Shell commands with {tree}, {store} and {target}; the same store is packed into and unpacked from."""

    name: str
    pack: str
    unpack: str
    prepare: str = "mkdir {store}"
    keeps_acls: bool = True
    again: str = ""  # packs the same tree into the same store once more, unchanged
    reset: str = ""  # unpacks over a tree that drifted


REGRAFT_CONTESTANT = Contestant(
    name="regraft",
    prepare=f"{REGRAFT} depot init {{store}}",
    pack=f"{REGRAFT} capture --depot {{store}} --name bench --root {{tree}} --json",
    # Signature, profile, listing and every frame are verified on the way; there is no way to switch that off.
    unpack=f"{REGRAFT} extract bench --depot {{store}} --to {{target}} --json && sync -f {{target}}",
    again=f"{REGRAFT} capture --depot {{store}} --name bench --root {{tree}} --json",
    reset=f"{REGRAFT} extract bench --depot {{store}} --to {{target}} --trust-metadata --delete --json "
    "&& sync -f {target}",
)
TAR = Contestant(
    name="tar",
    pack=f"tar -C {{tree}} {TAR_METADATA} -cf - . | zstd -q -3 -T0 -o {{store}}/tar.zst",
    unpack=f"zstd -qdc {{store}}/tar.zst | tar -C {{target}} {TAR_METADATA} -xpf - && sync -f {{target}}",
)
SQUASHFS = Contestant(
    name="squashfs",
    keeps_acls=False,  # the format has none, and says so on standard error
    pack="mksquashfs {tree} {store}/tree.squashfs -comp zstd -Xcompression-level 3 -no-progress -quiet",
    unpack="unsquashfs -no-progress -quiet -force -dest {target} {store}/tree.squashfs && sync -f {target}",
)
RESTIC_BACKUP = "cd {tree} && restic -q -r {store}/repository backup ."
RESTIC = Contestant(
    name="restic",
    prepare="mkdir {store} && restic -q init -r {store}/repository",
    pack=RESTIC_BACKUP,
    unpack="restic -q -r {store}/repository restore latest --target {target} && sync -f {target}",
    again=RESTIC_BACKUP,
)
BORG = Contestant(
    name="borg",
    prepare="mkdir {store} && borg init -e none {store}/repository",
    pack="cd {tree} && borg create -C zstd,3 {store}/repository::one .",
    unpack="cd {target} && borg extract {store}/repository::one && sync -f {target}",
    again="cd {tree} && borg create -C zstd,3 {store}/repository::two .",
)
ALL = (REGRAFT_CONTESTANT, TAR, SQUASHFS, RESTIC, BORG)


def stored_bytes(store: Path) -> int:
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())


def empty_store(store: Path) -> None:
    if store.exists():
        shutil.rmtree(store)
