"""The demo's source as one of the matrix: captured while it runs, its kernel for physical machines a component."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import click

from tests.lab.demo import Demo, add_kernel, capture_running, generic_kernel
from tests.lab.inventory import dump, read_disk
from tests.lab.locks import locked
from tests.lab.matrix.captured import CAPTURING, Captured, digest_of
from tests.lab.programs import run
from tests.lab.proof import Facts
from tests.lab.serving import serving
from tests.lab.source import CACHE, cache_key, cached_source

GRUB = ("grub-pc", "grub-pc-bin", "grub2-common", "grub-common")


def cloud_key() -> str:
    return cache_key()


def cloud_source() -> Captured:
    source = cached_source()
    home = CACHE / f"image-cloud-{cache_key()}-{digest_of(*CAPTURING, 'agent/depot/components.py')}"
    with locked(CACHE / "image-cloud.lock"):
        if not (home / "image").exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True)
            capture(home)
    return Captured(
        depot=home / "depot",
        image=(home / "image").read_text().strip(),
        key=source.key,
        facts=Facts(**json.loads((home / "facts.json").read_text())),
        packages=(generic_kernel().parent, home / "packages"),
        inventory=home / "inventory.jsonl",
    )


def capture(home: Path) -> None:
    click.echo("    capturing Debian 12 with the cloud kernel, while it runs")
    source, demo = cached_source(), Demo(home)
    disk = home / "source.img"
    run(["cp", "--sparse=always", source.disk, disk])
    with serving(home / "depot", home) as served:
        capture_running(demo, source, disk, served)
        add_kernel(served)
    assert demo.facts is not None
    (home / "facts.json").write_text(json.dumps(asdict(demo.facts)))
    (home / "inventory.jsonl").write_text(dump(read_disk(disk)))
    disk.unlink()
    packages = home / "packages"
    packages.mkdir()
    run(["apt-get", "-q", "download", *GRUB], cwd=packages, timeout_s=300)
    (home / "image").write_text(demo.image + "\n")
