"""From an image and a target profile to a plan: reads the depot, changes nothing.

image ─► manifest, source profile, tree ─┐
target profile ─► target disk ─► layout ─┼─► difference ─► recipes that apply ─► plan
depot ─► components ─────────────────────┘
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from agent.depot.catalogue import LoadedImage, find_image
from agent.depot.components import list_components
from agent.depot.signing import TrustedKeys
from agent.depot.store import Depot
from agent.image.image_tree import ImageTree
from agent.model.boot_room import boot_volume_apart, is_short, needed_bytes
from agent.model.compare import compare
from agent.model.difference import Difference
from agent.model.disk_layouts import all_filesystems, layouts_of
from agent.model.drivers import KernelIndex
from agent.model.image import ImageRef
from agent.model.plan import Plan, RebuildInitramfs
from agent.model.planner import Decisions, adaptation_steps, make_plan
from agent.model.profile import Profile
from agent.model.profile_xml import dump_difference, dump_profile
from agent.model.recipe_match import bind_all
from agent.model.situation import Situation
from agent.model.spread import NO_WISH, Wish, chosen_disks, spread
from agent.probe.live_tree import LiveTree
from agent.restore.recipe_folder import read_recipes


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a restore needs to know before it writes."""

    plan: Plan
    difference: Difference
    difference_xml: bytes
    target: Profile
    loaded: LoadedImage
    depot: Depot


def prepare(  # noqa: PLR0913 - the inputs of a plan
    depot: Depot,
    trust: TrustedKeys,
    ref: ImageRef,
    target: Profile,
    selector: str,
    mode: str,
    site_recipes: Path | None = None,
    trust_metadata: bool = False,
    wish: Wish = NO_WISH,
) -> Prepared:
    """Decide everything. Raises what stands in the way of a plan; blocking differences are left to the preflight."""
    loaded = find_image(depot, trust, ref)
    components = list_components(depot, trust)
    divided = spread(loaded.manifest, chosen_disks(selector, wish, target.disks), wish)
    tree, recipes, live = ImageTree(depot, loaded), read_recipes(site_recipes), running_kernel()

    def decided(boot_free_bytes: int) -> tuple[Decisions, Difference]:
        layouts = layouts_of(divided, loaded.profile, target.platform.firmware, wish, boot_free_bytes)
        disk, layout = layouts[0]
        situation = Situation(
            manifest=loaded.manifest,
            source=loaded.profile,
            target=target,
            tree=tree,
            disk=disk,
            mode=mode,
            components=components,
            partitions=tuple(part for _, each in layouts for part in each.partitions),
            filesystems=all_filesystems(layouts),
            live=live,
            receives=divided.receives,
            also=tuple(each for each, _ in layouts[1:]),
        )
        bound, difference = bind_all(recipes, compare(situation), situation)
        decisions = Decisions(
            manifest=loaded.manifest,
            manifest_sha256=loaded.manifest_sha256,
            source=loaded.profile,
            target=target,
            target_profile_sha256=hashlib.sha256(dump_profile(target)).hexdigest(),
            difference_sha256=hashlib.sha256(dump_difference(difference)).hexdigest(),
            disk=disk,
            layout=layout,
            recipes=bound,
            components=components,
            mode=mode,
            trust_metadata=trust_metadata,
            also=layouts[1:],
            notes=divided.notes,
            ties=divided.ties,
            grow=str(wish.grow),
        )
        return decisions, difference

    decisions, difference = decided(0)
    if short := boot_lacks(decisions, tree):
        decisions, difference = decided(short)
    return Prepared(make_plan(decisions), difference, dump_difference(difference), target, loaded, depot)


def boot_lacks(decisions: Decisions, tree: ImageTree) -> int:
    """What a /boot of its own must have free for the adaptation; 0 where it has it, or there is none."""
    volume = boot_volume_apart(decisions.manifest)
    if volume is None:
        return 0
    rebuilt = [step for step in adaptation_steps(decisions) if isinstance(step, RebuildInitramfs)]
    needed = needed_bytes(rebuilt, decisions.source.os, tree.size)
    layouts = (layout for _, layout in decisions.layouts)
    return needed if is_short(volume, layouts, needed) else 0


def running_kernel() -> KernelIndex | None:
    """What the kernel that runs now knows of devices: a second witness where the image's kernel does not know one."""
    index = KernelIndex.from_tree(LiveTree(Path("/")), os.uname().release)
    return None if index.empty else index
