"""A recipe's own tests: a fake machine and a fake difference in, files and requests out. Nothing is started."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import unified_diff
from fnmatch import fnmatchcase

from agent.errors import RegraftError
from agent.model import edits
from agent.model.difference import Difference, Item, Op, Tier, Verdict
from agent.model.image import Component, Manifest, ProfileRef
from agent.model.profile import Firmware, Network, Nic, OperatingSystem, Package, Platform, Profile, Unit
from agent.model.recipe import (
    AnyOperation,
    BoundRecipe,
    Check,
    DisableUnit,
    EnableUnit,
    Install,
    MaskUnit,
    Move,
    MoveAside,
    RemovePackage,
    Request,
    RunCommand,
)
from agent.model.recipe_file import Golden, Recipe
from agent.model.recipe_match import bind, describe
from agent.model.situation import Situation
from agent.model.storage import Disk
from agent.model.tree import MemoryTree
from agent.model.wording import printable

PROVIDED = (  # items whose target is a component
    ("add", "kernel"), ("add", "package"), ("add", "firmware-file"), ("add", "software"), ("change", "shim"),
    ("add", "driver-package"), ("add", "loader-package"), ("add", "loader-required"),
)  # fmt: skip
_NOT_FILES = Install | RemovePackage | Request | RunCommand | EnableUnit | DisableUnit | MaskUnit


@dataclass(frozen=True, slots=True)
class TestResult:
    recipe: str
    test: str
    failures: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.failures


def run_tests(recipes: Iterable[Recipe]) -> tuple[TestResult, ...]:
    """Every test of every recipe; a recipe without one fails."""
    results = []
    for recipe in recipes:
        if not recipe.tests:
            results.append(TestResult(recipe.id, "-", (f"{recipe.file} has no [test]",)))
        results += [TestResult(recipe.id, golden.name, _failures(recipe, golden)) for golden in recipe.tests]
    return tuple(results)


def _failures(recipe: Recipe, golden: Golden) -> tuple[str, ...]:
    try:
        situation, difference = _fake(golden, recipe)
        bound = bind(recipe, difference, situation)
    except RegraftError as error:
        return (f"cannot be bound: {error}",)
    if bound is None or not golden.applies:
        return () if (bound is not None) == golden.applies else ("applies" if bound else "does not apply",)
    before = dict(golden.tree)
    try:
        after = apply(bound.operations, before)
        again = apply(bound.operations, dict(after))
    except RegraftError as error:
        return (f"cannot be applied: {error}",)
    failures = [*_compare(golden, before, after, bound), *_failed_checks(bound, after)]
    if again != after:
        failures.append("applied a second time it changes something again")
    return tuple(failures)


def apply(operations: Iterable[AnyOperation], files: Mapping[str, str]) -> dict[str, str]:
    """The files after the operations that act on files."""
    after = dict(files)
    for operation in operations:
        if isinstance(operation, edits.FileEdit):
            text = edits.edit(operation, after.get(operation.path))
            if text is not None:
                after[operation.path] = text
        elif isinstance(operation, Move):
            for path in _moved(operation, after):
                if operation.target_of(path) not in after:
                    after[operation.target_of(path)] = after.pop(path)
        elif isinstance(operation, MoveAside):
            for path in [path for path in after if fnmatchcase(path, operation.path)]:
                del after[path]
    return after


def _moved(operation: Move, files: Mapping[str, str]) -> list[str]:
    if operation.to:
        return [operation.path] if operation.path in files else []
    return [path for path in files if fnmatchcase(path, operation.path)]


def _compare(golden: Golden, before: dict[str, str], after: dict[str, str], bound: BoundRecipe) -> Iterable[str]:
    expected = {**{path: text for path, text in before.items() if path not in golden.absent}, **golden.expect}
    for path in sorted(expected.keys() | after.keys()):
        if expected.get(path) != after.get(path):
            yield _file_difference(path, expected.get(path), after.get(path))
    does = tuple(describe(operation) for operation in bound.operations if isinstance(operation, _NOT_FILES))
    if does != golden.does:
        yield f"does: expected {list(golden.does)}, found {list(does)}"


def _file_difference(path: str, expected: str | None, found: str | None) -> str:
    """What a person needs to see which of recipe and test is wrong: the lines that differ, as ``diff -u`` has them."""
    if expected is None:
        return f"{path}: expected not to be there, found {len(found or '')} characters"
    if found is None:
        return f"{path}: expected {len(expected)} characters, found no such file"
    lines = unified_diff(_marked(expected), _marked(found), "expected", "found", lineterm="")
    return "\n".join(
        [
            f"{path} is not as expected (- expected, + found):",
            *(line for line in lines if line[:3] not in ("---", "+++")),
        ]
    )


def _marked(text: str) -> list[str]:
    """Lines, each safe for a terminal; a last one without its end says so."""
    lines = [printable(line) for line in text.split("\n")]
    return lines[:-1] if not lines[-1] else [*lines[:-1], f"{lines[-1]}  (no newline at the end)"]


def _failed_checks(bound: BoundRecipe, after: dict[str, str]) -> Iterable[str]:
    for check in bound.checks:
        if check.kind in FILE_CHECKS and not check_file(check, after.get(check.path)):
            yield f"check {check.kind} {check.path} {check.text}: does not hold"


FILE_CHECKS = ("grep", "no-grep", "no-match", "exists", "absent", "empty")


def check_file(check: Check, text: str | None) -> bool:
    """Whether a check on one file holds; ``text`` None: there is no such file."""
    match check.kind:
        case "grep":
            return text is not None and check.text in text
        case "no-grep":
            return text is None or check.text not in text
        case "no-match":
            return text is None or not re.search(check.text, text, re.MULTILINE)
        case "exists":
            return text is not None
        case "absent":
            return text is None
    return text == ""  # empty


def _fake(golden: Golden, recipe: Recipe) -> tuple[Situation, Difference]:
    items = tuple(
        Item(
            id=f"d{number}",
            op=Op(table["op"]),
            kind=table["kind"],
            key=table["key"],
            tier=Tier(table.get("tier", "must")),
            reason="test",
            source=table.get("from", ""),
            target=table.get("to", ""),
            verdict=Verdict(table.get("verdict", "n-a")),
        )
        for number, table in enumerate(golden.diff, 1)
    )
    source = _profile("source", {"os": recipe.os.rstrip("*") or "debian", **golden.source})
    source = replace(
        source,
        packages=tuple(Package(name, "amd64", "1") for name in golden.packages),
        units=tuple(Unit(name, "enabled") for name in golden.units),
    )
    tree = MemoryTree({path: text.encode() for path, text in golden.tree.items()})
    disk = Disk(name="sda", size_bytes=1, logical_sector_bytes=512, physical_sector_bytes=512)
    manifest = Manifest(1, "source", "20260101T000000Z", "", "source", ProfileRef("", "", ""), (), (), ())
    situation = Situation(
        manifest, source, _profile("target", golden.target), tree, disk, golden.mode, components=_components(golden)
    )
    return situation, Difference("source", "target", items)


def _components(golden: Golden) -> tuple[Component, ...]:
    """Kernels that the fake difference takes from the depot are there."""
    kernels = [table["to"] for table in golden.diff if (table["op"], table["kind"]) in PROVIDED and table.get("to")]
    return tuple(
        Component(
            id=name, version="1", kind="kernel", architecture="amd64", for_os="", package_format="deb", payload=()
        )
        for name in kernels
    )


def _profile(name: str, fields: Mapping[str, str]) -> Profile:
    return Profile(
        machine=name,
        time="2026-01-01T00:00:00Z",
        hostname=name,
        platform=Platform(
            architecture=fields.get("architecture", "x86_64"),
            virtualization=fields.get("virt", "none"),
            firmware=Firmware(fields.get("firmware", "unknown")),
            system_vendor=fields.get("vendor", ""),
            product_name=fields.get("product", ""),
            cpu_vendor=fields.get("cpu-vendor", ""),
        ),
        network=Network(nics=(Nic(mac="52:54:00:12:34:56", name="eth0"),)),
        os=OperatingSystem(
            id=fields.get("os", "debian"),
            version=fields.get("version", "12"),
            codename=fields.get("codename", ""),
            package_format=fields.get("package-format", "deb"),
            loader=fields.get("loader", "grub2"),
            initrd_tool=fields.get("initrd-tool", "initramfs-tools"),
        ),
    )
