"""The packages of a system that has rpm, from rpm's own database; the system does not run.

    rpmdb.sqlite  Fedora, RHEL 9 and 10 and their kin   SQLite reads it, its write-ahead log included
    Packages.db   SUSE                                  `agent.model.rpm_database`
    Packages      RHEL 7 and 8 (Berkeley DB)            rpm's program of this machine writes out what is in it

Decision: docs/decisions/0034-reading-the-database-of-rpm.md.
"""

from __future__ import annotations

import sqlite3
from base64 import b64decode
from collections.abc import Callable, Iterator

from agent.errors import DamagedError, RegraftError
from agent.model.profile import Package
from agent.model.rpm_database import ndb_headers, with_log
from agent.model.rpm_header import MAGIC, RpmHeader
from agent.model.tree import Tree
from agent.process import run

FOLDERS = ("/usr/lib/sysimage/rpm", "/var/lib/rpm")
KEYS = "gpg-pubkey"  # an entry of the database that is no package


def database(tree: Tree) -> str:
    """Path of the database, "" when there is none."""
    names = ("rpmdb.sqlite", "Packages.db", "Packages")
    return next((path for folder in FOLDERS for name in names if tree.is_file(path := f"{folder}/{name}")), "")


def read_headers(tree: Tree) -> Iterator[RpmHeader]:
    """Every installed package, in the database's order. Raises DamagedError or what reading it needs."""
    path = database(tree)
    if not path:
        return
    for number, blob in enumerate(_READERS[path.rpartition("/")[2]](tree, path), 1):
        header = RpmHeader(blob, f"{path}, entry {number}")
        if header.name != KEYS:
            yield header


def read_rpm_packages(tree: Tree) -> tuple[tuple[Package, ...], str]:
    """(installed packages, by name; why they are not known, or "")."""
    try:
        found = [Package(header.name, header.architecture, header.version) for header in read_headers(tree)]
    except RegraftError as error:
        return (), f"{database(tree)} was not read: {error.message.splitlines()[0]}"
    return tuple(sorted(found, key=lambda package: (package.name, package.architecture, package.version))), ""


def _from_sqlite(tree: Tree, path: str) -> Iterator[bytes]:
    # What was not yet moved from the log into the database counts as well.
    log = tree.read_bytes(f"{path}-wal") if tree.is_file(f"{path}-wal") else b""
    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(with_log(tree.read_bytes(path), log))
        rows = connection.execute("select blob from Packages order by hnum")
        yield from (bytes(row[0]) for row in rows if isinstance(row[0], bytes))
    except sqlite3.Error as error:
        raise DamagedError(f"{path}: {error}", "repair it on the source with rpmdb --rebuilddb") from error
    finally:
        connection.close()


def _from_ndb(tree: Tree, path: str) -> Iterator[bytes]:
    return ndb_headers(tree.read_bytes(path), path)


# rpm reads databases in directories only; what it writes out is binary, and what programs print is text to us.
_EXPORT = """
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/Packages"
rpmdb --define "_db_backend bdb_ro" --dbpath "$folder" --exportdb > "$folder/headers"
base64 "$folder/headers"
"""


def _from_berkeley(tree: Tree, path: str) -> Iterator[bytes]:
    said = run(["sh", "-c", _EXPORT], stdin=tree.read_bytes(path)).stdout
    yield from exported(b64decode(said), path)


def exported(data: bytes, place: str) -> Iterator[bytes]:
    """The headers that ``rpmdb --exportdb`` writes, one after another, each with its magic."""
    at = 0
    while at < len(data):
        if data[at : at + 4] != MAGIC:
            raise DamagedError(f"{place}: header at byte {at:,} of its export is damaged")
        begin = at + 8
        at = begin + RpmHeader(data[begin:], place).length
        yield data[begin:at]


_READERS: dict[str, Callable[[Tree, str], Iterator[bytes]]] = {
    "rpmdb.sqlite": _from_sqlite,
    "Packages.db": _from_ndb,
    "Packages": _from_berkeley,
}
