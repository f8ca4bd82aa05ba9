"""From an image and a target profile to a plan: reads the depot, changes nothing.

image ─► manifest, source profile, tree ─┐
target profile ─► target disk ─► layout ─┼─► difference ─► recipes that apply ─► plan
depot ─► components ─────────────────────┘
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent.depot.catalogue import LoadedImage, find_image
from agent.depot.components import list_components
from agent.depot.signing import TrustedKeys
from agent.depot.store import Depot
from agent.image.image_tree import ImageTree
from agent.model.compare import compare
from agent.model.difference import Difference, Item, Op, Tier
from agent.model.drivers import KernelIndex
from agent.model.image import ImageRef
from agent.model.layout import fit
from agent.model.plan import Plan
from agent.model.planner import Decisions, make_plan
from agent.model.profile import Profile
from agent.model.profile_xml import dump_difference, dump_profile
from agent.model.recipe import BoundRecipe, Install
from agent.model.recipe_file import Recipe
from agent.model.recipe_match import bind_all
from agent.model.situation import Situation
from agent.model.target_disk import select_disk
from agent.probe.live_tree import LiveTree
from agent.restore.dependencies import resolve
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
) -> Prepared:
    """Decide everything. Raises what stands in the way of a plan; blocking differences are left to the preflight."""
    loaded = find_image(depot, trust, ref)
    components = list_components(depot, trust)
    disk = select_disk(selector, target.disks)
    layout = fit(loaded.manifest, loaded.profile, target.platform.firmware, disk)
    tree = ImageTree(depot, loaded)
    situation = Situation(
        manifest=loaded.manifest,
        source=loaded.profile,
        target=target,
        tree=tree,
        disk=disk,
        mode=mode,
        components=components,
        partitions=layout.partitions,
        filesystems=layout.filesystems,
        live=running_kernel(),
    )
    decided = adapt(read_recipes(site_recipes), situation)
    bound, difference = decided.recipes, decided.difference
    difference_xml = dump_difference(difference)
    plan = make_plan(
        Decisions(
            manifest=loaded.manifest,
            manifest_sha256=loaded.manifest_sha256,
            source=loaded.profile,
            target=target,
            target_profile_sha256=hashlib.sha256(dump_profile(target)).hexdigest(),
            difference_sha256=hashlib.sha256(difference_xml).hexdigest(),
            disk=disk,
            layout=layout,
            recipes=bound,
            components=components,
            mode=mode,
            trust_metadata=trust_metadata,
            notes=decided.notes,
        )
    )
    return Prepared(plan, difference, difference_xml, target, loaded, depot)


@dataclass(frozen=True, slots=True)
class Adaptation:
    recipes: tuple[BoundRecipe, ...]
    difference: Difference
    notes: tuple[str, ...]  # what a person must know


def adapt(recipes: tuple[Recipe, ...], situation: Situation) -> Adaptation:
    """What differs, and the recipes that apply with all that their components need.

    A component that cannot be installed is passed over, and the decision made again without it, until what is left
    can be installed or nothing is.
    """
    while True:
        bound, difference = bind_all(recipes, compare(situation), situation)
        found = resolve(bound, situation)
        fresh = {name: why for name, why in found.unmet.items() if name not in situation.unmet}
        if not fresh:
            return Adaptation(found.recipes, with_unmet(difference, bound, found.unmet), found.notes)
        situation = replace(situation, unmet={**situation.unmet, **fresh})


def with_unmet(difference: Difference, bound: Sequence[BoundRecipe], unmet: Mapping[str, str]) -> Difference:
    """What recipes install by name although it cannot be installed: it blocks where the recipe must not fail."""
    items = list(difference.items)
    for recipe in bound:
        for operation in recipe.operations:
            if isinstance(operation, Install) and operation.component in unmet:
                must = recipe.tier == Tier.MUST
                items.append(Item(
                    id=f"d{len(items) + 1}", op=Op.BLOCK if must else Op.ADD, kind="component",
                    key=operation.component, tier=Tier(recipe.tier), target=operation.component,
                    reason=f"recipe {recipe.id} installs {operation.component}: {unmet[operation.component]}",
                ))  # fmt: skip
    return replace(difference, items=tuple(items))


def running_kernel() -> KernelIndex | None:
    """What the kernel that runs now knows of devices: a second witness where the image's kernel does not know one."""
    index = KernelIndex.from_tree(LiveTree(Path("/")), os.uname().release)
    return None if index.empty else index
