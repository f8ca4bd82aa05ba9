"""The base segment: chosen programs, the closure of their libraries, udev, busybox, and the PE's own scripts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from agent.errors import DamagedError
from pe_build import segments
from pe_build.config import FILES, LIBRARIES, NOT_FILES, OVERLAY, PROGRAMS, log
from pe_build.packages import LIBRARIES as LIBRARY_FOLDER
from pe_build.packages import LOADER, Unpacked
from pe_build.segments import Member

FOLDERS = ("dev", "proc", "sys", "run", "tmp", "root", "mnt", "var", "var/lib", "etc/regraft", "opt")
BUSYBOX = "usr/bin/busybox"
# Applets whose full-size program Debian's own scripts or our agent rely on, or that would only mislead here.
NOT_APPLETS = frozenset(("busybox", "dpkg", "dpkg-deb", "rpm", "rpm2cpio", "mim", "linuxrc", "init", "su", "reboot",
                         "poweroff", "halt", "mkdosfs", "nuke", "run-init"))  # fmt: skip


class Stage:
    """A folder that becomes a segment; files come from the unpacked packages, links with what they point to."""

    def __init__(self, source: Unpacked, folder: Path) -> None:
        self.source, self.folder = source, folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in segments.USRMERGED:
            (folder / "usr" / name).mkdir(parents=True)
            (folder / name).symlink_to(f"usr/{name}")

    def add(self, path: str) -> None:
        """Copy a file, a link and its target, or a folder with everything below it."""
        path = self._below_usr(path)
        origin, place = self.source.root / path, self.folder / path
        if path in NOT_FILES or place.is_symlink() or (place.exists() and not origin.is_dir()):
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_symlink():
            target = str(origin.readlink())
            place.symlink_to(target)
            self.add(os.path.normpath(target.lstrip("/") if target.startswith("/") else f"{path}/../{target}"))
        elif origin.is_dir():
            for entry in sorted(origin.iterdir()):
                self.add(f"{path}/{entry.name}")
        elif origin.is_file():
            shutil.copy2(origin, place)
        else:
            raise DamagedError(f"the PE needs ‘{path}’, which no package of it holds", "correct pe_build/config.py")

    def add_program(self, name: str) -> None:
        """A program of usr/bin or usr/sbin with the libraries it loads."""
        for folder in ("usr/sbin", "usr/bin"):
            if os.path.lexists(self.source.root / folder / name):
                self.add(f"{folder}/{name}")
                return
        raise DamagedError(f"the PE needs the program ‘{name}’, which no package of it holds")

    def add_libraries(self) -> None:
        """The closure over every program and library that is here."""
        for place in sorted(self.folder.rglob("*")):
            if place.is_file() and not place.is_symlink() and _is_dynamic(place):
                for library in self.source.libraries(str(place.relative_to(self.folder))):
                    self.add(library)

    def write(self, path: str, content: bytes, mode: int = 0o644) -> None:
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        place.chmod(mode)

    @staticmethod
    def _below_usr(path: str) -> str:
        top = path.split("/", 1)[0]
        return f"usr/{path}" if top in segments.USRMERGED else path


def tree_members(folder: Path, prefix: str = "") -> Iterator[Member]:
    """Everything below a folder, sorted, as members of a segment."""
    for place in sorted(folder.rglob("*")):
        path = prefix + str(place.relative_to(folder))
        if place.is_symlink():
            yield segments.link(path, str(place.readlink()))
        elif place.is_dir():
            yield segments.directory(path)
        else:
            yield segments.file(path, place.read_bytes(), 0o755 if os.access(place, os.X_OK) else 0o644)


def base_segment(source: Unpacked, folder: Path) -> bytes:
    """The first segment, compressed. What refuses a broken image comes first: links, busybox, /init."""
    log("choosing the files of the PE")
    stage = Stage(source, folder)
    for program in PROGRAMS:
        stage.add_program(program)
    for path in (*FILES, LOADER, *(f"{LIBRARY_FOLDER}/{name}" for name in LIBRARIES)):
        stage.add(path)
    stage.add_libraries()
    _busybox(stage)
    _configuration(stage)
    for path in FOLDERS:
        (folder / path).mkdir(parents=True, exist_ok=True)
    source.run("usr/sbin/ldconfig", "-r", folder)
    shutil.rmtree(folder / "var/cache", ignore_errors=True)
    members = list(tree_members(folder))
    first = [member for member in members if member.path in (*segments.USRMERGED, BUSYBOX, "init", "usr/bin/sh")]
    log(f"compressing {sum(len(member.content) for member in members) >> 20} MiB of base files")
    return segments.compressed(segments.pack([*first, *members]))


def _is_dynamic(place: Path) -> bool:
    """An ELF file that the loader can list: not a static program, not a boot loader's object."""
    with place.open("rb") as content:
        head = content.read(4096)
    return head[:4] == b"\x7fELF" and head[4] == 2 and (b".so" in place.name.encode() or b"ld-linux" in head)


def _busybox(stage: Stage) -> None:
    stage.add(BUSYBOX)
    applets = stage.source.run(BUSYBOX, "--list").stdout.split()
    for name in applets:
        if name not in NOT_APPLETS and not any(
            os.path.lexists(stage.folder / at / name) for at in ("usr/bin", "usr/sbin")
        ):
            (stage.folder / "usr/bin" / name).symlink_to("busybox")
    for name in ("reboot", "poweroff", "halt"):
        (stage.folder / "usr/sbin" / name).symlink_to("/usr/lib/regraft/leave")
    (stage.folder / "usr/sbin/grub-bios-setup").symlink_to("/usr/lib/grub/i386-pc/grub-bios-setup")
    (stage.folder / "usr/sbin/regraft").symlink_to("/opt/regraft/regraft")
    stage.write("usr/lib/regraft/aliases", aliases(stage.folder, applets).encode())


def aliases(folder: Path, applets: Iterable[str]) -> str:
    """Shell words that make a bare name mean the full program, where there is one.

    busybox's shell takes its own applet before any file of PATH (FEATURE_SH_STANDALONE), and its mount, for one, knows
    no file system whose module is not loaded yet.
    """
    lines = []
    for name in applets:
        places = (folder / at / name for at in ("usr/sbin", "usr/bin"))
        full = [place for place in places if os.path.lexists(place) and _links_to(place) != "busybox"]
        lines += [f"alias {name}=/{full[0].relative_to(folder)}\n"] if full else []
    return "".join(lines)


def _links_to(place: Path) -> str:
    return str(place.readlink()) if place.is_symlink() else ""


def _configuration(stage: Stage) -> None:
    for place in sorted(OVERLAY.rglob("*")):
        if place.is_file() and place.name != "grub.cfg":
            content = place.read_bytes()
            stage.write(str(place.relative_to(OVERLAY)), content, 0o755 if content.startswith(b"#!") else 0o644)
    masters = stage.source.root / "usr/share/base-passwd"
    stage.write("etc/passwd", (masters / "passwd.master").read_bytes().replace(b"/bin/bash", b"/bin/sh"))
    stage.write("etc/group", (masters / "group.master").read_bytes() + b"render:x:105:\nkvm:x:106:\nsgx:x:107:\n")
    stage.write("etc/hosts", b"127.0.0.1 localhost regraft-pe\n::1 localhost\n")
    stage.write(
        "etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"
    )
    stage.write("etc/ld.so.conf", f"/{LIBRARY_FOLDER}\n/{LIBRARY_FOLDER}/systemd\n".encode())
    stage.write("etc/os-release", b'ID=regraft-pe\nNAME="Regraft PE"\nPRETTY_NAME="Regraft PE"\n')
    certificates = sorted((stage.source.root / "usr/share/ca-certificates/mozilla").glob("*.crt"))
    stage.write("etc/ssl/certs/ca-certificates.crt", b"".join(place.read_bytes() for place in certificates))
    (stage.folder / "etc/mtab").symlink_to("../proc/self/mounts")
    (stage.folder / "var/run").parent.mkdir(parents=True, exist_ok=True)
    (stage.folder / "var/run").symlink_to("../run")
    (stage.folder / "var/tmp").symlink_to("../tmp")  # where commands unpack by default
