"""What an operator decides otherwise before a restore: a plain file, read strictly, that stands in plan and report.

    [skip]        items = ["swap:/dev/vda5"]        differences that are only should or later, as kind:key
                  recipes = ["console.serial-kept"]  adaptations that are only should
    [nics]        ens3 = "52:54:00:bb:00:01"         interface or old card → card of the target
    [disks]       vda = "serial=NV0001"              disk of the source → selector of the target's disk
    [components]  kernel = "linux-image-6.1.0-9-amd64"   the kernel, where one is needed
                  firmware-realtek = "20230210-5"    the version of a component

What must be cannot be skipped, and a line that changes nothing is an error: a file for another machine is found out.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec

from agent.errors import NoImageError, RefusedError, UsageError
from agent.model.difference import SKIPPED, Difference, Item, Op, Tier
from agent.model.image import Component
from agent.model.nic_map import NO_CARD
from agent.model.recipe_file import Recipe
from agent.model.undecodable import UNDECODABLE
from agent.model.wording import printable

KERNEL = "kernel"
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class Skip(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    items: tuple[str, ...] = ()  # kind:key
    recipes: tuple[str, ...] = ()  # ids


class Choices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An operator's edits of a plan."""

    skip: Skip = Skip()
    nics: dict[str, str] = {}  # interface name or MAC of the source → MAC of the target
    disks: dict[str, str] = {}  # kernel name of the source's disk → selector of the target's
    components: dict[str, str] = {}  # "kernel" → id; id of a component → version


NONE = Choices()


def read_choices(text: str, name: str) -> Choices:
    """The file of an operator. Raises UsageError with the place of what is not understood."""
    try:
        found = msgspec.convert(tomllib.loads(text), type=Choices, strict=True)
    except (tomllib.TOMLDecodeError, *UNDECODABLE) as error:
        raise UsageError(
            f"{name}: {error}", "‘regraft plan --write-edits FILE’ writes a template with everything that may be said"
        ) from None
    nics = {old.lower() if ":" in old else old: new.strip().lower() for old, new in found.nics.items()}
    for old, new in nics.items():
        if new != NO_CARD and not _MAC.fullmatch(new):
            raise UsageError(
                f"{name}: card ‘{new}’ for {old} is no MAC address; expected such as 52:54:00:bb:00:01, or ‘{NO_CARD}’"
            )
    return msgspec.structs.replace(found, nics=nics)


def key_of(item: Item) -> str:
    """How a file names a difference: numbers change from one machine to the next."""
    return f"{item.kind}:{item.key}"


def choice_lines(choices: Choices) -> tuple[str, ...]:
    """One line a choice, for people."""
    return (
        *(f"skip {key}" for key in choices.skip.items),
        *(f"skip recipe {recipe}" for recipe in choices.skip.recipes),
        *(f"network: {old} becomes card {new}" for old, new in choices.nics.items()),
        *(f"disk: {old} goes to {selector}" for old, selector in choices.disks.items()),
        *(f"component: {name} {wanted}" for name, wanted in choices.components.items()),
    )


# --- disks ------------------------------------------------------------------------------------------------------------


def chosen_selector(choices: Choices, selector: str, source_disks: Iterable[str]) -> str:
    """Which disk of the target is written: as the file says, else ``selector``. Raises UsageError, RefusedError."""
    known = sorted(source_disks)
    for name in choices.disks:
        if name not in known:
            raise UsageError(f"[disks] names {name}; the image’s disks are {', '.join(known) or 'not known'}")
    wanted = sorted(set(choices.disks.values()))
    if len(wanted) > 1:
        raise RefusedError(
            f"[disks] names {len(wanted)} disks of the target: {', '.join(wanted)}; expected one",
            "everything of an image is put onto one disk",
        )
    return wanted[0] if wanted else selector


def refuse_unnamed_disks(choices: Choices, named: Iterable[str]) -> None:
    """Edits of a job may choose among the disks that it names, for naming them there is the consent to erase them."""
    own = tuple(named)
    for source, selector in choices.disks.items():
        if selector not in own:
            raise RefusedError(
                f"[disks] of the job’s edits puts {printable(source, 80)} onto ‘{printable(selector, 200)}’, and the "
                f"job names {', '.join(f'‘{each}’' for each in own)}",
                "name every disk that may be erased as the job’s disk (--disk), in the same words, or take it out of "
                "[disks]",
            )


# --- components -------------------------------------------------------------------------------------------------------


def chosen_components(choices: Choices, components: Sequence[Component]) -> tuple[Component, ...]:
    """The components that decisions may take. Raises NoImageError for one that the depot does not have."""
    left = list(components)
    for name, wanted in choices.components.items():
        if name == KERNEL:
            _one_of(wanted, [c.id for c in left if c.kind == KERNEL], "kernel")
            left = [c for c in left if c.kind != KERNEL or c.id == wanted]
        else:
            _one_of(name, [c.id for c in left], "component")
            _one_of(wanted, [c.version for c in left if c.id == name], f"version of {name}")
            left = [c for c in left if c.id != name or c.version == wanted]
    return tuple(left)


def _one_of(wanted: str, have: Sequence[str], what: str) -> None:
    if wanted not in have:
        raise NoImageError(
            f"[components] names the {what} ‘{wanted}’; the depot has {', '.join(sorted(set(have))) or 'none'}",
            "add it with ‘regraft component add’, or take one that is there",
        )


def unused_components(choices: Choices, taken: Iterable[str]) -> Iterator[str]:
    """Choices of components that this restore does not need; ids of those that it takes are given."""
    ids = set(taken)
    for name, wanted in choices.components.items():
        component = wanted if name == KERNEL else name
        if component not in ids:
            yield f"component {component} was chosen, and this restore does not need it"


# --- what is skipped --------------------------------------------------------------------------------------------------


def wanted_recipes(choices: Choices, recipes: Sequence[Recipe]) -> tuple[Recipe, ...]:
    """The recipes that may apply. Raises UsageError for an id that none has, RefusedError for a must."""
    by_id = {recipe.id: recipe for recipe in recipes}
    for name in choices.skip.recipes:
        if name not in by_id:
            raise UsageError(f"[skip] names the recipe ‘{name}’, which there is not", "‘regraft diff’ shows them")
        if by_id[name].tier == Tier.MUST:
            raise RefusedError(
                f"recipe {name} is a must: the machine would not start, or not be reached, without it",
                "take it out of [skip]; a site's recipe of the same id may replace it",
            )
    return tuple(recipe for recipe in recipes if recipe.id not in choices.skip.recipes)


def without_skipped(choices: Choices, difference: Difference) -> Difference:
    """The difference that recipes see. Raises UsageError or RefusedError for an item that cannot be skipped."""
    by_key: dict[str, list[Item]] = {}
    for item in difference.items:
        by_key.setdefault(key_of(item), []).append(item)
    for key in choices.skip.items:
        _refuse_skip(key, by_key.get(key, []))
    return replace(difference, items=tuple(i for i in difference.items if key_of(i) not in choices.skip.items))


def _refuse_skip(key: str, items: Sequence[Item]) -> None:
    if not items:
        raise UsageError(f"[skip] names ‘{key}’, which is no difference here", "‘regraft diff’ shows them as kind: key")
    must = next((item for item in items if item.tier is Tier.MUST or item.op is Op.BLOCK), None)
    if must:
        raise RefusedError(
            f"difference {must.id} ‘{key}’ is a must: {must.reason}", "take it out of [skip]; a must is never skipped"
        )
    if all(item.handled_by for item in items):
        by = ", ".join(name for item in items for name in item.handled_by)
        raise UsageError(f"[skip] names ‘{key}’, which needs no recipe: {by}", "take it out of [skip]")


def with_skipped(choices: Choices, before: Difference, handled: Difference) -> Difference:
    """The whole difference again: what recipes handle, and what was skipped, in the order of finding."""
    done: Mapping[str, Item] = {item.id: item for item in handled.items}
    items = tuple(done.get(item.id) or replace(item, handled_by=(SKIPPED,)) for item in before.items)
    return replace(handled, items=items) if choices.skip.items else handled
