"""Each source captured once: a depot and an inventory, cached by the source and by the code that made them."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import click

from tests.lab.inventory import Inventory, dump, load, read_disk
from tests.lab.locks import locked
from tests.lab.matrix.install import Installed, installed
from tests.lab.medium import ISO
from tests.lab.proof import Facts
from tests.lab.serving import REPOSITORY, serving
from tests.lab.source import CACHE
from tests.lab.story import capture_disk, images

# What decides how an image looks; the rest of the code only reads it.
CAPTURING = (
    "agent/image", "agent/probe", "agent/commands/capture.py", "agent/model/image.py", "agent/model/profile.py",
    "agent/model/storage.py",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Captured:
    """An image of a source and what it is compared with."""

    depot: Path  # copy it: a server writes beside what it serves
    image: str
    key: Path
    facts: Facts
    packages: tuple[Path, ...]  # directories of .deb
    inventory: Path | None  # None where this host cannot read the source's disks
    passphrase: str = ""
    typed: str = ""  # of it, at every boot
    nvram: Path | None = None  # variables of the source's firmware, where it is UEFI

    def source_inventory(self) -> Inventory | None:
        return load(self.inventory.read_text()) if self.inventory else None


def captured(name: str) -> Captured:
    """The source of that name as an image; made when absent."""
    source = installed(name)
    home = CACHE / f"image-{source.home.name}-{digest_of(*CAPTURING)}"
    with locked(CACHE / f"image-{name}.lock"):
        if not (home / "image").exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True)
            capture(source, home)
    inventory = home / "inventory.jsonl"
    return Captured(
        depot=home / "depot",
        image=(home / "image").read_text().strip(),
        key=source.key,
        facts=source.facts,
        packages=(source.packages,),
        inventory=inventory if inventory.exists() else None,
        passphrase=source.system.passphrase,
        typed=source.system.typed,
        nvram=source.home / "nvram.fd" if source.system.firmware == "uefi" else None,
    )


def capture(source: Installed, home: Path) -> None:
    """Through the live system on the source's own hardware: nothing of the source runs, nothing in it changes."""
    click.echo(f"    capturing {source.system.title}")
    machine = replace(source.machine(), memory_mib=1024)
    with serving(home / "depot", home) as served:
        image = capture_disk(machine, source.system.name, ISO, home, served, passphrase=source.system.passphrase)
    assert images(home / "depot") == [image]
    if source.system.host_reads:
        (home / "inventory.jsonl").write_text(dump(read_disk(source.disks[0])))
    (home / "image").write_text(image + "\n")


@cache
def digest_of(*places: str) -> str:
    """Of the code below these paths of the repository."""
    digest = hashlib.sha256()
    for place in places:
        path = REPOSITORY / place
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(REPOSITORY)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]
