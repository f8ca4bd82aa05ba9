"""The EFI system partition: signed shim and GRUB, for the restored system's own folder and for the fallback path.

    EFI/<distributor>/  shimx64.efi grubx64.efi mmx64.efi grub.cfg     what the boot entry starts
    EFI/BOOT/           BOOTX64.EFI grubx64.efi mmx64.efi grub.cfg     what firmware starts that knows no entry

Signed GRUB cannot be told where its files are: its prefix is built in (/EFI/debian), so the stub grub.cfg stands there
as well. The stub finds /boot by the UUID of its file system, and goes on with the grub.cfg that lies in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.errors import PatchError
from agent.model import efi_loaders
from agent.restore.inside import InsideRoot

_PREFIX = re.compile(rb"/EFI/([A-Za-z0-9_-]{1,32})\0")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,32}")
_UUID = re.compile(r"[0-9A-Fa-f-]{4,36}")
_PATH = re.compile(r"/[A-Za-z0-9@._/-]*")
FALLBACK = "BOOT"


@dataclass(frozen=True, slots=True)
class Loaders:
    """The loaders' bytes, all from one place: shim and GRUB of different makers do not trust each other."""

    shim: bytes
    grub: bytes
    manager: bytes  # MokManager; b"" when there is none
    origin: str  # "the image", "the medium"

    @property
    def prefix(self) -> str:
        return built_in_folder(self.grub)


def built_in_folder(grub: bytes) -> str:
    """Folder below EFI/ that a GRUB looks for its grub.cfg in."""
    found = _PREFIX.search(grub)
    return found[1].decode() if found else "debian"


def find_loaders(root: Path, medium: Path = Path("/")) -> Loaders:
    """Those of the image if it has them, else those of the medium that runs now."""
    for place, origin in ((root, "the image"), (medium, "the medium")):
        inside = InsideRoot(place)
        for shims, grubs, managers in efi_loaders.places():
            shim, grub = _first(inside, shims), _first(inside, grubs)
            if shim and grub:
                return Loaders(shim, grub, _first(inside, managers), origin)
        if origin == "the image" and inside.list("/boot/loader/entries"):
            raise PatchError(
                "the image has no signed shim and GRUB, and its menu (blscfg) is not understood by the medium's GRUB",
                "install grub2-efi-x64 and shim-x64 on the source and capture again, or add them to the depot and "
                "install them by a recipe",
            )
    raise PatchError(
        f"neither the image nor the medium has {efi_loaders.SHIM[0]} and {efi_loaders.GRUB[0]}",
        "add shim-signed and grub-efi-amd64-signed to the source, or use a medium that carries them",
    )


def _first(inside: InsideRoot, paths: Iterable[str]) -> bytes:
    return next((data for path in paths if (data := _read(inside, path))), b"")


def _read(inside: InsideRoot, path: str) -> bytes:
    """A loader's bytes; they are a few MiB, but no configuration file."""
    try:
        with open(inside.open(path, os.O_RDONLY), "rb") as file:  # noqa: PTH123 - a descriptor
            return file.read(64 << 20)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return b""


def stub(boot_uuid: str, boot_directory: str, folder: str = "grub") -> str:
    """grub.cfg of the ESP; ``folder`` is grub or grub2. Raises PatchError for words that GRUB would read otherwise."""
    path = _menu_folder(boot_uuid, boot_directory, folder)
    return f"search.fs_uuid {boot_uuid} root\nset prefix=($root)'{path}'\nconfigfile $prefix/grub.cfg\n"


def signpost(boot_uuid: str, boot_directory: str, folder: str) -> str:
    """The same for a GRUB whose modules lie elsewhere than the menu: it keeps looking for them where it did."""
    path = _menu_folder(boot_uuid, boot_directory, folder)
    return f"search.fs_uuid {boot_uuid} root\nconfigfile ($root)'{path}'/grub.cfg\n"


def _menu_folder(boot_uuid: str, boot_directory: str, folder: str) -> str:
    path = f"{boot_directory.rstrip('/')}/{folder}"
    if not _UUID.fullmatch(boot_uuid) or not _PATH.fullmatch(path):
        raise PatchError(f"boot file system UUID ‘{boot_uuid}’ or path ‘{path}’ cannot stand in a grub.cfg")
    return path


def install(esp: Path, loaders: Loaders, distributor: str, stub_text: str) -> tuple[str, ...]:
    """Write every file, the fallback path last; their paths below the ESP."""
    own = distributor if _NAME.fullmatch(distributor) else loaders.prefix
    folders = dict.fromkeys((loaders.prefix, own, FALLBACK))
    written = []
    for folder in folders:
        files = {
            "grub.cfg": stub_text.encode(),
            "mmx64.efi": loaders.manager,
            "grubx64.efi": loaders.grub,
            "BOOTX64.EFI" if folder == FALLBACK else "shimx64.efi": loaders.shim,
        }
        if folder not in (own, FALLBACK):  # only GRUB's own look for its configuration
            files = {"grub.cfg": files["grub.cfg"]}
        for name, data in files.items():
            if data:
                path = _cased(esp, ("EFI", folder, name))
                _write(esp / path, data)
                written.append(path)
    return tuple(written)


def _cased(esp: Path, parts: tuple[str, ...]) -> str:
    """The path with the case of what is there already: FAT holds ``efi/boot`` and ``EFI/BOOT`` for the same."""
    at, words = esp, []
    for part in parts:
        try:
            names = os.listdir(at)  # noqa: PTH208 - names only
        except FileNotFoundError:
            names = []
        words.append(next((name for name in sorted(names) if name.lower() == part.lower()), part))
        at /= words[-1]
    return "/".join(words)


def _write(path: Path, data: bytes) -> None:
    """Flushed to the disk: nothing else will, if the machine is switched off now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
