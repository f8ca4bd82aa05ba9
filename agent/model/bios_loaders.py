"""Where systems keep GRUB's modules for BIOS; read when a restore is decided, and when it installs a boot sector."""

from __future__ import annotations

from collections.abc import Callable

# Debian and the RHEL family; openSUSE (grub2.spec: --libdir=%{_datadir}), and SUSE before that.
MODULES = ("/usr/lib/grub/i386-pc", "/usr/share/grub2/i386-pc", "/usr/lib/grub2/i386-pc")


def own_modules(is_file: Callable[[str], bool]) -> str:
    """The folder of a system's own modules; "" where it has none."""
    return next((folder for folder in MODULES if is_file(f"{folder}/kernel.img")), "")
