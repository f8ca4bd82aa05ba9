"""regraft verify: compare a restored disk with its image."""

from __future__ import annotations

from pathlib import Path

import click

from agent.commands.luks_keys import key_source, luks_options
from agent.commands.options import Access, console, depot_options, json_option, one_document, parse_image
from agent.console.recorder import Recorder
from agent.depot.catalogue import find_image
from agent.errors import ReadBackError
from agent.image.verify import verify_volume
from agent.image.verify_blocks import verify_blocks
from agent.model.image import ImageRef
from agent.model.target_disk import select_disk
from agent.probe.disks import read_disks
from agent.probe.restored import mounted_volumes, names_of, node_of_volume

MOUNT_ROOT = Path("/run/regraft/verify")
SHOWN = 50


@click.command()
@click.argument("image")
@click.option("--disk", "selectors", required=True, multiple=True, metavar="SELECTOR",
              help="serial=…, wwn=…, path=… or name=…; several if it was restored to several.")  # fmt: skip
@luks_options
@depot_options
@json_option
def verify(
    image: str, selectors: tuple[str, ...], luks_passphrases: tuple[str, ...], luks_key_files: tuple[str, ...],
    location: str, token: str, trust: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Compare a restored disk with its image: every digest and all metadata. Mounts read-only, writes nothing.

    Files that the restore adapted differ, and are listed; so are blocks that a system changed since it was started.
    """
    access = Access(location, token, trust)
    depot = access.open()
    loaded = find_image(depot, access.keys(depot), parse_image(image))
    present = read_disks()
    disks = [select_disk(selector, present, for_reading=True) for selector in selectors]
    key_of = key_source(luks_passphrases, luks_key_files)
    recorder = Recorder([] if as_json else [console(as_json)])
    found: list[str] = []
    with mounted_volumes(disks, loaded.manifest, MOUNT_ROOT, present, key_of) as root:
        for volume in loaded.manifest.trees:
            below = root / volume.filesystem.mountpoint.lstrip("/")
            with recorder.phase("verify", f"reading volume {volume.id} and comparing"):
                result = verify_volume(depot, loaded, volume.id, below, recorder)
            found.extend(f"{volume.id}: {line}" for line in result.mismatches)
    for volume in loaded.manifest.blocks:
        with recorder.phase("verify", f"reading volume {volume.id} and comparing"):
            result = verify_blocks(depot, loaded, volume.id, node_of_volume(disks, loaded.manifest, volume), recorder)
        found.extend(f"{volume.id}: {line}" for line in result.mismatches)
    if as_json:
        with one_document({"image": str(loaded.manifest.ref), "mismatches": found}):
            refuse_differences(found, names_of(disks), loaded.manifest.ref)
        return
    for line in found[:SHOWN]:
        click.echo(line)
    refuse_differences(found, names_of(disks), loaded.manifest.ref)
    click.echo(f"{names_of(disks)} holds {loaded.manifest.ref}: every entry and digest is the same")


def refuse_differences(found: list[str], disk: str, ref: ImageRef) -> None:
    if found:
        raise ReadBackError(
            f"{len(found)} entries on {disk} differ from {ref}, expected 0",
            "compare them with the report’s list of adapted files; restore again if others differ",
        )
