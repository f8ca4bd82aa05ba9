"""Programs of the image (dpkg, update-initramfs, grub-install) run here and nowhere else.

Own mount, pid, network, ipc and uts namespaces; the target's root as the only file system they see; a /dev with the
few nodes that such programs need; no network, none of the agent's environment. When the first process ends or the
time is up, everything in it is ended with it, and its mounts are gone with its namespace.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.errors import PatchError, TemporaryError
from agent.process import Completed, ProcessError, attach, child_environment, run
from agent.restore.inside import InsideRoot

DEFAULT_TIMEOUT_S = 900.0
VISIBLE = "/run/regraft"  # where files of the agent appear inside, read-only
# The words of this script never change; what varies is passed as its arguments: the root; a count of device nodes and
# five words for each (name mode type major minor); a count of links and two words for each; a count of files and two
# words for each (file, name); a count of stand-ins and two words for each (file, path below the root, no link in it);
# the program. The shell and util-linux's mount are those of the agent's own system.
_SETUP = r"""
set -eu
root=$1; shift
mount --make-rprivate /
mount --rbind "$root" "$root"
cd "$root"
for dir in dev proc sys run tmp; do
    [ -d "$dir" ] && [ ! -L "$dir" ] || { echo "no directory /$dir in the restored system" >&2; exit 125; }
done
mount -t tmpfs -o mode=755,size=4m dev dev
mkdir dev/pts dev/shm dev/disk dev/disk/by-uuid dev/disk/by-partuuid dev/mapper
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
count=$1; shift
while [ "$count" -gt 0 ]; do
    mknod -m "$2" "dev/$1" "$3" "$4" "$5"; shift 5; count=$((count - 1))
done
count=$1; shift
while [ "$count" -gt 0 ]; do
    mkdir -p "dev/${1%/*}"; ln -s "$2" "dev/$1"; shift 2; count=$((count - 1))
done
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t tmpfs -o mode=755,nosuid,nodev run run
mkdir run/lock run/regraft
chmod 1777 run/lock
mount -t tmpfs -o mode=1777,nosuid,nodev tmp tmp
count=$1; shift
while [ "$count" -gt 0 ]; do
    : > "run/regraft/$2"
    mount --bind "$1" "run/regraft/$2"
    mount -o remount,bind,ro "run/regraft/$2"
    shift 2; count=$((count - 1))
done
count=$1; shift
while [ "$count" -gt 0 ]; do
    mount --bind "$1" "./$2"
    mount -o remount,bind,ro "./$2"
    shift 2; count=$((count - 1))
done
cd /
exec chroot "$root" "$@"
"""
_NODES = (
    ("null", "666", "c", 1, 3),
    ("zero", "666", "c", 1, 5),
    ("full", "666", "c", 1, 7),
    ("random", "666", "c", 1, 8),
    ("urandom", "666", "c", 1, 9),
    ("tty", "666", "c", 5, 0),
)
_MISSING = re.compile(r"^ (\S+) depends on (.+?); however:\n\s+(.+)$", re.MULTILINE)


class Sandbox:
    """The restored system below ``root``, ready to run its own programs."""

    def __init__(
        self,
        root: Path,
        disk_nodes: Sequence[Path] = (),
        stand_ins: Mapping[str, Path] | None = None,
        links: Sequence[tuple[str, str]] = (),
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """``stand_ins``: for every program, as in `run`; ``links``: name below /dev → what it leads to."""
        self.root = root
        self.timeout_s = timeout_s  # of every program for which no other is said
        self._stand_ins = dict(stand_ins or {})
        self._nodes = [list(map(str, node)) for node in _NODES]
        self._links = [list(link) for link in links]
        for node in disk_nodes:
            self._add_disk_node(node)
        # LVM's own commands, which grub-probe asks, speak to the kernel through this node.
        if any(node.name.startswith("dm-") for node in disk_nodes):
            self._nodes.append(["mapper/control", "600", "c", *_control_number()])

    def _add_disk_node(self, node: Path) -> None:
        status = node.stat()
        if not stat.S_ISBLK(status.st_mode):
            raise PatchError(f"‘{node}’ is not a block device", "give the target disk's own nodes")
        device = status.st_rdev
        self._nodes.append([node.name, "600", "b", str(os.major(device)), str(os.minor(device))])
        # grub-mkconfig writes root=UUID=… only when the link that udev would make is there.
        printed = run(["blkid", "-p", "-o", "export", node], accept=(0, 2, 4, 8)).stdout
        names = dict(line.split("=", 1) for line in printed.splitlines() if "=" in line)
        for key, folder in (("UUID", "by-uuid"), ("PART_ENTRY_UUID", "by-partuuid")):
            link = f"disk/{folder}/{names.get(key, '')}"
            # The members of an array, and copies of an EFI system partition, have one UUID: the first has the name.
            if re.fullmatch(r"[A-Za-z0-9-]+", names.get(key, "")) and link not in (each[0] for each in self._links):
                self._links.append([link, f"../../{node.name}"])

    def run(  # noqa: PLR0913 - each parameter is a property of the program's world
        self,
        argv: Sequence[str],
        timeout_s: float | None = None,
        environment: Mapping[str, str] | None = None,
        files: Sequence[Path] = (),
        accept: Sequence[int] = (0,),
        stand_ins: Mapping[str, Path] | None = None,
    ) -> Completed:
        """Run a program of the image; ``files`` of the agent appear as VISIBLE/<name>.

        ``stand_ins``: path of a file of the image → file of the agent that this program sees in its place.
        Raises PatchError with what the program printed, or that it did not end within ``timeout_s`` seconds.
        """
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        try:
            return run(self._words(argv, environment or {}, files, stand_ins or {}), timeout_s=timeout_s, accept=accept)
        except ProcessError as error:
            said = "\n".join(part for part in (error.stderr.strip()[-2000:], error.stdout.strip()[-1000:]) if part)
            raise PatchError(
                f"‘{' '.join(argv)}’ in the restored system ended with status {error.status}, expected 0:\n{said}"
            ) from error
        except TemporaryError as error:
            raise PatchError(
                f"‘{' '.join(argv)}’ in the restored system did not end within {timeout_s:.0f} s", "it was ended"
            ) from error

    def attach(self, argv: Sequence[str], stdout: int | None = None) -> int:
        """Run a program of the image for the person at the terminal; its exit status."""
        told = {"TERM": os.environ.get("TERM", "dumb")}
        return attach(self._words(argv, told, (), {}), stdout=stdout, environment=child_environment())

    def _words(
        self, argv: Sequence[str], environment: Mapping[str, str], files: Sequence[Path], stand_ins: Mapping[str, Path]
    ) -> list[str]:
        unshare = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child", "--"]
        setup = ["sh", "-c", _SETUP, "sandbox", str(self.root), *_counted(self._nodes), *_counted(self._links)]
        shown = _counted([[str(path.resolve()), path.name] for path in files])
        inside = InsideRoot(self.root)
        everywhere = {**self._stand_ins, **stand_ins}
        covered = _counted([[str(file.resolve()), inside.real(path)] for path, file in everywhere.items()])
        words = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8", **environment}
        # By its path: busybox, the PE's shell, would run an applet of its own instead of any bare name, dpkg too.
        clean = ["/usr/bin/env", "-i", *(f"{key}={value}" for key, value in words.items())]
        return [*unshare, *setup, *shown, *covered, *clean, *argv]

    def install_deb(self, files: Sequence[Path], timeout_s: float | None = None) -> None:
        """Install packages together; their services stay off, and the initramfs is left to a later step."""
        paths = [f"{VISIBLE}/{path.name}" for path in files]
        # No flush after every file: the whole tree is brought to the disk before anything boots from it.
        command = ["dpkg", "--force-unsafe-io", "--force-confdef", "--force-confold", "--install", *paths]
        # Debian's hook for initramfs-tools (/etc/kernel/postinst.d/initramfs-tools) does nothing when INITRD is No;
        # linux-image's own scripts hand their environment on.
        self._dpkg(command, timeout_s, files, {"INITRD": "No"})

    def remove_deb(self, packages: Sequence[str], timeout_s: float | None = None) -> None:
        """Remove packages with their configuration; of a kernel, its initramfs too."""
        self._dpkg(["dpkg", "--force-unsafe-io", "--purge", *packages], timeout_s, (), {})

    def remove_rpm(self, packages: Sequence[str], timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Remove packages; rpm refuses when something that stays needs them."""
        words = ["/usr/bin/rpm", "--nosignature", "--erase", "--allmatches", *packages]
        self.run(words, timeout_s, {"SYSTEMD_OFFLINE": "1"})

    def _dpkg(
        self, command: list[str], timeout_s: float | None, files: Sequence[Path], words: Mapping[str, str]
    ) -> None:
        environment = {"DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true", **words}
        with self._services_denied():
            try:
                self.run(command, timeout_s, environment, files)
            except PatchError as error:
                missing = [f"{found[1]} needs {found[2]}" for found in _MISSING.finditer(error.message)]
                if missing:
                    hint = "add the missing packages to the depot with ‘regraft component add’"
                    raise PatchError(f"dpkg cannot configure: {'; '.join(missing)}", hint) from error
                raise

    @contextmanager
    def _services_denied(self) -> Iterator[None]:
        """policy-rc.d answers 101, "not allowed", to every package script that wants to start a service."""
        inside = InsideRoot(self.root)
        path = "/usr/sbin/policy-rc.d"
        before = inside.read(path)
        inside.write(path, b"#!/bin/sh\nexit 101\n", mode=0o755)
        try:
            yield
        finally:
            if before is None:
                inside.remove(path)
            else:
                inside.write(path, before)


def _control_number() -> tuple[str, str]:
    """Device number of /dev/mapper/control: a misc device, its minor given by the kernel (devices.txt: 10, 236)."""
    lines = (line.split() for line in Path("/proc/misc").read_text().splitlines())
    return "10", next((words[0] for words in lines if words[1] == "device-mapper"), "236")


def _counted(rows: Sequence[Sequence[str]]) -> list[str]:
    return [str(len(rows)), *(word for row in rows for word in row)]
