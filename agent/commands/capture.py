"""regraft capture: a machine, a directory or an unmounted disk becomes an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from agent.commands.luks_keys import key_source, luks_options
from agent.commands.options import Access, console, depot_options, json_option, one_document
from agent.console.recorder import Recorder
from agent.depot.catalogue import last_image
from agent.errors import UsageError, WarningsError
from agent.image.capture import CaptureResult, CaptureSource, capture_image
from agent.image.relatives import relative_of
from agent.image.snapshot import held_still
from agent.model.excludes import exclude
from agent.model.image import NAME, Excluded
from agent.model.profile import Profile
from agent.model.target_disk import select_disk
from agent.probe.blocks import NO_CHOICE, Choice
from agent.probe.live_tree import LiveTree
from agent.probe.machine import probe_hardware
from agent.probe.naming import machine_name
from agent.probe.source import directory_source, live_source, offline_source
from agent.probe.stack_open import KeyOf, no_keys

MOUNT_ROOT = Path("/run/regraft/source")
SHOWN = 20


@click.command()
@click.option("--name", default="", help="Name of the machine in the depot; default: its host name.")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Capture the tree below DIR as an image of one volume.",
)
@click.option(
    "--disk",
    "selectors",
    multiple=True,
    metavar="SELECTOR",
    help="Capture a disk whose system does not run: serial=…, wwn=…, path=… or name=…. Again: a further disk of the "
    "same system; those with members of its arrays and volume groups come along by themselves.",
)
@click.option(
    "--without", multiple=True, metavar="PARTITION", help="Leave this partition out (sda3); may be given again."
)
@click.option(
    "--whole",
    multiple=True,
    metavar="PARTITION",
    help="Take every byte of this partition (sda3), not only what its file system uses; may be given again.",
)
@click.option(
    "--exclude",
    "globs",
    multiple=True,
    metavar="GLOB",
    help="Leave out what fits, beside what /etc/regraft/exclude says: /srv/scratch/* or *.iso; may be given again.",
)
@click.option(
    "--read-all", is_flag=True, help="Read every file, also those that have not changed since the last image."
)
@luks_options
@depot_options
@json_option
def capture(
    name: str,
    root: Path | None,
    selectors: tuple[str, ...],
    without: tuple[str, ...],
    whole: tuple[str, ...],
    globs: tuple[str, ...],
    read_all: bool,
    luks_passphrases: tuple[str, ...],
    luks_key_files: tuple[str, ...],
    location: str,
    token: str,
    trust: tuple[str, ...],
    as_json: bool,
) -> None:
    """Capture this machine while it runs, another disk of it, or the tree below a directory, as an image in a depot.

    Partitions that cannot be read as files (NTFS, exFAT, unknown ones) are captured by their used blocks, unmounted.
    Leaves a profile and an image. A file whose inode, size and times are as in the machine's last image is taken over
    from there without being read. Files that cannot be read, or change all the time, are listed, and the exit code is
    then 3. A capture that is cut leaves no image. A btrfs that is in use is read as it was at the beginning, of a
    snapshot that goes at the end.
    """  # fmt: skip
    excludes = tuple(exclude(glob, "--exclude") for glob in globs)
    refuse_contradictions(name, root, bool(selectors), (*without, *whole))
    name = name or machine_name(LiveTree(root or Path("/")))
    refuse_bad_name(name)
    recorder = Recorder([] if as_json else [console(as_json)])
    access, choice = Access(location, token, trust), Choice(named(without), named(whole))
    if selectors:
        key_of = key_source(luks_passphrases, luks_key_files)
        machine = probe_hardware(name)
        result = capture_disk(access, name, selectors, machine, recorder, choice, excludes, read_all, key_of)
    else:
        with recorder.phase("profile", "looking at this machine" if root is None else f"looking at {root}"):
            source = directory_source(root, name) if root else live_source(name, choice)
        result = capture_source(access, leaving_out(source, excludes), recorder, read_all)
    if as_json:
        with one_document(result):
            refuse_silence(result)
        return
    click.echo(f"captured {result.ref}")
    refuse_silence(result)


def refuse_contradictions(name: str, root: Path | None, disks: bool, partitions: tuple[str, ...]) -> None:
    if root and (disks or partitions):
        raise UsageError("--root captures the files of a directory; --disk, --without and --whole are about disks")
    if disks and not name:
        raise UsageError("--disk captures another system than this one, and needs a name for it", "give --name")


def named(partitions: tuple[str, ...]) -> frozenset[str]:
    """Kernel names, however they were written."""
    return frozenset(partition.removeprefix("/dev/") for partition in partitions)


def refuse_bad_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(
            f"‘{name}’ cannot name a machine; expected letters, digits, dots, dashes and underscores, at most 64",
            "give --name",
        )


def capture_source(access: Access, source: CaptureSource, recorder: Recorder, read_all: bool = False) -> CaptureResult:
    depot = access.open_writable()
    previous = last_image(depot, access.trust, source.machine)  # what these two hold is not stored again
    relative = relative_of(depot, access.trust, source.profile)
    with (
        recorder.phase("capture", f"capturing {source.machine} into {access.location}"),
        held_still(source, recorder) as still,
    ):
        return capture_image(still, depot, recorder, previous=previous, relative=relative, read_all=read_all)


def capture_disk(
    access: Access,
    name: str,
    selectors: Sequence[str],
    machine: Profile,
    recorder: Recorder,
    choice: Choice = NO_CHOICE,
    excludes: tuple[Excluded, ...] = (),
    read_all: bool = False,
    key_of: KeyOf = no_keys,
) -> CaptureResult:
    """Capture the disks of a system that does not run, the one that boots first; the PE's way."""
    refuse_bad_name(name)
    disks = [select_disk(each or "only-eligible", machine.disks, for_reading=True).name for each in selectors]
    if len(set(disks)) < len(disks):
        raise UsageError(f"disk {', '.join(disks)}: one is selected twice", "name each disk once")
    with offline_source(disks[0], name, MOUNT_ROOT, choice, key_of, disks[1:]) as source:
        return capture_source(access, leaving_out(source, excludes), recorder, read_all)


def leaving_out(source: CaptureSource, excludes: tuple[Excluded, ...]) -> CaptureSource:
    return replace(source, excludes=(*source.excludes, *excludes))


def refuse_silence(result: CaptureResult) -> None:
    """An image with holes in it is an image, but nobody may overlook the holes."""
    if result.warnings:
        raise WarningsError(
            f"image {result.ref} is complete but for {len(result.warnings)} files, expected 0:\n"
            + "\n".join(f"  {line}" for line in result.warnings[:SHOWN]),
            f"‘regraft show {result.ref}’ lists them",
        )
