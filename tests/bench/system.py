"""The first data set: a Debian 12 system as an administrator of workstations has it, made by mmdebstrap.

Large, ordinary packages that are cheap to download: a kernel, compilers and their libraries, a database, scientific
Python. The size of its files is that of ordinary systems: about 40 kB on average.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from agent.process import run
from tests.bench.identity import FIRST, give_identity
from tests.bench.tree import LEFT_OUT, remove_left_out
from tests.lab.source import debian_sources

SUITE = "bookworm"
PACKAGES = (
    # a machine
    "linux-image-amd64", "systemd-sysv", "udev", "dbus", "ifupdown", "iproute2", "netbase", "openssh-server",
    "rsyslog", "cron", "logrotate", "e2fsprogs", "kmod", "procps", "less", "man-db", "locales",
    # what is worked with on it
    "git", "vim", "g++", "make", "gdb", "libssl-dev", "golang-go", "rustc", "cargo", "nodejs", "node-typescript",
    "python3-scipy", "python3-matplotlib", "python3-pandas", "postgresql-15",
)  # fmt: skip
IMAGE_BYTES = 5 << 30


def make_system(root: Path) -> str:
    """Install into an empty, mounted file system; how it was made, with a digest of the packages' versions."""
    words: list[str | Path] = [
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        SUITE,
        root,
    ]
    run([*words, *debian_sources()], timeout_s=3600)
    give_identity(root, FIRST)
    remove_left_out(root, LEFT_OUT)
    versions = run(["chroot", root, "dpkg-query", "--show"]).stdout
    digest = hashlib.sha256(versions.encode()).hexdigest()[:16]
    return f"Debian {SUITE} by mmdebstrap, {len(versions.splitlines())} packages, versions {digest}"
