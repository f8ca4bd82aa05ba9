"""Firmware files that the drivers of needed devices load: there, in a component of the depot, or nowhere.

A driver names all it may ever load, for every revision of its devices, so that one that is there counts as enough, and
none as missing. Some work without; a missing file is therefore reported and mended, and never blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.errors import DamagedError
from agent.model.component_fit import model_rank, unfit
from agent.model.difference import Item, Op, Tier, Verdict
from agent.model.kernel_choice import KernelChoice, judge, witnesses
from agent.model.modinfo import modinfo
from agent.model.situation import Situation
from agent.model.tree import Tree

_FOLDERS = ("/lib/firmware/updates", "/lib/firmware", "/usr/lib/firmware/updates", "/usr/lib/firmware")
_SUFFIXES = ("", ".xz", ".zst")


def firmware_items(situation: Situation, choice: KernelChoice) -> Iterator[Item]:
    others = witnesses(situation, choice.own_index)
    seen: set[str] = set()
    for one in choice.needed:
        found = judge(choice.index, one.link, others)
        if found.verdict is not Verdict.MODULE or found.modules[0] in seen:
            continue
        module = found.modules[0]
        seen.add(module)
        names = _asked_for(module, situation, choice)
        if names and not any(_is_there(situation.tree, name) for name in names):
            yield _item(module, names, one.use, situation)


def _item(module: str, names: tuple[str, ...], use: str, situation: Situation) -> Item:
    provider, name = _provider(names, situation)
    where = f"; {provider} brings it" if provider else "; no component of the depot has it"
    return Item(
        id="", op=Op.ADD, kind="firmware-file", key=name, tier=Tier.SHOULD, source=module, target=provider,
        reason=f"{module} of {use} may load {name}, which is not in the image{where}",
        evidence=(("software", f"{module} names {len(names)} firmware files, none is there"),),
    )  # fmt: skip


def _asked_for(module: str, situation: Situation, choice: KernelChoice) -> tuple[str, ...]:
    if choice.component:
        return choice.index.firmware.get(module, ())
    path = choice.index.paths.get(module, "")
    try:
        records = list(modinfo(situation.tree.read_bytes(path), path))
    except (FileNotFoundError, DamagedError):
        return ()
    return tuple(value for key, value in records if key == "firmware")


def _is_there(tree: Tree, name: str) -> bool:
    return any(tree.exists(f"{folder}/{name}{suffix}") for folder in _FOLDERS for suffix in _SUFFIXES)


def _provider(names: tuple[str, ...], situation: Situation) -> tuple[str, str]:
    """(component, the first file it has), or ("", the first name)."""
    ranked = sorted(situation.components, key=lambda one: (-model_rank(one, situation.target), one.id))
    for component in ranked:
        if unfit(component, situation):
            continue
        carried = {path.removesuffix(".xz").removesuffix(".zst") for path in component.firmware}
        for name in names:
            if name in carried:
                return component.id, name
    return "", names[0]
