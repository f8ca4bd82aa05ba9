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
from agent.model.choices import (
    NONE,
    Choices,
    chosen_components,
    chosen_selector,
    wanted_recipes,
    with_skipped,
    without_skipped,
)
from agent.model.compare import compare
from agent.model.difference import Difference
from agent.model.drivers import KernelIndex
from agent.model.image import Component, ImageRef
from agent.model.layout import Layout, fit
from agent.model.nic_map import NO_WISHES, NicWishes
from agent.model.plan import Plan
from agent.model.planner import Decisions, make_plan
from agent.model.profile import Disk, Profile
from agent.model.profile_xml import dump_difference, dump_profile
from agent.model.recipe import BoundRecipe
from agent.model.recipe_match import bind_all
from agent.model.situation import RESTORE, Situation
from agent.model.target_disk import select_disk
from agent.probe.live_tree import LiveTree
from agent.restore.recipe_folder import read_recipes, told


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
    """What was decided for one disk of a target; by default nothing is adapted."""

    disk: Disk
    layout: Layout
    recipes: tuple[BoundRecipe, ...] = ()
    components: tuple[Component, ...] = ()
    mode: str = RESTORE
    trust_metadata: bool = False
    choices: Choices = NONE
    site_recipes: tuple[str, ...] = ()


def prepare(  # noqa: PLR0913 - the inputs of a plan
    depot: Depot,
    trust: TrustedKeys,
    ref: ImageRef,
    target: Profile,
    selector: str,
    mode: str,
    site_recipes: Path | None = None,
    trust_metadata: bool = False,
    nic_wishes: NicWishes = NO_WISHES,
    choices: Choices = NONE,
) -> Prepared:
    """Decide everything. Raises what stands in the way of a plan; blocking differences are left to the preflight."""
    loaded = find_image(depot, trust, ref)
    components = chosen_components(choices, list_components(depot, trust))
    bundle = read_bundle(depot, trust)
    shipped_and_site = read_recipes(site_recipes, bundle)
    recipes = wanted_recipes(choices, shipped_and_site)
    names = [disk.name for disk in loaded.manifest.disks]
    disk = select_disk(chosen_selector(choices, selector, names), target.disks)
    layout = fit(loaded.manifest, loaded.profile, target.platform.firmware, disk)
    situation = Situation(
        manifest=loaded.manifest,
        source=loaded.profile,
        target=target,
        tree=ImageTree(depot, loaded),
        disk=disk,
        mode=mode,
        components=components,
        partitions=layout.partitions,
        filesystems=layout.filesystems,
        nic_wishes=nic_wishes,
        live=running_kernel(),
        choices=choices,
    )
    found = compare(situation)
    bound, handled = bind_all(recipes, without_skipped(choices, found), situation)
    decided = Decided(
        disk=disk, layout=layout, recipes=bound, components=components, mode=mode, trust_metadata=trust_metadata,
        choices=choices, site_recipes=told(shipped_and_site, site_recipes, bundle),
    )  # fmt: skip
    return prepared(depot, loaded, target, with_skipped(choices, found, handled), decided, situation)


def prepared(  # noqa: PLR0913 - the last has a default
    depot: Depot,
    loaded: LoadedImage,
    target: Profile,
    difference: Difference,
    decided: Decided,
    situation: Situation | None = None,
) -> Prepared:
    """The plan of what was decided, and the documents that its digests name."""
    difference_xml = dump_difference(difference)
    plan = make_plan(
        Decisions(
            manifest=loaded.manifest,
            manifest_sha256=loaded.manifest_sha256,
            source=loaded.profile,
            target=target,
            target_profile_sha256=hashlib.sha256(dump_profile(target)).hexdigest(),
            difference_sha256=hashlib.sha256(difference_xml).hexdigest(),
            disk=decided.disk,
            layout=decided.layout,
            recipes=decided.recipes,
            components=decided.components,
            mode=decided.mode,
            trust_metadata=decided.trust_metadata,
            choices=decided.choices,
            site_recipes=decided.site_recipes,
        )
    )
    return Prepared(plan, difference, difference_xml, target, loaded, depot, situation)


def running_kernel() -> KernelIndex | None:
    """What the kernel that runs now knows of devices: a second witness where the image's kernel does not know one."""
    index = KernelIndex.from_tree(LiveTree(Path("/")), os.uname().release)
    return None if index.empty else index
