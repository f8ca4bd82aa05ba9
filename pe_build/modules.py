"""The modules and firmware segments: which of the kernel's drivers travel, and exactly the firmware they name."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from agent.errors import DamagedError
from pe_build import segments
from pe_build.config import MODULE_FOLDERS, MODULES, NOT_MODULE_FOLDERS, log
from pe_build.packages import Unpacked
from pe_build.rootfs import tree_members


def kernel_release(source: Unpacked) -> str:
    releases = [place.name for place in (source.root / "usr/lib/modules").iterdir()]
    if len(releases) != 1:
        raise DamagedError(f"the packages hold {len(releases)} kernels, expected 1: {', '.join(sorted(releases))}")
    return releases[0]


def modules_segment(source: Unpacked, folder: Path) -> bytes:
    """The chosen modules as they are in Debian's package (.ko.xz keeps memory low), with an index of their own."""
    release = kernel_release(source)
    whole = source.root / "usr/lib/modules" / release
    source.run("usr/sbin/depmod", "-b", source.root, release)
    dependencies = read_dependencies((whole / "modules.dep").read_text())
    soft = read_soft_dependencies((whole / "modules.softdep").read_text(), dependencies)
    chosen = choose(dependencies, soft)
    log(f"{len(chosen)} of {len(dependencies)} modules of kernel {release}")
    shutil.rmtree(folder, ignore_errors=True)
    part = folder / "usr/lib/modules" / release
    for path in chosen:
        (part / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(whole / path, part / path)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy2(whole / name, part / name)
    (folder / "lib").symlink_to("usr/lib")
    source.run("usr/sbin/depmod", "-b", folder, release)
    (folder / "lib").unlink()
    members = list(tree_members(folder))
    segments.check_usrmerge(members)
    return segments.pack(members)


def firmware_segment(source: Unpacked, modules_folder: Path) -> tuple[bytes, tuple[str, ...]]:
    """The firmware that the chosen modules name, and what they name but no package holds."""
    release = kernel_release(source)
    modules = sorted((modules_folder / "usr/lib/modules" / release / "kernel").rglob("*.ko*"))
    names = source.run("usr/sbin/modinfo", "-F", "firmware", *modules).stdout.split()
    members, missing = [], []
    for name in sorted(set(names)):
        found = sorted((source.root / "usr/lib/firmware").glob(name)) if "*" in name else []
        for place in found or [source.root / "usr/lib/firmware" / name]:
            path = f"usr/lib/firmware/{os.path.relpath(place, source.root / 'usr/lib/firmware')}"
            if place.is_file():
                members.append(segments.file(path, place.read_bytes()))
            else:
                missing.append(name)
    log(f"{len(members)} firmware files, {len(missing)} that no package holds")
    return segments.compressed(segments.pack(members)), tuple(missing)


def read_dependencies(modules_dep: str) -> dict[str, tuple[str, ...]]:
    """Path → paths it needs, of modules.dep."""
    lines = (line.partition(":") for line in modules_dep.splitlines())
    return {path: tuple(needs.split()) for path, _, needs in lines}


def read_soft_dependencies(modules_softdep: str, known: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Path → paths it wants loaded beside it, of modules.softdep."""
    by_name = {module_name(path): path for path in known}
    found = {}
    for line in modules_softdep.splitlines():
        words = line.split()
        if len(words) > 2 and words[0] == "softdep" and words[1].replace("-", "_") in by_name:
            wanted = [word.replace("-", "_") for word in words[2:] if word not in ("pre:", "post:")]
            found[by_name[words[1].replace("-", "_")]] = tuple(by_name[name] for name in wanted if name in by_name)
    return found


def choose(needs: Mapping[str, tuple[str, ...]], wants: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The modules of the classes in config.py, and everything they need."""
    names = {name.replace("-", "_") for name in MODULES}
    pending = [path for path in needs if _in(path, MODULE_FOLDERS) and not _in(path, NOT_MODULE_FOLDERS)]
    pending += [path for path in needs if module_name(path) in names]
    chosen: set[str] = set()
    while pending:
        path = pending.pop()
        if path not in chosen:
            chosen.add(path)
            pending += [*needs[path], *wants.get(path, ())]
    return tuple(sorted(chosen))


def module_name(path: str) -> str:
    return re.sub(r"\.ko(\.\w+)?$", "", path.rsplit("/", 1)[-1]).replace("-", "_")


def _in(path: str, folders: Iterable[str]) -> bool:
    """Below one of the folders, or one of them itself when it is named as a file (without its .xz)."""
    return any(path.startswith((f"kernel/{folder}/", f"kernel/{folder}.")) for folder in folders)
