"""Debian packages for the PE: resolved and fetched with apt, from the machine's own sources, into a private state.

The packages are unpacked, never installed: no maintainer script runs, so nothing random (host keys, ids) can come
into the image, no root is needed, and the exact list of versions is the key under which everything is cached.
Programs of the unpacked tree (depmod, grub-mkimage, mtools, xorriso) are the build's tools: the host lends only apt.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from agent.errors import UnreachableError, UsageError
from agent.process import Completed, ProcessError, run
from pe_build.config import COMPONENTS, SUITE, log

LISTS_FRESH_S = 24 * 3600
LIBRARIES = "usr/lib/x86_64-linux-gnu"
LOADER = f"{LIBRARIES}/ld-linux-x86-64.so.2"


@dataclass(frozen=True, slots=True)
class Apt:
    """apt with sources, lists and archives of its own; it knows nothing of what the host has installed."""

    home: Path

    def options(self) -> list[str]:
        nowhere = str(self.home / "none")
        settings = {
            "Dir::Etc::SourceList": str(self.home / "sources.list"),
            "Dir::Etc::SourceParts": nowhere,
            "Dir::Etc::Preferences": nowhere,
            "Dir::Etc::PreferencesParts": nowhere,
            "Dir::State": str(self.home / "state"),
            "Dir::State::status": "/dev/null",
            "Dir::State::Lists": str(self.home / "lists"),
            "Dir::Cache": str(self.home / "cache"),
            "Dir::Cache::archives": str(self.home / "archives"),
            "APT::Architecture": "amd64",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]

    def prepare(self, refresh: bool) -> None:
        """Fetch the lists of packages; old ones do when no network is there."""
        for part in ("none", "state", "lists/partial", "cache", "archives/partial"):
            (self.home / part).mkdir(parents=True, exist_ok=True)
        stamp = self.home / "lists.stamp"
        sources = host_sources()
        known = stamp.exists() and (self.home / "sources.list").exists()
        same = known and (self.home / "sources.list").read_text() == sources
        if same and not refresh and time.time() - stamp.stat().st_mtime < LISTS_FRESH_S:
            return
        (self.home / "sources.list").write_text(sources)
        log("fetching the lists of packages")
        try:
            run(["apt-get", *self.options(), "-q", "update"], timeout_s=600)
        except ProcessError as error:
            if not same:
                raise UnreachableError(
                    f"the lists of packages cannot be fetched: {error.stderr.strip()[-500:]}"
                ) from None
            log(f"no new lists of packages, using those of {time.ctime(stamp.stat().st_mtime)}")
            return
        stamp.touch()

    def names(self, pattern: str) -> tuple[str, ...]:
        """Packages that exist, by a regular expression over their names."""
        found = run(["apt-cache", *self.options(), "search", "--names-only", pattern]).stdout
        return tuple(sorted(line.split(" ", 1)[0] for line in found.splitlines()))

    def resolve(self, packages: Sequence[str]) -> tuple[str, ...]:
        """``name version`` of everything the packages need: the lock of this build."""
        said = run(["apt-get", *self.options(), "-s", "install", *packages]).stdout
        lines = (line.split() for line in said.splitlines() if line.startswith("Inst "))
        return tuple(sorted(f"{words[1]} {words[2].strip('(')}" for words in lines))

    def fetch(self, packages: Sequence[str], lock: Sequence[str]) -> list[Path]:
        """The archive of every package of the lock; what is there already is not fetched again."""
        run(["apt-get", *self.options(), "-q", "-y", "--download-only", "install", *packages], timeout_s=3600)
        archives = []
        for line in lock:
            name, version = line.split(" ")
            matches = list((self.home / "archives").glob(f"{name}_{version.replace(':', '%3a')}_*.deb"))
            if len(matches) != 1:
                raise UnreachableError(f"package {name} {version}: found {len(matches)} archives, expected 1")
            archives.append(matches[0])
        return archives


def host_sources() -> str:
    """The host's own apt sources of Debian 12, with the firmware component beside main."""
    fields = "|".join(f"$({name})" for name in ("ORIGIN", "REPO_URI", "RELEASE"))
    said = run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"]).stdout
    found = {tuple(line.split("|")) for line in said.splitlines()}
    lines = [f"deb {uri} {release} {COMPONENTS}\n" for origin, uri, release in sorted(found)
             if origin == "Debian" and release.split("-")[0] == SUITE and "backports" not in release]  # fmt: skip
    if not lines:
        raise UsageError(
            f"this host's apt knows no source of Debian ‘{SUITE}’",
            f"add deb lines of {SUITE} and {SUITE}-security to /etc/apt and run apt-get update",
        )
    return "".join(lines)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A tree of unpacked packages, merged below usr/. Its programs can be run on the host's files."""

    root: Path

    def run(self, program: str, *arguments: str | os.PathLike[str], cwd: Path | None = None) -> Completed:
        return run([*self._loader(), self.root / program, *arguments], cwd=cwd, timeout_s=900)

    def libraries(self, program: str) -> tuple[str, ...]:
        """Paths below the tree of every library a program loads."""
        listed = run([*self._loader(), "--list", self.root / program]).stdout
        found = []
        for line in listed.splitlines():
            _, arrow, place = line.strip().partition("=> ")
            if not arrow:
                continue
            path = Path(place.split(" (")[0])
            if not path.is_relative_to(self.root):
                raise UsageError(f"‘{program}’ needs {line.strip()}, which no package of the PE holds")
            found.append(str(path.relative_to(self.root)))
        return tuple(found)

    def _loader(self) -> list[str | Path]:
        places = (LIBRARIES, f"{LIBRARIES}/systemd", "usr/lib/systemd")
        paths = ":".join(str(self.root / place) for place in places)
        return [self.root / LOADER, "--inhibit-cache", "--library-path", paths]


def unpack(apt: Apt, packages: Sequence[str], lock: Sequence[str], cache: Path) -> Unpacked:
    """The tree of these packages, fetched and made once for a lock."""
    root = cache / f"root-{sha256(chr(10).join(lock).encode()).hexdigest()[:16]}"
    if root.exists():
        return Unpacked(root)
    log(f"fetching {len(lock)} packages")
    archives = apt.fetch(packages, lock)
    log(f"unpacking {len(archives)} packages")
    partial = root.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for archive in archives:
        run(["dpkg-deb", "-x", archive, partial])
    _merge_usr(partial)
    partial.rename(root)
    return Unpacked(root)


def _merge_usr(root: Path) -> None:
    """Move /bin, /lib … of the packages below usr/, as Debian's usr-merge does, and leave links."""
    for name in ("bin", "sbin", "lib", "lib64"):
        old, new = root / name, root / "usr" / name
        new.mkdir(parents=True, exist_ok=True)
        if old.is_dir() and not old.is_symlink():
            _move_into(old, new)
        if not old.is_symlink():
            old.symlink_to(f"usr/{name}")


def _move_into(source: Path, target: Path) -> None:
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and not entry.is_symlink() and place.is_dir():
            _move_into(entry, place)
        elif not place.exists() and not place.is_symlink():
            entry.rename(place)
        else:
            entry.unlink()
    source.rmdir()
