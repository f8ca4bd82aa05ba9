"""Everything that can be known to fail is checked before the first write."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from agent.depot.store import Depot, listing_path, pack_path
from agent.errors import DamagedError, DoesNotFitError, NicSelectionError, RefusedError
from agent.model.clashes import uuids_on
from agent.model.compare_network import candidates, tied
from agent.model.difference import Difference
from agent.model.plan import MakeFilesystem, Plan
from agent.model.storage import Disk
from agent.restore.prepare import Prepared

PIECE_BYTES = 8 << 20
# A decoding worker holds a compressed frame and its content (2 MiB each), the agent some 60 MiB, the kernel the rest.
MEMORY_FLOOR_BYTES = 400 << 20


def check_before_writing(prepared: Prepared) -> None:
    """Raises RefusedError, DoesNotFitError or DamagedError; returns when nothing known stands in the way."""
    refuse_blockers(prepared.difference)
    refuse_taken_uuids(prepared.plan, prepared.target.disks)
    refuse_small_memory(prepared.target.platform.memory_bytes)
    check_components(prepared)
    check_content(prepared)


def refuse_blockers(difference: Difference) -> None:
    blockers = difference.blockers
    if blockers:
        listed = "\n".join(f"  {item.id} {item.op} {item.kind} {item.key}: {item.reason}" for item in blockers)
        raise RefusedError(
            f"{len(blockers)} differences stand in the way of a machine that boots:\n{listed}",
            "add the missing component with ‘regraft component add’, or choose another image or disk",
        )


def refuse_ties(difference: Difference) -> None:
    """Nobody is there to say which of several equal cards is meant: then nothing is written.

    Raises NicSelectionError that lists them.
    """
    unsure = tied(difference.items)
    if unsure:
        listed = "\n".join(
            line
            for item in unsure
            for line in (f"  {item.id} interface {item.source}:", *(f"    {text}" for text in candidates(item)))
        )
        first = unsure[0]
        raise NicSelectionError(
            f"which card becomes {' and '.join(item.source for item in unsure)} cannot be told:\n{listed}",
            f"choose one, as by --nic {first.source}={first.target} (nic of agent.toml or of the job), "
            "or take the first by --on-nic-tie order (on_nic_tie)",
        )


def refuse_taken_uuids(plan: Plan, disks: Iterable[Disk]) -> None:
    """mkfs.btrfs makes none with a UUID that another device of the machine has, and finds out when all is erased."""
    written = {disk.name for disk in plan.disks}
    made = [step.filesystem for step in plan.steps if isinstance(step, MakeFilesystem)]
    wanted = {fs.uuid.lower() for fs in made if fs.kind == "btrfs" and fs.uuid}
    for disk in disks:
        taken = wanted.intersection(uuids_on(disk)) if disk.name not in written else ()
        for uuid in sorted(taken):
            raise RefusedError(
                f"disk {disk.name} ({disk.model or 'no model name'}, serial {disk.serial or '-'}) holds the btrfs "
                f"{uuid}, which the restored disk shall have; the kernel takes both for one file system",
                f"take {disk.name} out of the machine, or erase it; nothing was written",
            )


def refuse_small_memory(memory_bytes: int) -> None:
    if 0 < memory_bytes < MEMORY_FLOOR_BYTES:
        raise DoesNotFitError(
            f"the machine has {memory_bytes >> 20} MiB of memory, a restore needs {MEMORY_FLOOR_BYTES >> 20} MiB",
            "add memory or restore the disk in another machine",
        )


def check_components(prepared: Prepared) -> None:
    """Every component the plan takes is in the depot and whole: an install that fails later leaves no machine."""
    for component in prepared.plan.components:
        for path, sha256, size_bytes in component.files:
            for _ in checked_pieces(prepared.depot, path, sha256, size_bytes):
                pass  # read to the end: the digest is what counts


def fetch_file(depot: Depot, path: str, sha256: str, size_bytes: int, folder: Path) -> Path:
    """A file of the depot, fetched into ``folder`` and checked against its digest."""
    target = folder / PurePosixPath(path).name
    with target.open("wb") as file:
        for piece in checked_pieces(depot, path, sha256, size_bytes):
            file.write(piece)
    return target


def checked_pieces(depot: Depot, path: str, sha256: str, size_bytes: int) -> Iterator[memoryview]:
    """The content of a file of the depot, piece by piece; raises DamagedError at the end if its digest is another."""
    digest = hashlib.sha256()
    piece = bytearray(min(PIECE_BYTES, size_bytes))
    for offset in range(0, size_bytes, PIECE_BYTES):
        view = memoryview(piece)[: min(PIECE_BYTES, size_bytes - offset)]
        depot.read_into(path, offset, view)
        digest.update(view)
        yield view
    if digest.hexdigest() != sha256:
        raise DamagedError(
            f"{path} in the depot {depot.location} has SHA-256 {digest.hexdigest()}, expected {sha256}",
            "add the component again",
        )


def check_content(prepared: Prepared) -> None:
    """Every listing and pack that the image needs is there; bytes are judged frame by frame, before each write."""
    manifest = prepared.loaded.manifest
    listings = [(listing_path(volume.listing.sha256), volume.listing) for volume in manifest.volumes]
    for path, ref in (*listings, *((pack_path(pack.sha256), pack) for pack in manifest.packs)):
        if not prepared.depot.exists(path, ref.size_bytes):
            raise DamagedError(
                f"image {manifest.ref} needs {path}, which the depot {prepared.depot.location} does not have whole "
                f"({ref.size_bytes:,} bytes)",
                "restore an older image, or copy this one again from a second depot",
            )
