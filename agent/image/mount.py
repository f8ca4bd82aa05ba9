"""An image mounted read-only as a file system, through libfuse, by any user.

Nothing of the depot is copied: directories come from the index, contents are fetched, checked and unfolded as they
are read. libfuse and its binding are loaded only here and only then: a machine that never mounts needs neither.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import os
import stat
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agent.errors import RegraftError, UsageError
from agent.image.image_tree import ImageTree
from agent.image.metadata import attribute_key, attribute_name

# By the names that libfuse's versions have given themselves; found by the loader, without any helper program.
LIBRARIES = ("libfuse3.so.3", "libfuse3.so.4", "libfuse.so.2")
DEVICE = Path("/dev/fuse")
LIBRARY_VARIABLE = "FUSE_LIBRARY_PATH"  # mfusepy's own
INSTALL = "install it: ‘apt install fuse3’ on Debian"
FOREVER_S = 86_400  # an image never changes: the kernel may keep what it was told
BLOCK_BYTES = 4096
KEPT_FOLDERS = 4096
THREADS = 8
STOPPED = 8  # fuse_main's status when its loop ended, by a signal too (fuse.h)


def load_fuse() -> Any:
    """The binding. Raises UsageError where libfuse or the kernel's side of it is absent."""
    if not DEVICE.exists():
        raise UsageError(
            f"this machine has no {DEVICE}, which mounting needs", "load the kernel's module: ‘modprobe fuse’"
        )
    if not os.environ.get(LIBRARY_VARIABLE):
        found = next((name for name in LIBRARIES if _loads(name)), None)
        if found is None:
            raise UsageError(f"this machine has no libfuse, expected one of {', '.join(LIBRARIES)}", INSTALL)
        os.environ[LIBRARY_VARIABLE] = found
    try:
        return importlib.import_module("mfusepy")
    except (OSError, AttributeError) as error:
        raise UsageError(f"libfuse is not usable: {error}", INSTALL) from None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def mount(tree: ImageTree, where: Path, ready: Callable[[], None], *, background: bool, others: bool) -> None:
    """Mount an image on a directory, and return when it was unmounted or a signal (INT, TERM, HUP) ended it.

    ``ready`` is called once files can be read. ``background``: this process ends at once, a copy of it serves.
    ``others``: every user may look, as far as modes allow; otherwise only who mounts, and then everywhere.
    """
    fuse = load_fuse()
    if not where.is_dir():
        raise UsageError(f"{where} is not a directory", "make one; what is in it is hidden while it is mounted")
    files = ImageFiles(tree, ready)
    try:
        _with_holes(fuse)(
            files, str(where), foreground=not background, ro=True, use_ino=True, kernel_cache=True,
            fsname=f"regraft:{tree.loaded.manifest.ref}", subtype="regraft",
            attr_timeout=FOREVER_S, entry_timeout=FOREVER_S, negative_timeout=FOREVER_S,
            **_options(fuse, others),
        )  # fmt: skip
    except RuntimeError as status:
        if not files.started or status.args != (STOPPED,):
            raise UsageError(
                f"{where} could not be mounted: libfuse ended with status {status}, its reason is above",
                "without root, the program fusermount3 (Debian: fuse3) and write access to the directory are needed",
            ) from None
    finally:
        tree.content.close()


def _options(fuse: Any, others: bool) -> dict[str, bool | int]:
    options: dict[str, bool | int] = {"allow_other": True, "default_permissions": True} if others else {}
    version = (fuse.fuse_version_major, fuse.fuse_version_minor)
    if version < (3,):
        options["nonempty"] = True  # libfuse 3 always allows it
    if version >= (3, 12):
        # 3.14 complains of its own default for idle threads.
        options.update(max_threads=THREADS, max_idle_threads=THREADS)
    return options


def _with_holes(fuse: Any) -> Any:
    """The binding's class, with the one operation it has no way to call: libfuse 3.8 asks it for holes."""

    class Fuse(fuse.FUSE):  # type: ignore[misc] # it has no types
        def lseek(self, path: bytes, offset: int, whence: int, info: Any) -> int:
            found: int = self.operations.lseek(os.fsdecode(path), offset, whence, info.contents.fh)
            return found

    return Fuse


class ImageFiles:
    """What libfuse asks. Called from several threads; the index is only read, the content has its own lock."""

    use_ns = True

    def __init__(self, tree: ImageTree, ready: Callable[[], None]) -> None:
        self._index, self._content = tree.index, tree.content
        self._manifest = tree.loaded.manifest
        self._ready = ready
        self._folders: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()
        self.started = False

    def init(self, path: str) -> None:
        self.started = True
        self._ready()

    def getattr(self, path: str, handle: int | None = None) -> dict[str, int]:
        node = self._node(path)
        found = self._index.status(node)
        facts = {
            "st_ino": self._index.file(node) + 1, "st_mode": found.mode, "st_nlink": found.links,
            "st_uid": found.uid, "st_gid": found.gid,
            "st_mtime": found.mtime_ns, "st_atime": found.mtime_ns, "st_ctime": found.mtime_ns,
        }  # fmt: skip
        if found.kind in (stat.S_IFCHR, stat.S_IFBLK):
            return {**facts, "st_rdev": found.size}
        if found.kind == stat.S_IFDIR:
            return facts
        data = self._index.data_bytes(node) if found.kind == stat.S_IFREG else 0
        return {**facts, "st_size": found.size, "st_blocks": -(-data // 512)}

    def readlink(self, path: str) -> str:
        return os.fsdecode(self._index.target(self._node(path)))

    def opendir(self, path: str) -> int:
        return self._node(path)

    def readdir(self, path: str, handle: int) -> Iterator[tuple[str, dict[str, int], int]]:
        yield ".", {"st_mode": stat.S_IFDIR, "st_ino": handle + 1}, 0
        yield "..", {"st_mode": stat.S_IFDIR}, 0
        for node in self._index.children(handle):
            facts = {"st_mode": self._index.status(node).mode, "st_ino": self._index.file(node) + 1}
            yield os.fsdecode(self._index.name(node)), facts, 0

    def open(self, path: str, flags: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, path)
        return self._index.file(self._node(path))

    def read(self, path: str, size: int, offset: int, handle: int) -> bytes:
        try:
            return self._content.read(handle, offset, size)
        except RegraftError as error:
            print(f"regraft: {os.fsdecode(self._index.path(handle))}: {error}", file=sys.stderr, flush=True)
            raise OSError(errno.EIO, path) from None

    def lseek(self, path: str, offset: int, whence: int, handle: int) -> int:
        """The next data or the next hole from a byte on; the end of the file is a hole (lseek(2))."""
        size = self._index.status(handle).size
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise OSError(errno.EINVAL, path)
        if not 0 <= offset < size:
            raise OSError(errno.ENXIO, path)
        place = offset
        for run in self._index.runs(handle, offset):
            if whence == os.SEEK_DATA:
                return max(offset, run.at)
            if run.at > place:
                break
            place = run.at + run.size
        if whence == os.SEEK_DATA:
            raise OSError(errno.ENXIO, path)
        return place

    def listxattr(self, path: str) -> list[str]:
        return sorted(map(attribute_name, self._index.attributes(self._node(path))))

    def getxattr(self, path: str, name: str) -> bytes:
        found = self._index.attribute(self._node(path), attribute_key(name))
        if found is None:
            raise OSError(errno.ENODATA, path)
        return found

    def statfs(self, path: str) -> dict[str, int]:
        data = sum(volume.content_bytes for volume in self._manifest.volumes)
        return {
            "f_bsize": BLOCK_BYTES, "f_frsize": BLOCK_BYTES, "f_blocks": -(-data // BLOCK_BYTES),
            "f_files": len(self._index), "f_namemax": 255,
        }  # fmt: skip

    def _node(self, path: str) -> int:
        """The node at a path that the kernel has walked: no link is left in it."""
        folder, _, last = path.rpartition("/")
        node = self._index.child(self._folder(folder), os.fsencode(last)) if last else self._index.root
        if node is None:
            raise OSError(errno.ENOENT, path)
        return node

    def _folder(self, path: str) -> int:
        with self._lock:
            found = self._folders.get(path)
            if found is not None:
                self._folders.move_to_end(path)
                return found
        node = self._node(path) if path else self._index.root
        with self._lock:
            self._folders[path] = node
            while len(self._folders) > KEPT_FOLDERS:
                self._folders.popitem(last=False)
        return node
