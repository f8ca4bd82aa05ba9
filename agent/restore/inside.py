"""Files of the restored system, reached so that no symbolic link of the image leads out of it.

The kernel resolves every path itself (openat2 with RESOLVE_IN_ROOT, Linux 5.6): an absolute link, or one with too
many "..", ends inside the target's root, as it will when that system runs. No check-then-use in between.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from agent.errors import PatchError

_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10
MAX_BYTES = 16 << 20  # no configuration file is larger
_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class InsideRoot:
    """A root directory; every ``path`` is absolute inside it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, path: str, flags: int, mode: int = 0) -> int:
        """A file descriptor, closed on exec. Raises OSError as open(2) would."""
        how = _OpenHow(flags | os.O_CLOEXEC, mode, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        top = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            words = os.fsencode(path.lstrip("/") or ".")
            opened = int(_libc.syscall(_OPENAT2, top, ctypes.c_char_p(words), ctypes.byref(how), ctypes.sizeof(how)))
            if opened < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), path)
            return opened
        finally:
            os.close(top)

    @contextmanager
    def _opened(self, path: str, flags: int, mode: int = 0) -> Iterator[int]:
        descriptor = self.open(path, flags, mode)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        folder, _, name = path.rstrip("/").rpartition("/")
        if name in ("", ".", ".."):
            raise PatchError(f"‘{path}’ names no file")
        with self._opened(folder or "/", os.O_PATH | os.O_DIRECTORY) as descriptor:
            yield descriptor, name

    def read(self, path: str, limit_bytes: int = MAX_BYTES) -> bytes | None:
        """Content of a regular file; None when there is none."""
        try:
            with self._opened(path, os.O_RDONLY | os.O_NONBLOCK) as descriptor:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise PatchError(f"‘{path}’ is not a regular file in the restored system")
                if status.st_size > limit_bytes:
                    raise PatchError(f"‘{path}’ has {status.st_size:,} bytes, at most {limit_bytes:,} are edited")
                with os.fdopen(os.dup(descriptor), "rb") as file:
                    return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def exists(self, path: str) -> bool:
        """Whether something is there, links followed."""
        try:
            os.close(self.open(path, os.O_PATH))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def lexists(self, path: str) -> bool:
        """Whether something is there, be it a link that leads nowhere."""
        try:
            os.close(self.open(path, os.O_PATH | os.O_NOFOLLOW))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def real(self, path: str) -> str:
        """Where ``path`` leads inside the root, without a link in it and without the leading slash."""
        with self._opened(path, os.O_PATH) as descriptor:
            return str(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(self.root.resolve()))

    def mode(self, path: str) -> int:
        """Permission bits of what is at ``path``, links followed."""
        with self._opened(path, os.O_PATH) as descriptor:
            return stat.S_IMODE(os.fstat(descriptor).st_mode)

    def owner(self, path: str) -> tuple[int, int]:
        """User and group of what is at ``path``, links followed."""
        with self._opened(path, os.O_PATH) as descriptor:
            status = os.fstat(descriptor)
            return status.st_uid, status.st_gid

    def set_owner(self, path: str, owner: int, group: int, mode: int) -> None:
        """Set user, group and permission bits of a file, links followed."""
        with self._opened(path, os.O_RDONLY | os.O_NONBLOCK) as descriptor:
            os.fchown(descriptor, owner, group)
            os.fchmod(descriptor, mode)

    def read_link(self, path: str) -> str | None:
        try:
            with self._parent(path) as (folder, name):
                return os.readlink(name, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
                return None
            raise

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Replace a file's content, owner and attributes kept; make it (and its directories) when absent."""
        try:
            descriptor = self.open(path, os.O_WRONLY | os.O_NONBLOCK)
            made = False
        except FileNotFoundError:
            self.make_directories(path.rpartition("/")[0])
            descriptor = self.open(path, os.O_WRONLY | os.O_CREAT, mode)
            made = True
        with os.fdopen(descriptor, "wb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PatchError(f"‘{path}’ is not a regular file in the restored system")
            os.ftruncate(descriptor, 0)
            file.write(data)
            file.flush()
            if made:
                os.fchmod(descriptor, mode)  # whatever the agent's umask is
            os.fsync(descriptor)

    def make_directories(self, path: str) -> tuple[str, ...]:
        """Make a directory and those above it, 0755; the ones it made."""
        made: list[str] = []
        walked = ""
        for part in [part for part in path.split("/") if part]:
            walked += f"/{part}"
            if not self.exists(walked):
                with self._parent(walked) as (folder, name):
                    os.mkdir(name, 0o755, dir_fd=folder)
                made.append(walked)
        return tuple(made)

    def link(self, path: str, target: str) -> None:
        """A symbolic link; an other link of that name is replaced."""
        self.make_directories(path.rpartition("/")[0])
        with self._parent(path) as (folder, name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            os.symlink(target, name, dir_fd=folder)

    def remove(self, path: str) -> None:
        """Remove a file or link itself; nothing when there is none."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._parent(path) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def rename(self, path: str, to: str) -> None:
        """Give what is at ``path`` another name, be it a link or a directory with all that is in it."""
        with self._parent(path) as (folder, name), self._parent(to) as (other_folder, other_name):
            os.rename(name, other_name, src_dir_fd=folder, dst_dir_fd=other_folder)

    def below(self, path: str) -> tuple[str, ...]:
        """A path and everything below it; links are not followed."""
        names = () if self.read_link(path) is not None else self.list(path)
        return (path, *(each for name in names for each in self.below(f"{path}/{name}")))

    def list(self, path: str) -> tuple[str, ...]:
        """Sorted names in a directory; empty when there is none."""
        try:
            with self._opened(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
                return tuple(sorted(os.listdir(descriptor)))  # noqa: PTH208 - of a descriptor
        except (FileNotFoundError, NotADirectoryError):
            return ()

    def glob(self, pattern: str) -> tuple[str, ...]:
        """Paths whose last part matches; links that lead nowhere included."""
        folder, _, name = pattern.rpartition("/")
        if not set(name) & set("*?["):
            return (pattern,) if self.lexists(pattern) else ()
        return tuple(f"{folder}/{entry}" for entry in self.list(folder or "/") if fnmatchcase(entry, name))
