"""What the lab needs of its host: programs of Debian 12, installed when they are absent."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.lab.locks import locked
from tests.lab.machine import OVMF
from tests.lab.programs import LabError, run
from tests.lab.source import CACHE

PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "sfdisk": "fdisk",
    "losetup": "mount",
    "mkfs.ext4": "e2fsprogs",
    "setfacl": "acl",
    "setcap": "libcap2-bin",
    "ssh": "openssh-client",
    "setpriv": "util-linux",
    str(OVMF / "OVMF_CODE_4M.fd"): "ovmf",
}


def missing_packages() -> list[str]:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return sorted(
        package
        for need, package in PACKAGES.items()
        if not (Path(need).exists() if need.startswith("/") else shutil.which(need, path=path))
    )


def install_missing() -> list[str]:
    """Install what is absent; the packages that were."""
    with locked(CACHE / "packages.lock"):
        missing = missing_packages()
        if not missing:
            return []
        if os.geteuid() != 0:
            raise LabError(f"the lab needs {', '.join(missing)}; install them, or run as root")
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "-q", "update"], timeout_s=300, environment=quiet)
        words = ["apt-get", "-q", "-y", "install", "--no-install-recommends", *missing]
        run(words, timeout_s=1200, environment=quiet)
        return missing
