"""One recipe applied to the tree of an image: what a restore does to a disk, done to the image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.depot.catalogue import LoadedImage
from agent.depot.components import list_components
from agent.depot.signing import TrustedKeys
from agent.depot.store import Depot
from agent.errors import PatchError, RefusedError
from agent.image.image_tree import ImageTree
from agent.model.difference import Difference
from agent.model.image import Component
from agent.model.layout import Layout
from agent.model.plan import ApplyRecipe, ComponentChoice, RebuildInitramfs
from agent.model.planner import Decisions, adaptation_steps, component_choices
from agent.model.profile import Profile
from agent.model.recipe import BoundRecipe
from agent.model.recipe_file import Recipe, load_recipe
from agent.model.recipe_match import bind
from agent.model.report import RecipeResult
from agent.model.situation import RESTORE, Situation
from agent.model.storage import Disk
from agent.restore import initramfs, patch
from agent.restore.dependencies import resolve
from agent.restore.preflight import fetch_file
from agent.restore.prepare import RestoreRequest, prepare
from agent.restore.sandbox import Sandbox

NO_DISK = Disk("", 0, 512, 512)


@dataclass(frozen=True, slots=True)
class Machine:
    """A target, and which of its disks."""

    target: Profile
    selector: str


@dataclass(frozen=True, slots=True)
class Application:
    """A recipe made concrete for an image."""

    steps: tuple[ApplyRecipe | RebuildInitramfs, ...]
    components: tuple[ComponentChoice, ...]


def read_recipe(path: Path) -> Recipe:
    return load_recipe(path.read_text("utf-8"), path.name)


def for_the_image(depot: Depot, trust: TrustedKeys, loaded: LoadedImage, recipe: Recipe) -> Application:
    """The recipe as it applies to the image alone: nothing differs. Raises RefusedError when it does not."""
    source = loaded.profile
    components = list_components(depot, trust)
    situation = Situation(
        manifest=loaded.manifest, source=source, target=source, tree=ImageTree(depot, loaded), disk=NO_DISK,
        components=components,
    )  # fmt: skip
    nothing = Difference(f"{source.machine}@{source.time}", f"{source.machine}@{source.time}", ())
    bound = bind(recipe, nothing, situation)
    if bound is None:
        raise RefusedError(
            f"recipe {recipe.id} does not apply to {loaded.manifest.ref}: its [when] does not hold",
            "name the machine it is for by --target, if it adapts to hardware",
        )
    found = resolve((bound,), situation)
    if found.unmet:
        listed = "; ".join(f"{name}: {why}" for name, why in found.unmet.items())
        raise RefusedError(f"recipe {recipe.id} cannot install {listed}", "add what is missing to the depot")
    return _application(loaded, found.recipes[0], components)


def for_a_target(depot: Depot, trust: TrustedKeys, loaded: LoadedImage, path: Path, machine: Machine) -> Application:
    """The recipe as a restore onto that target would apply it. Raises RefusedError when it would not."""
    recipe = read_recipe(path)
    plan = prepare(depot, trust, RestoreRequest(
        image=loaded.manifest.ref, target=machine.target, selector=machine.selector, mode=recipe.mode or RESTORE,
        site_recipes=path,
    )).plan  # fmt: skip
    own = [step for step in plan.steps if isinstance(step, ApplyRecipe) and step.recipe.id == recipe.id]
    if not own:
        raise RefusedError(
            f"recipe {recipe.id} does not apply to {loaded.manifest.ref} on that target: its [when] does not hold",
            "‘regraft diff’ shows what differs",
        )
    return _application(loaded, own[0].recipe, list_components(depot, trust))


def _application(loaded: LoadedImage, bound: BoundRecipe, components: tuple[Component, ...]) -> Application:
    """The recipe and what it asked for; kernels are those of the image and of this recipe, not of others."""
    source = loaded.profile
    decisions = Decisions(
        manifest=loaded.manifest, manifest_sha256=loaded.manifest_sha256, source=source, target=source,
        target_profile_sha256=loaded.manifest.profile.sha256, difference_sha256=hashlib.sha256(b"").hexdigest(),
        disk=NO_DISK, layout=Layout("gpt", "", (), {}, {}), recipes=(bound,), components=components, mode=RESTORE,
    )  # fmt: skip
    # Boot sectors and loaders belong to a disk: they are made when the image is restored.
    return Application(tuple(adaptation_steps(decisions)), tuple(component_choices(decisions)))


def applied(
    depot: Depot, application: Application, work: Path, tell: Callable[[RecipeResult], None]
) -> Callable[[Path], None]:
    """The change for `edit_image`: applies the recipe to the tree, runs its checks, rebuilds what it asked for."""

    def change(root: Path) -> None:
        sandbox = Sandbox(root)
        payloads = {
            f"{component.id}={component.version}": [fetch_file(depot, *file, work) for file in component.files]
            for component in application.components
        }
        for step in application.steps:
            if isinstance(step, RebuildInitramfs):
                initramfs.rebuild(root, sandbox, step)
                continue
            result = patch.apply_recipe(root, step.recipe, patch.UNDO, sandbox, payloads)
            tell(result)
            if result.result != "done":
                raise PatchError(f"recipe {result.id}: {'; '.join(result.checks)}", "nothing was published")

    return change
