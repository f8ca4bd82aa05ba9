"""One disk becomes two, of other sectors; every disk is identified before any is written; UUIDs that are taken."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from agent.depot.local import LocalDepot
from agent.errors import DiskSelectionError, ReadBackError, RefusedError
from agent.model.grow import parse_grow
from agent.model.plan import decode, encode
from agent.model.spread import Wish, parse_map
from agent.probe.disks import read_disk
from agent.probe.restored import mounted_volumes
from agent.process import run
from agent.restore.preflight import refuse_taken_uuids
from tests.probe.loop import LoopDisk, loop_disk
from tests.restore.carried_disk import MIB, Carrying, mounted, write_system

pytestmark = pytest.mark.root
# /boot, root, /srv and swap; logical ones in the extended partition of an MBR.
SIZES = {"boot": 100, "root": 500, "srv": 330, "swap": 60}
GPT = """\
label: gpt
1 : start=1MiB, size=100MiB, uuid=11111111-2222-4333-8444-000000000001
2 : size=500MiB, uuid=11111111-2222-4333-8444-000000000002
3 : size=330MiB, uuid=11111111-2222-4333-8444-000000000003
4 : size=60MiB, type=S, uuid=11111111-2222-4333-8444-000000000004
"""
MBR = """\
label: dos
label-id: 0xdeadbeef
1 : start=1MiB, size=100MiB, type=83, bootable
2 : size=900MiB, type=5
5 : size=500MiB, type=83
6 : size=330MiB, type=83
7 : size=60MiB, type=82
"""


@pytest.fixture
def carrying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Carrying:
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    return Carrying(LocalDepot.init(tmp_path / "depot"), tmp_path)


@contextmanager
def system_disk(folder: Path, script: str = GPT, sector: int = 512, kind: str = "ext4") -> Iterator[LoopDisk]:
    """ext2 on /boot, ``kind`` as root, xfs on /srv, and swap."""
    numbers = (1, 2, 3, 4) if script == GPT else (1, 5, 6, 7)
    uuids = {name: str(uuid.uuid4()) for name in SIZES}
    with loop_disk(folder / "source.img", 1010 * MIB, script, sector) as disk:
        boot, root, srv, swap = (disk.part(number) for number in numbers)
        run(["mke2fs", "-q", "-F", "-t", "ext2", "-U", uuids["boot"], boot])
        run(["mke2fs", "-q", "-F", "-t", kind, "-L", "system", "-U", uuids["root"], root])
        run(["mkfs.xfs", "-q", "-f", "-m", f"uuid={uuids['srv']}", srv])
        run(["mkswap", "-q", "-U", uuids["swap"], swap])
        with mounted(root, folder / "made") as top:
            lines = [f"UUID={uuids['root']} / {kind} defaults 0 1", f"UUID={uuids['boot']} /boot ext2 defaults 0 2",
                     f"UUID={uuids['srv']} /srv xfs defaults 0 2", f"UUID={uuids['swap']} none swap sw 0 0",
                     "/swapfile none swap sw 0 0"]  # fmt: skip
            write_system(top, "\n".join(lines) + "\n")
            (top / "swapfile").write_bytes(b"\0" * MIB)
        for node, name in ((boot, "vmlinuz"), (srv, "page")):
            with mounted(node, folder / "made") as top:
                (top / name).write_bytes(name.encode() * 10_000)
        yield disk


def assert_carried(disk: LoopDisk, place: Path, kinds: dict[str, str]) -> None:
    """Every volume where it is said to be, with its UUID from fstab, kind and content."""
    found = {part.holds.uuid: (part, part.holds) for part in read_disk(disk.name).partitions if part.holds}
    for name, content in (("root", "etc/hostname"), ("boot", "vmlinuz"), ("srv", "page")):
        if name in kinds:
            part, held = next(each for each in found.values() if each[1].kind == kinds[name])
            with mounted(disk.part(part.number), place) as top:
                expected = b"web1\n" if name == "root" else content.encode() * 10_000
                assert (top / content).read_bytes() == expected, held


@pytest.mark.adapts("B0", "T1")
@pytest.mark.adapts("B16", "T1")
def test_one_disk_becomes_two_of_other_sectors(carrying: Carrying, tmp_path: Path) -> None:
    with system_disk(tmp_path) as source:
        loaded = carrying.capture(source)
        names = [part.holds.uuid for part in read_disk(source.name).partitions if part.holds]
    with (
        loop_disk(tmp_path / "one.img", 700 * MIB) as one,
        loop_disk(tmp_path / "two.img", 900 * MIB, sector=4096) as two,
    ):
        wish = Wish(parse_grow("/srv"), (f"name={two.name}",), (parse_map(f"/srv=name={two.name}"),))
        plan = carrying.plan(one, two, wish=wish)
        assert decode(encode(plan)) == plan and [disk.name for disk in plan.disks] == [one.name, two.name]
        assert plan.grow == "/srv" and plan.untouched == ()
        assert f"volume srv (/srv) goes to {two.name} (serial -), as mapped" in plan.warnings
        carrying.restore(loaded, plan)
        assert_carried(one, tmp_path / "seen", {"root": "ext4", "boot": "ext2"})
        assert_carried(two, tmp_path / "seen", {"srv": "xfs"})
        there = [part.holds for disk in (one, two) for part in read_disk(disk.name).partitions if part.holds]
        assert {each.uuid for each in there} >= set(names), "every UUID is kept, so that no fstab is patched"
        srv = next(each for each in there if each.kind == "xfs")
        assert srv.size_bytes > 890 * MIB
        with mounted_volumes([read_disk(one.name), read_disk(two.name)], loaded.manifest, tmp_path / "seen") as root:
            assert (root / "srv/page").exists() and (root / "boot/vmlinuz").exists()
        alone = mounted_volumes([read_disk(one.name)], loaded.manifest, tmp_path / "seen")
        with pytest.raises(ReadBackError, match="name every disk"), alone:
            pass
        # Once more: what is there is kept on both.
        assert carrying.restore(loaded, plan).done.bytes_written < 1000
        moved = msgspec.structs.replace(plan.also[0], size_bytes=plan.also[0].size_bytes + 512)
        before = one.node.read_bytes()[:MIB]
        with pytest.raises(DiskSelectionError, match="is not the disk that the plan names"):
            carrying.restore(loaded, msgspec.structs.replace(plan, also=(moved,)))
        assert one.node.read_bytes()[:MIB] == before, "no disk is written before every disk is the plan's"


@pytest.mark.adapts("B5", "T1")
@pytest.mark.adapts("B16", "T1")
@pytest.mark.parametrize(
    ("script", "source_sector", "target_sector", "size", "kind"),
    [
        (GPT, 4096, 512, 1010 * MIB, "ext4"),
        (GPT, 512, 4096, 900 * MIB, "ext3"),
        (MBR, 512, 4096, 1400 * MIB, "ext4"),
        (MBR, 512, 512, 900 * MIB, "ext4"),
    ],
)
def test_tables_and_sectors_both_ways(
    carrying: Carrying, tmp_path: Path, script: str, source_sector: int, target_sector: int, size: int, kind: str
) -> None:
    with system_disk(tmp_path, script, source_sector, kind) as source:
        loaded = carrying.capture(source)
        told = read_disk(source.name)
        swap = next(part.holds.uuid for part in told.partitions if part.holds and part.holds.kind == "swap")
    assert {each.path: each.reason for each in loaded.manifest.excluded}["/swapfile"] == "swap file"
    with loop_disk(tmp_path / "target.img", size, sector=target_sector) as target:
        plan = carrying.plan(target)
        carrying.restore(loaded, plan)
        assert_carried(target, tmp_path / "seen", {"root": kind, "boot": "ext2", "srv": "xfs"})
        found = read_disk(target.name)
        assert (found.table, found.table_id) == (told.table, told.table_id)
        kept = {part.part_uuid for part in told.partitions if part.type not in ("0x05", "0x5")}
        assert kept <= {part.part_uuid for part in found.partitions}, "PARTUUIDs are kept"
        assert swap in [part.holds.uuid for part in found.partitions if part.holds]


def test_a_uuid_that_another_disk_has(carrying: Carrying, tmp_path: Path) -> None:
    with system_disk(tmp_path) as source, loop_disk(tmp_path / "target.img", 1200 * MIB) as target:
        carrying.capture(source)
        plan = carrying.plan(target, source)
        assert len(plan.unsure) == 1 and plan.unsure[0] in plan.warnings
        assert plan.unsure[0].startswith(f"disk {source.name} (serial -) has the same ext2 ")
        refuse_taken_uuids(plan, (read_disk(target.name), read_disk(source.name)))  # no btrfs: a warning only
        assert carrying.plan(target).unsure == ()


def test_mkfs_btrfs_would_refuse_so_that_nothing_is_erased(carrying: Carrying, tmp_path: Path) -> None:
    own = str(uuid.uuid4())
    table = "label: gpt\n1 : start=1MiB, size=400MiB\n"
    with (
        loop_disk(tmp_path / "source.img", 410 * MIB, table) as source,
        loop_disk(tmp_path / "target.img", 1200 * MIB) as target,
    ):
        run(["mkfs.btrfs", "--quiet", "--uuid", own, source.part(1)])
        with mounted(source.part(1), tmp_path / "made") as top:
            write_system(top, f"UUID={own} / btrfs defaults 0 0\n")
        carrying.capture(source)
        prepared = carrying.prepared(target, source)
        with pytest.raises(RefusedError, match=f"disk {source.name} .*holds the btrfs {own}") as refused:
            refuse_taken_uuids(prepared.plan, prepared.target.disks)
        assert f"take {source.name} out of the machine" in refused.value.hint
