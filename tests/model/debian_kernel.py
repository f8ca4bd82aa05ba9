"""Debian's own kernels for tests: packages fetched with apt, unpacked and indexed once below the cache."""

from __future__ import annotations

import functools
from pathlib import Path

from agent.process import run

CACHE = Path.home() / ".cache/regraft"


@functools.cache
def kernel_package(flavour: str) -> Path:
    """The newest linux-image .deb of a flavour (amd64, cloud-amd64) that apt knows; kept in the cache."""
    lines = run(["apt-cache", "depends", f"linux-image-{flavour}"]).stdout.splitlines()
    name = next(line.split()[1] for line in lines if line.strip().startswith("Depends: linux-image-"))
    return package(name)


@functools.cache
def package(name: str) -> Path:
    """A .deb by its name, from the cache or by ``apt-get download``."""
    debs = CACHE / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    version = run(["apt-cache", "show", "--no-all-versions", name]).stdout.partition("Version: ")[2].split()[0]
    pattern = f"{name}_{version.replace(':', '%3a')}_*.deb"
    if not list(debs.glob(pattern)):
        run(["apt-get", "download", "-q", name], cwd=debs)
    return next(debs.glob(pattern))


@functools.cache
def unpacked_kernel(flavour: str) -> tuple[Path, str]:
    """A tree with that kernel and depmod's indexes, and its release."""
    deb = kernel_package(flavour)
    root = CACHE / f"kernel-{deb.stem}"
    done = root / ".done"
    if not done.exists():
        run(["dpkg-deb", "-x", str(deb), str(root)])
        release = next((root / "lib/modules").iterdir()).name
        run(["depmod", "-b", str(root), release])
        done.touch()
    return root, next((root / "lib/modules").iterdir()).name
