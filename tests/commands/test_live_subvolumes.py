"""A system that runs from subvolumes of a btrfs is captured while it runs: the whole program, in a root of its own."""

from __future__ import annotations

import shlex
import uuid
from pathlib import Path

import pytest

from agent.process import run
from tests.commands.machine import isolated
from tests.commands.program import REPOSITORY, Regraft
from tests.probe.loop import loop_disk
from tests.restore.carried_disk import MIB, mounted, write_system

pytestmark = pytest.mark.root
TABLE = "label: gpt\n1 : start=2048, size=800000\n"
USED = ("/usr", str(REPOSITORY), "/etc/ld.so.cache")


def running(disk_node: Path, folder: Path, program: Path) -> tuple[str, ...]:
    """Words that start a program in a system whose root is ``@`` and whose /home is ``@home``."""
    inside = folder / "running"
    shared = [*USED, str(folder), str(program.resolve().parent)]
    script = [
        f"mount -o subvol=@ /dev/sda1 {shlex.quote(str(inside))}",
        f"cd {shlex.quote(str(inside))}",
        "mount -o subvol=@home /dev/sda1 home",
        "mount -o subvol=/ /dev/sda1 mnt",  # as administrators do for a while
        "for place in /proc /sys /dev; do mount --rbind $place .$place; done",
        *(f"mount --bind {shlex.quote(place)} .{shlex.quote(place)}" for place in shared),
        'exec chroot . "$@"',
    ]
    before = isolated(folder / "machine", disk_node)
    return (*before, "sh", "-ec", "\n".join(script), "running")


def test_a_running_system_on_subvolumes(regraft: Regraft, depot: Path, tmp_path: Path) -> None:
    own = str(uuid.uuid4())
    with loop_disk(tmp_path / "disk.img", 400 * MIB, TABLE) as disk:
        run(["mkfs.btrfs", "--quiet", "--uuid", own, disk.part(1)])
        with mounted(disk.part(1), tmp_path / "top") as top:
            for name in ("@", "@home"):
                run(["btrfs", "subvolume", "create", top / name])
            fstab = f"UUID={own} / btrfs subvol=@ 0 0\nUUID={own} /home btrfs subvol=@home,compress=zstd 0 0\n"
            write_system(top / "@", fstab)
            for name in ("@/mnt", "@/sys", "@/dev"):
                (top / name).mkdir()
            run(["btrfs", "subvolume", "create", top / "@/var/lib/machines"])
            (top / "@/var/lib/machines/one").write_text("a machine")
            run(["btrfs", "subvolume", "snapshot", "-r", top / "@", top / "@/before"])
            (top / "@home/letter").write_text("dear ann")
            for place in (*USED, str(tmp_path), str(regraft.program.resolve().parent)):
                where = top / "@" / place.lstrip("/")
                where.parent.mkdir(parents=True, exist_ok=True)
                where.touch() if Path(place).is_file() else where.mkdir(exist_ok=True)
            for link in ("bin", "sbin", "lib", "lib64"):
                (top / "@" / link).symlink_to(f"usr/{link}")
            before = len(run(["btrfs", "subvolume", "list", top]).stdout.splitlines())
        (tmp_path / "running").mkdir()
        machine = Regraft(regraft.program, regraft.home, running(disk.node, tmp_path, regraft.program))
        machine("capture", "--name", "live", "--depot", depot)
        with mounted(disk.part(1), tmp_path / "top") as top:
            assert len(run(["btrfs", "subvolume", "list", top]).stdout.splitlines()) == before, "no snapshot stays"
    manifest = regraft.json("show", "live", "--depot", depot)
    assert manifest["format"] == 2
    assert {each["id"]: (each["subvolume"], each["filesystem"]["mountpoint"], each["read"]) for each in
            manifest["volumes"]} == {
        "root": ("/@", "/", "snapshot"),
        "home": ("/@home", "/home", "snapshot"),
        "var-lib-machines": ("/@/var/lib/machines", "/var/lib/machines", "snapshot"),
    }  # fmt: skip
    gone = {each["path"]: each["reason"] for each in manifest["excluded"]}
    assert gone["/before"] == "a read-only subvolume, as snapshots are"
    assert "volume    home: btrfs at /home (subvolume /@home)" in regraft("show", "live", "--depot", depot).stdout
    assert regraft("cat", "live", "/var/lib/machines/one", "--depot", depot).stdout == "a machine"
    assert regraft("cat", "live", "/home/letter", "--depot", depot).stdout == "dear ann"
