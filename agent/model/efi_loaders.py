"""Where systems keep signed loaders for UEFI; read when a restore is decided, and when it installs them."""

from __future__ import annotations

from collections.abc import Iterator

# Where Debian and Ubuntu keep the signed loaders; names without .signed are links or copies of other distributions.
SHIM = ("/usr/lib/shim/shimx64.efi.signed", "/usr/lib/shim/shimx64.efi.signed.latest", "/usr/lib/shim/shimx64.efi")
GRUB = ("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",)
_MANAGER = ("/usr/lib/shim/mmx64.efi.signed", "/usr/lib/shim/mmx64.efi")
# Where openSUSE keeps the signed loaders; the RHEL family has them on the EFI system partition only, in its own folder.
_SUSE = ("/usr/share/efi/x86_64", "/usr/lib64/efi")
_FOLDERS = ("redhat", "rocky", "almalinux", "centos", "fedora", "opensuse", "sles", "ol")


def places() -> Iterator[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]]:
    """(shims, GRUBs, MOK managers) that one maker has signed."""
    yield SHIM, GRUB, _MANAGER
    for folder in _SUSE:
        yield (f"{folder}/shim.efi",), (f"{folder}/grub.efi",), (f"{folder}/MokManager.efi",)
    for name in _FOLDERS:
        own = f"/boot/efi/EFI/{name}"
        yield (
            (f"{own}/shimx64.efi", f"{own}/shim.efi"),
            (f"{own}/grubx64.efi", f"{own}/grub.efi"),
            (f"{own}/mmx64.efi",),
        )
