"""A package repository on the lab's host: what the machines install from weeks after a restore."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.machine import HOST
from tests.lab.programs import LabError, run
from tests.lab.ssh import Ssh

LIST = "/root/lab.list"
APT = f"apt-get -o Dir::Etc::sourcelist={LIST} -o Dir::Etc::sourceparts=- -o Acquire::Languages=none"
# What an update of the boot path replaces: the kernel that runs, and every part of GRUB that is installed.
BOOT_PACKAGES = (
    "linux-image-$(uname -r) $(dpkg-query -W -f '${db:Status-Status} ${Package}\\n' grub-pc grub-efi-amd64 "
    "grub-efi-amd64-signed shim-signed 2>/dev/null | sed -n 's/^installed //p')"
)
REINSTALL_PATIENCE_S = 2400.0


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def repository(home: Path, packages: tuple[Path, ...]) -> Iterator[str]:
    """Serve these directories of packages; the line of sources.list for machines of the lab."""
    make_index(home, packages)
    handler = functools.partial(Quiet, directory=str(home))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"deb [trusted=yes] http://{HOST}:{server.server_address[1]}/ ./"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def make_index(home: Path, packages: tuple[Path, ...]) -> None:
    home.mkdir(parents=True, exist_ok=True)
    paragraphs = []
    for package in sorted(package for folder in packages for package in folder.glob("*.deb")):
        # A name without its epoch: %3a in a file name means something else in an address.
        name = package.name.replace("%3a", "-")
        link = home / name
        link.unlink(missing_ok=True)
        link.symlink_to(package)
        control = run(["dpkg-deb", "--field", package]).stdout.strip()
        with package.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        paragraphs.append(f"{control}\nFilename: ./{name}\nSize: {package.stat().st_size}\nSHA256: {digest}\n")
    (home / "Packages").write_text("\n".join(paragraphs))


def reinstall_boot_path(ssh: Ssh, line: str) -> str:
    """Install kernel and GRUB once more, as the next update will; the packages. Raises LabError with apt's words."""
    ssh.run(f"echo '{line}' > {LIST}")
    names = ssh.run(f"echo {BOOT_PACKAGES}").stdout.split()
    words = f"{APT} -q update && DEBIAN_FRONTEND=noninteractive {APT} -q -y install --reinstall {' '.join(names)}"
    done = ssh.run(f"{words} 2>&1 && dpkg --audit", timeout_s=REINSTALL_PATIENCE_S, accept=None)
    if done.returncode or "Half" in done.stdout:
        raise LabError(f"reinstalling {', '.join(names)} ended with status {done.returncode}:\n{done.stdout[-3000:]}")
    unpacked = [name for name in names if f"Unpacking {name}" not in done.stdout]
    if unpacked:
        raise LabError(f"apt did not unpack {', '.join(unpacked)} again:\n{done.stdout[-3000:]}")
    return " ".join(names)
