"""A disk with a small system, captured unmounted and restored onto another disk: for tests on loop devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.console.recorder import Recorder
from agent.depot.catalogue import LoadedImage, find_image
from agent.depot.local import LocalDepot
from agent.depot.signing import trusted_keys
from agent.image.capture import capture_image
from agent.model.image import ImageRef
from agent.model.plan import Plan
from agent.model.profile import Firmware, Platform, Profile
from agent.probe.disks import read_disk
from agent.probe.source import offline_source
from agent.process import run
from agent.restore.prepare import Prepared, RestoreRequest, prepare
from agent.restore.run import Execution
from tests.image.source_tree import no_events
from tests.probe.loop import LoopDisk

MIB, GIB = 1 << 20, 1 << 30
QUIET = Recorder([])
OS_RELEASE = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n'


@dataclass
class Carrying:
    """A depot, and the image ``web-1`` that goes through it."""

    depot: LocalDepot
    folder: Path
    said: Any = no_events

    def capture(self, disk: LoopDisk) -> LoadedImage:
        with offline_source(disk.name, "web-1", self.folder / "source") as source:
            result = capture_image(source, self.depot, no_events, jobs=2)
        assert not result.warnings
        return find_image(self.depot, trusted_keys(self.depot, ()), result.ref)

    def plan(self, *disks: LoopDisk, **more: Any) -> Plan:
        return self.prepared(*disks, **more).plan

    def prepared(self, *disks: LoopDisk, firmware: Firmware = Firmware.UEFI, **more: Any) -> Prepared:
        """Onto the first of the machine's disks, and what ``wish`` says."""
        machine = Profile("t", "2026-01-01T00:00:00Z", platform=Platform(firmware=firmware))
        machine = replace(machine, disks=tuple(read_disk(disk.name) for disk in disks))
        keys = trusted_keys(self.depot, ())
        selector = f"name={disks[0].name}"
        request = RestoreRequest(image=ImageRef("web-1"), target=machine, selector=selector, **more)
        return prepare(self.depot, keys, request)

    def restore(self, loaded: LoadedImage, plan: Plan) -> Execution:
        execution = Execution(plan, loaded, self.depot, QUIET, self.folder / "root")
        execution.run()
        assert execution.done.mismatches == 0
        return execution


def write_system(root: Path, fstab: str) -> None:
    """What makes a tree a system, and a file with a capability and an owner."""
    for name in ("etc", "home", "srv", "boot", "var/lib", "proc", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "etc/os-release").write_text(OS_RELEASE)
    (root / "etc/hostname").write_text("web1\n")
    (root / "etc/fstab").write_text(fstab)
    (root / "usr/bin").mkdir(parents=True, exist_ok=True)
    (root / "usr/bin/ping").write_bytes(b"ping" * 500)
    (root / "usr/bin/ping").chmod(0o4755)


@contextmanager
def mounted(node: Path, where: Path, options: str = "rw") -> Iterator[Path]:
    where.mkdir(parents=True, exist_ok=True)
    run(["mount", "-o", options, node, where])
    try:
        yield where
    finally:
        run(["umount", where])


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
