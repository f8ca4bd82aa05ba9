"""A file of edits to begin with: everything that an operator may decide otherwise, commented out. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from agent.model.choices import KERNEL, key_of
from agent.model.difference import Difference, Op, Tier
from agent.model.plan import ApplyRecipe, Plan
from agent.model.profile import Profile
from agent.model.wording import printable, size_text

HEAD = """\
# What to decide otherwise, for ‘--edits’: image {image} onto {target}.
# Take the # from a line to make it count. What must be (tier must) cannot be skipped.
"""


def edits_template(plan: Plan, difference: Difference, target: Profile, disks: Sequence[str]) -> str:
    """TOML, every line of it a comment but the tables' names; ``disks``: kernel names of the image's."""
    parts = (
        HEAD.format(image=printable(plan.image), target=printable(difference.target)),
        "[skip]\n" + "".join(_skip(plan, difference)),
        "[nics]\n# interface or old card = card of this machine\n" + "".join(_nics(difference, target)),
        "[disks]\n# disk of the image’s machine = disk to erase\n" + "".join(_disks(plan, target, disks)),
        "[components]\n" + "".join(_components(plan, difference)),
    )
    return "\n".join(parts)


def _skip(plan: Plan, difference: Difference) -> Iterator[str]:
    recipes = [step.recipe for step in plan.steps if isinstance(step, ApplyRecipe) and step.recipe.tier != Tier.MUST]
    skippable = {item for recipe in recipes for item in recipe.items}
    items = [item for item in difference.items if item.id in skippable and item.tier is not Tier.MUST]
    yield from _list("items", ((key_of(item), item.reason) for item in items if item.op is not Op.BLOCK))
    yield from _list("recipes", ((recipe.id, f"{recipe.title}: {recipe.why}") for recipe in recipes))


def _list(name: str, entries: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A list of which each entry can be taken by itself."""
    yield f"{name} = [\n"
    for value, why in entries:
        yield f"  # {_quoted(value)},{_why(why)}"
    yield "]\n"


def _nics(difference: Difference, target: Profile) -> Iterator[str]:
    cards = [f"{nic.mac} ({nic.name}, {nic.driver or 'no driver'}, link {nic.link or 'not known'})"
             for nic in target.network.nics if nic.mac]  # fmt: skip
    yield from (f"# this machine has: {printable(card)}\n" for card in cards)
    for item in difference.items:
        if item.kind.startswith("nic") and item.source:
            yield f"# {_quoted(item.source)} = {_quoted(item.target if item.op is Op.MAP else '')}{_why(item.reason)}"


def _disks(plan: Plan, target: Profile, disks: Sequence[str]) -> Iterator[str]:
    for disk in target.disks:
        chosen = ", the one of this plan" if disk.name == plan.disk.name else ""
        yield f"# this machine has: {printable(f'{disk.name} {disk.model}')} {size_text(disk.size_bytes)}{chosen}\n"
    name = f"serial={plan.disk.serial}" if plan.disk.serial else f"name={plan.disk.name}"
    yield from (f"# {_quoted(disk)} = {_quoted(name)}\n" for disk in disks)


def _components(plan: Plan, difference: Difference) -> Iterator[str]:
    yield "# kernel = its component; any other component = its version\n"
    for item in difference.items:
        if item.kind == KERNEL:
            yield f"# kernel = {_quoted(item.target)}{_why(item.reason)}"
            yield from (f"# {printable(section)}: {printable(text)}\n" for section, text in item.evidence)
    yield from (f"# {_quoted(each.id)} = {_quoted(each.version)}{_why(each.reason)}" for each in plan.components)


def _why(text: str) -> str:
    return f"  # {textwrap.shorten(printable(text), 160, placeholder=' …')}\n"


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are all TOML's too, for what is printable."""
    return msgspec.json.encode(printable(text)).decode()
