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
from agent.depot.recipe_bundle import read_bundle
from agent.depot.signing import TrustedKeys
from agent.depot.store import Depot
from agent.image.image_tree import ImageTree
from agent.model.boot_room import boot_volume_apart, is_short, needed_bytes
from agent.model.choices import NONE, Choices, chosen_components, chosen_selector, wanted_recipes
from agent.model.crypttab import enrolments
from agent.model.difference import Difference
from agent.model.disk_layouts import all_filesystems, layouts_of
from agent.model.drivers import KernelIndex
from agent.model.image import Component, ImageRef
from agent.model.layout import Layout
from agent.model.nic_map import NO_WISHES, NicWishes
from agent.model.plan import EnrolKey, Plan, RebuildInitramfs
from agent.model.planner import Decisions, adaptation_steps, make_plan
from agent.model.profile import Profile
from agent.model.profile_xml import dump_difference, dump_profile
from agent.model.recipe import BoundRecipe
from agent.model.situation import RESTORE, Situation
from agent.model.spread import NO_WISH, Wish, chosen_disks, spread
from agent.model.storage import Disk
from agent.probe.live_tree import LiveTree
from agent.restore.adapt import adapt
from agent.restore.recipe_folder import read_recipes, told


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRequest:
    """What an operator, a job or a medium asks for: which image goes where, and what was decided otherwise."""

    image: ImageRef
    target: Profile
    selector: str  # of the disk that boots; further ones in ``wish``
    mode: str = RESTORE
    site_recipes: Path | None = None
    trust_metadata: bool = False
    nic_wishes: NicWishes = NO_WISHES
    choices: Choices = NONE
    wish: Wish = NO_WISH


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a restore needs to know before it writes."""

    plan: Plan
    difference: Difference
    difference_xml: bytes
    target: Profile
    loaded: LoadedImage
    depot: Depot
    situation: Situation | None = None  # None where an image goes out as it was


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What was decided for the disks of a target; by default nothing is adapted."""

    disk: Disk
    layout: Layout
    recipes: tuple[BoundRecipe, ...] = ()
    components: tuple[Component, ...] = ()
    mode: str = RESTORE
    trust_metadata: bool = False
    choices: Choices = NONE
    site_recipes: tuple[str, ...] = ()
    also: tuple[tuple[Disk, Layout], ...] = ()
    notes: tuple[str, ...] = ()
    ties: tuple[str, ...] = ()
    grow: str = ""
    keys: tuple[EnrolKey, ...] = ()


def prepare(depot: Depot, trust: TrustedKeys, request: RestoreRequest) -> Prepared:
    """Decide everything. Raises what stands in the way of a plan; blocking differences are left to the preflight."""
    loaded = find_image(depot, trust, request.image)
    target, choices, wish = request.target, request.choices, request.wish
    components = chosen_components(choices, list_components(depot, trust))
    bundle = read_bundle(depot, trust)
    known = read_recipes(request.site_recipes, bundle)
    recipes, told_of = wanted_recipes(choices, known), told(known, request.site_recipes, bundle)
    first = chosen_selector(choices, request.selector, [disk.name for disk in loaded.manifest.disks])
    divided = spread(loaded.manifest, chosen_disks(first, wish, target.disks), wish)
    tree, live = ImageTree(depot, loaded), running_kernel()

    def decide(boot_free_bytes: int) -> tuple[Difference, Decided, Situation]:
        layouts = layouts_of(divided, loaded.profile, target.platform.firmware, wish, boot_free_bytes)
        disk, layout = layouts[0]
        situation = Situation(
            manifest=loaded.manifest,
            source=loaded.profile,
            target=target,
            tree=tree,
            disk=disk,
            mode=request.mode,
            components=components,
            partitions=tuple(part for _, each in layouts for part in each.partitions),
            filesystems=all_filesystems(layouts),
            stack=layout.stack,
            nic_wishes=request.nic_wishes,
            live=live,
            choices=choices,
            receives=divided.receives,
            also=tuple(each for each, _ in layouts[1:]),
        )
        adaptation = adapt(recipes, situation)
        decided = Decided(
            disk=disk, layout=layout, recipes=adaptation.recipes, components=components, mode=request.mode,
            trust_metadata=request.trust_metadata, choices=choices, site_recipes=told_of, also=layouts[1:],
            notes=(*divided.notes, *adaptation.notes), ties=divided.ties, grow=str(wish.grow),
            keys=enrolments(layout.stack, tree),
        )  # fmt: skip
        return adaptation.difference, decided, adaptation.situation

    difference, decided, situation = decide(0)
    if short := boot_lacks(decisions_of(loaded, target, difference, decided), tree):
        difference, decided, situation = decide(short)
    return prepared(depot, loaded, target, difference, decided, situation)


def prepared(  # noqa: PLR0913 - the last has a default
    depot: Depot,
    loaded: LoadedImage,
    target: Profile,
    difference: Difference,
    decided: Decided,
    situation: Situation | None = None,
) -> Prepared:
    """The plan of what was decided, and the documents that its digests name."""
    plan = make_plan(decisions_of(loaded, target, difference, decided))
    return Prepared(plan, difference, dump_difference(difference), target, loaded, depot, situation)


def decisions_of(loaded: LoadedImage, target: Profile, difference: Difference, decided: Decided) -> Decisions:
    """What a plan is made of."""
    return Decisions(
        manifest=loaded.manifest,
        manifest_sha256=loaded.manifest_sha256,
        source=loaded.profile,
        target=target,
        target_profile_sha256=hashlib.sha256(dump_profile(target)).hexdigest(),
        difference_sha256=hashlib.sha256(dump_difference(difference)).hexdigest(),
        disk=decided.disk,
        layout=decided.layout,
        recipes=decided.recipes,
        components=decided.components,
        mode=decided.mode,
        trust_metadata=decided.trust_metadata,
        choices=decided.choices,
        site_recipes=decided.site_recipes,
        also=decided.also,
        notes=decided.notes,
        ties=decided.ties,
        grow=decided.grow,
        keys=decided.keys,
    )


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
