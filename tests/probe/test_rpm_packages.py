"""The three databases that rpm has had, read without rpm where that can be."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from agent.errors import DamagedError
from agent.model.profile import Package, Status
from agent.model.rpm_database import ndb_headers
from agent.model.rpm_header import RpmHeader
from agent.model.tree import MemoryTree
from agent.probe.live_tree import LiveTree
from agent.probe.machine import probe_root
from agent.probe.rpm_packages import exported, read_rpm_packages
from agent.probe.software import package_format, read_kernels, read_packages
from agent.process import run
from tests import rpms

HEADERS = [
    rpms.installed("kernel-core", "5.14.0", "427.el9", requires=["/bin/sh"]),
    rpms.installed("bash", "5.1.8", "9.el9", files=["/usr/bin/bash", "/etc/skel/.bashrc"]),
    rpms.installed("gpg-pubkey", "fd431d51", "4ae0493b", "(none)"),
]
FOUND = (Package("bash", "x86_64", "5.1.8-9.el9"), Package("kernel-core", "x86_64", "5.14.0-427.el9"))
SUSE = "/usr/lib/sysimage/rpm/Packages.db"


def sqlite(tmp_path: Path, headers: list[bytes], below: str = "var/lib/rpm") -> LiveTree:
    """The database as it is while rpm has it open: the rows still in the write-ahead log."""
    place = tmp_path / "made" / "rpmdb.sqlite"
    place.parent.mkdir()
    connection = sqlite3.connect(place)
    connection.execute("pragma journal_mode = wal")
    connection.execute("create table Packages (hnum integer primary key, blob blob not null)")
    connection.executemany("insert into Packages (blob) values (?)", [(blob,) for blob in headers])
    connection.commit()
    target = tmp_path / "root" / below
    target.mkdir(parents=True)
    for name in ("rpmdb.sqlite", "rpmdb.sqlite-wal"):
        (target / name).write_bytes(place.with_name(name).read_bytes())
    assert (target / "rpmdb.sqlite-wal").stat().st_size
    connection.close()
    return LiveTree(tmp_path / "root")


def test_the_database_of_rhel_and_its_write_ahead_log(tmp_path: Path) -> None:
    tree = sqlite(tmp_path, HEADERS)
    assert package_format(tree) == "rpm"
    assert read_packages(tree) == FOUND
    assert probe_root(tree, "m").status("software") is Status.COMPLETE


def test_the_database_of_suse() -> None:
    tree = MemoryTree({SUSE: rpms.ndb(HEADERS)})
    assert package_format(tree) == "rpm"
    assert read_packages(tree) == FOUND


@pytest.mark.parametrize(
    "data",
    [b"", b"RpmP", rpms.ndb(HEADERS)[:4300], rpms.ndb(HEADERS).replace(b"BlbS", b"xxxx"),
     rpms.ndb(HEADERS).replace(b"Slot", b"Slut", 3), rpms.ndb([b"\xff" * 40])],
)  # fmt: skip
def test_a_damaged_one_is_told_and_read_as_not_collected(data: bytes) -> None:
    tree = MemoryTree({SUSE: data, "/etc/os-release": b'ID="sles"\n'})
    assert read_packages(tree) == ()
    section = next(section for section in probe_root(tree, "m").sections if section.name == "software")
    assert section.status is Status.UNAVAILABLE and SUSE in section.reason
    with pytest.raises(DamagedError):
        [RpmHeader(blob, SUSE) for blob in ndb_headers(data, SUSE)]


def test_a_sqlite_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "var/lib/rpm").mkdir(parents=True)
    (tmp_path / "var/lib/rpm/rpmdb.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    packages, why = read_rpm_packages(LiveTree(tmp_path))
    assert packages == () and "rpmdb.sqlite was not read" in why


@pytest.mark.parametrize("length", [0, 4, 7, 20, 60])
def test_a_header_that_was_cut(length: int) -> None:
    with pytest.raises(DamagedError, match="here"):
        RpmHeader(HEADERS[0][:length], "here")


def test_relations_and_files() -> None:
    found = RpmHeader(HEADERS[1], "here")
    assert found.files() == ("/usr/bin/bash", "/etc/skel/.bashrc")
    assert [str(one) for one in found.relations("provides")] == ["bash = 5.1.8-9.el9"]


def test_kernels_of_rpm_and_not_the_rescue_one() -> None:
    release = "5.14.0-427.el9.x86_64"
    files = {
        f"/lib/modules/{release}/vmlinuz": b"k", f"/boot/vmlinuz-{release}": b"k",
        f"/boot/initramfs-{release}.img": b"i", f"/boot/initramfs-{release}kdump.img": b"i",
        "/lib/modules/0-rescue-0123456789abcdef0123456789abcdef/vmlinuz": b"k",
        "/boot/vmlinuz-0-rescue-0123456789abcdef0123456789abcdef": b"k",
    }  # fmt: skip
    kernels = read_kernels(MemoryTree(files), FOUND)
    assert [(k.release, k.package, k.initrd, k.default) for k in kernels] == [
        (release, "kernel-core", f"/boot/initramfs-{release}.img", True)
    ]


@pytest.mark.tools
def test_what_rpm_itself_wrote(tmp_path: Path) -> None:
    """rpm's own database and its export, which is how Berkeley DB's is read."""
    package = rpms.build(tmp_path, "alpha", head="Requires: beta >= 2", files={"/etc/alpha.conf": b"x"})
    place = tmp_path / "root/var/lib/rpm"
    place.mkdir(parents=True)
    run(["rpm", "--force-debian", "--dbpath", str(place), "--nodeps", "--justdb", "-i", str(package)])
    assert read_packages(LiveTree(tmp_path / "root")) == (Package("alpha", "noarch", "1-1"),)
    out = tmp_path / "export"
    run(["sh", "-c", 'rpmdb --dbpath "$1" --exportdb > "$2"', "sh", str(place), str(out)])
    (blob,) = exported(out.read_bytes(), "here")
    assert "beta >= 2" in map(str, RpmHeader(blob, "here").relations("requires"))
