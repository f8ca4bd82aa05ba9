"""The peers: programs of Debian 12. Root installs what is absent; whoever is still absent is left out, and said so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from agent.process import run
from tests.bench.contestants import Contestant
from tests.bench.values import Omission

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What the bench itself works with.
OWN = {
    "mmdebstrap": "mmdebstrap", "mkfs.ext4": "e2fsprogs", "losetup": "mount", "rsync": "rsync", "cpio": "cpio",
    "curl": "curl", "mkfs.ntfs": "ntfs-3g", "ntfs-3g": "ntfs-3g", "unshare": "util-linux",
}  # fmt: skip
QUIET = {"DEBIAN_FRONTEND": "noninteractive"}


def there(program: str) -> bool:
    return shutil.which(program, path=PATH) is not None


def install_missing(contestants: Iterable[Contestant]) -> list[str]:
    """Install what is absent, where that is possible; the packages that were."""
    wanted = {package for one in contestants if not all(map(there, one.programs)) for package in one.packages}
    wanted |= {package for program, package in OWN.items() if not there(program)}
    if wanted and os.geteuid() == 0:
        run(["apt-get", "-q", "update"], timeout_s=300, environment=QUIET)
        words = ["apt-get", "-q", "-y", "install", "--no-install-recommends", *sorted(wanted)]
        run(words, timeout_s=1200, environment=QUIET)
    return sorted(wanted)


def present(contestants: Iterable[Contestant]) -> tuple[list[Contestant], list[Omission]]:
    """Who can be measured here, and who cannot."""
    able, unable = [], []
    for one in contestants:
        absent = [program for program in one.programs if not there(program)]
        if absent:
            unable.append(Omission(one.name, f"{', '.join(absent)} not found; Debian has it in {one.packages[0]}"))
        else:
            able.append(one)
    return able, unable


def find_nginx(cache: Path, fetch: bool) -> Path | None:
    """A web server: the machine's own, or Debian's unpacked into the cache. Installing it would start it."""
    if found := shutil.which("nginx", path=PATH):
        return Path(found)
    folder = cache / "nginx"
    program = folder / "usr/sbin/nginx"
    if not program.exists() and fetch:
        folder.mkdir(parents=True, exist_ok=True)
        run(["apt-get", "-q", "download", "nginx"], cwd=folder, timeout_s=300, environment=QUIET)
        (package,) = folder.glob("nginx_*.deb")
        run(["dpkg-deb", "--extract", package, folder])
    return program if program.exists() else None


def versions() -> dict[str, str]:
    """What each program says it is, first line."""
    asked = {
        "tar": ["tar", "--version"], "zstd": ["zstd", "--version"], "mksquashfs": ["mksquashfs", "-version"],
        "qemu-img": ["qemu-img", "--version"], "bmaptool": ["bmaptool", "--version"],
        "partclone": ["partclone.restore", "--version"], "restic": ["restic", "version"],
        "borg": ["borg", "--version"], "wimlib": ["wimcapture", "--version"], "curl": ["curl", "--version"],
    }  # fmt: skip
    said = {}
    for name, words in asked.items():
        if there(words[0]):
            done = run(words, accept=range(256))
            said[name] = (done.stdout.strip() or done.stderr.strip() or "?").splitlines()[0]
    return said
