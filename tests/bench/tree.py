"""The data that is packed and unpacked."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from agent.process import run

LAB_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regraft" / "lab"
# What a capture of a system leaves out; taken away before anybody is measured, so that all pack the same.
LEFT_OUT = ("dev/*", "lost+found", "proc/*", "run/*", "sys/*", "tmp/*", "var/tmp/*", "var/cache/apt/archives/*.deb")


def demo_disk() -> Path | None:
    """The demo's source disk, if a demo or a test has built it; its root is partition 2."""
    return next((done.with_name("disk.img") for done in sorted(LAB_CACHE.glob("source-*/nic-name"))), None)


def copy_tree(source: Path, to: Path) -> None:
    """All of it, on one file system, with metadata."""
    run(["cp", "--archive", "--one-file-system", f"{source}/.", to], timeout_s=1800)
    for path in (path for pattern in LEFT_OUT for path in to.glob(pattern)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def copy_part_of_usr(to: Path, limit_bytes: int) -> None:
    """This machine's /usr, folder by folder in the order of names, until the size is reached."""
    chosen, size_bytes = [], 0
    for folder, folders, files in os.walk("/usr"):
        folders.sort()
        for name in sorted(files):
            path = os.path.join(folder, name)
            size_bytes += os.lstat(path).st_size
            if size_bytes > limit_bytes:
                break
            chosen.append(path)
        if size_bytes > limit_bytes:
            break
    names = b"".join(os.fsencode(path.removeprefix("/")) + b"\0" for path in chosen)
    run(["cpio", "--pass-through", "--null", "--make-directories", "--preserve-modification-time", "--quiet", to],
        stdin=names, cwd=Path("/"), timeout_s=1800)  # fmt: skip


def describe(tree: Path) -> dict[str, int]:
    """How many files, how many bytes."""
    files, size_bytes = 0, 0
    for folder, _, names in os.walk(tree):
        for name in names:
            files += 1
            size_bytes += os.lstat(os.path.join(folder, name)).st_size
    return {"files": files, "bytes": size_bytes}


def drift(tree: Path, one_in: int) -> None:
    """Change, remove or add to every so-manieth file, as use does."""
    files = sorted(
        path for folder, _, names in os.walk(tree) for name in names
        if (path := Path(folder, name)).is_file() and not path.is_symlink()
    )  # fmt: skip
    for number, path in enumerate(files[::one_in]):
        if number % 5 == 0:
            path.unlink()
        elif number % 5 == 1:
            path.with_name("drifted").write_text("not in the image")
        else:
            with path.open("ab") as file:
                file.write(b"drifted")


def same(one: Path, other: Path, acls: bool = True) -> str:
    """What differs between two trees, or nothing: a result that is wrong is not fast."""
    words = [
        "rsync",
        "-aHAXn" if acls else "-aHXn",
        "--delete",
        "--checksum",
        "--itemize-changes",
        f"{one}/",
        f"{other}/",
    ]
    lines = run(words, timeout_s=1800).stdout.splitlines()
    # The folder of a fresh file system itself, and its own.
    return "\n".join(line for line in lines if not line.endswith((" ./", " lost+found/")))
