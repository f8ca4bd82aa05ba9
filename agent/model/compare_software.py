"""Software whose hardware stays behind, and software that the new hardware wants."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from agent.model.bound_software import SOFTWARE, WANTED, Software, Wanted, virt
from agent.model.component_fit import unfit
from agent.model.difference import Item, Op, Tier
from agent.model.image import Component
from agent.model.package_version import version_key
from agent.model.situation import Situation
from agent.model.tree import Tree, plain_names


def software_items(situation: Situation) -> Iterator[Item]:
    """One item for each piece of software; what of it was found is its evidence."""
    for software in SOFTWARE:
        why = software.need(situation)
        found = tuple(_found(software, situation)) if why else ()
        if found:
            yield Item(
                id="", op=Op.REMOVE, kind="software", key=software.key,
                tier=Tier.MUST if software.must else Tier.SHOULD, source=found[-1][1].split()[1],
                reason=f"{software.title}: {why}", evidence=found,
            )  # fmt: skip
    for wanted in WANTED:
        yield from _wanted(wanted, situation)


def has_software(key: str, situation: Situation) -> bool:
    """Whether the image has anything of it, of use here or not."""
    return any(True for one in SOFTWARE if one.key == key for _ in _found(one, situation))


def _found(software: Software, situation: Situation) -> Iterator[tuple[str, str]]:
    """(section, what) of everything of it that the image has; files last, they are the best to act on."""
    for package in situation.source.packages:
        if any(fnmatchcase(package.name, glob) for glob in software.packages):
            yield "software", f"package {package.name} {package.version}"
    for unit in situation.source.units:
        if unit.state != "masked" and any(fnmatchcase(unit.name, glob) for glob in software.units):
            yield "services", f"unit {unit.name} {unit.state}"
    for glob in software.paths:
        for path in matching(situation.tree, glob):
            yield "software", f"file {path}"


def matching(tree: Tree, glob: str) -> tuple[str, ...]:
    """Files of the tree that a glob names; any part of it may hold wildcards."""
    found = [""]
    *folders, name = glob.strip("/").split("/")
    for part in folders:
        found = [f"{one}/{entry}" for one in found for entry in _entries(tree, one, part)]
    return tuple(path for one in found for entry in _entries(tree, one, name) if tree.is_file(path := f"{one}/{entry}"))


def _entries(tree: Tree, folder: str, part: str) -> tuple[str, ...]:
    if not set(part) & set("*?["):
        return (part,)
    return tuple(entry for entry in plain_names(tree, folder or "/") if fnmatchcase(entry, part))


def _wanted(wanted: Wanted, situation: Situation) -> Iterator[Item]:
    target, source = situation.target.platform, situation.source
    if virt(situation.target) not in wanted.virt or wanted.cpu_vendor not in ("", target.cpu_vendor):
        return
    names = {package.name for package in source.packages}
    if not source.packages or names & set(wanted.packages):
        return
    component = _component(wanted, situation)
    where = f"{component.id} {component.version} of the depot" if component else (
        f"no component of the depot brings it: add one of {', '.join(wanted.packages)}, or install it after the restore"
    )  # fmt: skip
    yield Item(
        id="", op=Op.ADD, kind="software", key=wanted.key, tier=Tier.SHOULD if component else Tier.LATER,
        target=component.id if component else "", reason=f"{wanted.title} would serve this machine: {where}",
    )  # fmt: skip


def _component(wanted: Wanted, situation: Situation) -> Component | None:
    fitting = [one for one in situation.components if one.id in wanted.packages and not unfit(one, situation)]
    return max(fitting, key=lambda one: version_key(one.version), default=None)
