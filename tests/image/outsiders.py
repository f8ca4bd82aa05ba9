"""Two trees compared by programs that are not ours: each function gives what is unlike, in that program's words."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from agent.process import Completed, run

BLOCK = 4096
OF_XFS = "trusted.SGI_ACL_"  # XFS shows POSIX ACLs a second time, under names of its own; getfacl compares them
# Of lsattr: how a file is stored (extents, indexed, inline), not what was asked for.
STORAGE = "eIN"


def by_rsync(source: Path, target: Path) -> str:
    words = ["rsync", "-aHAXSn", "--checksum", "--delete", "--itemize-changes", f"--filter=-x {OF_XFS}*"]
    return run([*words, f"{source}/", f"{target}/"]).stdout


def by_tar(source: Path, target: Path, archive: Path) -> str:
    """What tar keeps of the source, compared with the target; it says that it leaves sockets out."""
    try:
        run(["tar", "--format=posix", "--xattrs", "--xattrs-include=*", "--acls", "--selinux", "--sparse",
             "-C", source, "-cf", archive, "."])  # fmt: skip
        done = run(["tar", "--xattrs", "--acls", "--selinux", "-C", target, "--compare", "-f", archive], accept=(0, 1))
    finally:
        archive.unlink(missing_ok=True)
    return done.stdout + done.stderr + ("" if done.status == 0 else f"status {done.status}")


def by_archives(source: Path, target: Path) -> bool:
    """Whether tar makes the same archive of both: it reads paths of any length, and compares short ones only."""
    times = "--pax-option=delete=atime,delete=ctime"
    words = ["tar", "--format=posix", times, "--sort=name", "--xattrs", "-cf", "-", "."]
    digests = {run(["sh", "-c", f"{shlex.join(words)} | sha256sum"], cwd=tree).stdout for tree in (source, target)}
    return len(digests) == 1


def by_listing(words: list[str], source: Path, target: Path) -> str:
    """The lines that a program prints of one tree only; it runs in the tree's root, and must print something."""
    here, there = (lines_of(run(words, cwd=tree, accept=range(256))) for tree in (source, target))
    assert here, f"{words} printed nothing"
    return "".join(f"- {line}\n" for line in here - there) + "".join(f"+ {line}\n" for line in there - here)


def lines_of(done: Completed) -> set[str]:
    return set(done.stdout.replace("\0", "\n").splitlines())


def by_capabilities(source: Path, target: Path) -> str:
    return by_listing(["getcap", "-r", "."], source, target)


def by_acls(source: Path, target: Path) -> str:
    return by_listing(["getfacl", "-R", "-P", "-n", "--tabular", "."], source, target)


def by_attributes(source: Path, target: Path) -> str:
    found = by_listing(["getfattr", "-R", "-P", "-h", "-d", "-m", "-", "-e", "hex", "."], source, target)
    return "".join(line for line in found.splitlines(keepends=True) if OF_XFS not in line)


def by_flags(source: Path, target: Path, carried: str) -> str:
    """lsattr's letters, those in ``carried``, of every file and directory."""
    unlike = []
    found = [
        flags_of(run(["lsattr", "-R", "-a", "."], cwd=tree, accept=range(256)), carried) for tree in (source, target)
    ]
    assert any(letters for _, letters in found[0])
    for path, letters in sorted(found[0] ^ found[1]):
        unlike.append(f"{'-' if (path, letters) in found[0] else '+'} {letters} {path}\n")
    return "".join(unlike)


def flags_of(done: Completed, carried: str) -> set[tuple[str, str]]:
    rows = (line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    return {(row[1], "".join(letter for letter in row[0] if letter in carried)) for row in rows}


def by_stat(source: Path, target: Path) -> str:
    """Type, mode, owner, time in ns, links, size and text of links: find's view."""
    shown = ["%y %m %U:%G %T@ %l %P", "%n %s"]
    every = by_listing(["find", ".", "-printf", f"{shown[0]}\\0"], source, target)
    return every + by_listing(["find", ".", "!", "-type", "d", "-printf", f"{shown[1]} %P\\0"], source, target)


def by_devices(source: Path, target: Path) -> str:
    words = ["find", ".", "(", "-type", "b", "-o", "-type", "c", ")", "-exec", "stat", "-c", "%F %t:%T %n", "{}", "+"]
    return by_listing(words, source, target)


def by_holes(source: Path, target: Path) -> str:
    """Data where the source has none, as SEEK_DATA tells. A file system knows whole blocks only, so that what is
    data there is widened to blocks of 4 KiB: all three use them here."""
    unlike = []
    for name in regular_files(source):
        here = {block for start, end in data_of(source, name) for block in range(start // BLOCK, -(-end // BLOCK))}
        more = sum(
            (end - start) // BLOCK or 1
            for start, end in data_of(target, name)
            if not here.issuperset(range(start // BLOCK, -(-end // BLOCK)))
        )
        if more:
            unlike.append(f"{name!r}: data in up to {more} blocks that the source does not have\n")
    return "".join(unlike)


def by_filefrag(path: Path) -> int:
    """Blocks that filefrag counts of a file, holes not counted."""
    lines = run(["filefrag", "-v", f"-b{BLOCK}", path]).stdout.splitlines()
    rows = [line.split(":") for line in lines if line.strip()[:1].isdigit() and ".." in line]
    return sum(int(row[3]) for row in rows if "unwritten" not in row[-1])


def regular_files(root: Path) -> Iterator[bytes]:
    for folder, _, names in os.walk(os.fsencode(root)):
        for name in names:
            path = os.path.join(folder, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                yield os.path.relpath(path, os.fsencode(root))


def data_of(root: Path, name: bytes) -> list[tuple[int, int]]:
    """The ranges of a file that hold data."""
    found: list[tuple[int, int]] = []
    descriptor = os.open(os.path.join(os.fsencode(root), name), os.O_RDONLY)
    try:
        end = 0
        while True:
            try:
                start = os.lseek(descriptor, end, os.SEEK_DATA)
            except OSError:
                return found  # ENXIO: no more
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
            found.append((start, end))
    finally:
        os.close(descriptor)
