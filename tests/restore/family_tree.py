"""A real system with dracut, rpm and dpkg, made once below the cache: what the other families' own programs run in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.process import run
from tests.model.debian_kernel import CACHE, unpacked_kernel

INCLUDE = "dracut,rpm,zstd,kmod,cpio,grub-common,lvm2,policycoreutils"


def archive() -> Path:
    """Debian's minimal system with Debian's own dracut and rpm."""
    made = CACHE / "families-2-bookworm.tar"
    if not made.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        new = made.with_name("new-families.tar")  # mmdebstrap makes a directory unless the name ends so
        run(["mmdebstrap", "--variant=minbase", f"--include={INCLUDE}", "bookworm", str(new)], timeout_s=600)
        new.rename(made)
    return made


@contextmanager
def family_tree(where: Path) -> Iterator[Path]:
    run(["tar", "-C", str(where), "-xf", str(archive())])
    try:
        yield where
    finally:
        run(["rm", "-rf", str(where)])


def add_kernel(root: Path, flavour: str = "cloud-amd64") -> str:
    """Debian's kernel of a flavour, its files as the RHEL family names them; its release."""
    kernel, release = unpacked_kernel(flavour)
    (root / "usr/lib/modules").mkdir(exist_ok=True)
    run(["cp", "-a", f"{kernel}/lib/modules/{release}", f"{root}/usr/lib/modules/"])
    run(["cp", f"{kernel}/boot/vmlinuz-{release}", f"{root}/boot/"])
    return release
