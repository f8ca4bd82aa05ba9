"""What docs/adaptation.md is made of: the rows, the recipes that name them, the tests that are marked with them.

    rows.toml ─────────────────────────┐
    recipes/*.toml: rows, their tests ─┼──► checklist() ──► page ──► docs/adaptation.md
    @pytest.mark.adapts in tests/*.py ─┘

Tests are read, not imported: a mark counts where it is written, on machines that could not run the test too.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.model.recipe_file import ROW, Recipe
from agent.restore.recipe_folder import read_recipes

TESTS = Path(__file__).resolve().parent.parent
LEVELS = {
    "T1": "the adapted tree, or the decision, is what it should be",
    "T2": "the rebuilt initramfs holds what is needed",
    "T3": "booted on other (emulated) hardware",
    "T4": "booted again, kernel and loader installed again",
    "T5": "without the adaptation it fails",
}
TIERS = {"M": "must", "S": "should", "L": "later"}
_KEYS = {"tier", "breaks", "met", "missing"}


@dataclass(frozen=True, slots=True, order=True)
class Proof:
    """One test that proves one row. ``systems``: where it was booted."""

    row: str
    level: str
    test: str  # tests/…/test_x.py: test_name, or a recipe's file
    systems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    id: str
    tier: str
    breaks: str
    met: str
    missing: str
    recipes: tuple[Recipe, ...]
    proofs: tuple[Proof, ...]

    @property
    def handled(self) -> bool:
        return bool(self.recipes or self.met)

    @property
    def levels(self) -> tuple[str, ...]:
        return tuple(sorted({proof.level for proof in self.proofs}))

    @property
    def systems(self) -> tuple[str, ...]:
        return tuple(sorted({system for proof in self.proofs for system in proof.systems}))


@dataclass(frozen=True, slots=True)
class Group:
    title: str
    rows: tuple[Row, ...]


class ChecklistError(Exception):
    """A row, a recipe or a test that says something that cannot be; names its place."""


def checklist(rows: str, recipes: tuple[Recipe, ...], proofs: tuple[Proof, ...]) -> tuple[Group, ...]:
    """``rows``: the text of rows.toml."""
    tables = [(group["title"], group["rows"]) for group in tomllib.loads(rows)["group"]]
    known = {row for _, group in tables for row in group}
    for recipe in recipes:
        for row in set(recipe.rows) - known:
            raise ChecklistError(f"recipes/{recipe.file}: rows: there is no row {row} in tests/adaptation/rows.toml")
    for proof in proofs:
        if proof.row not in known:
            raise ChecklistError(f"{proof.test}: there is no row {proof.row} in tests/adaptation/rows.toml")
    proofs = (*proofs, *recipe_proofs(recipes))
    return tuple(
        Group(title, tuple(_row(name, table, recipes, proofs) for name, table in group.items()))
        for title, group in tables
    )


def here() -> tuple[Group, ...]:
    """The checklist of this source tree."""
    rows = (TESTS / "adaptation/rows.toml").read_text()
    return checklist(rows, read_recipes(), tuple(marked_tests(TESTS)))


def faults(groups: tuple[Group, ...]) -> list[str]:
    """Claims without a proof, and rows that nothing is said of."""
    found = []
    for row in (row for group in groups for row in group.rows):
        if row.handled and not row.proofs:
            how = ", ".join(recipe.id for recipe in row.recipes) or row.met
            found.append(f"{row.id} is said to be met ({how}) and no test is marked with it")
        if not row.handled and not row.missing:
            found.append(f"{row.id}: no recipe names it; rows.toml must say how it is met, or what is missing")
        if row.handled and "yet" in row.missing.split():
            found.append(f"{row.id} is met, and rows.toml says ‘{row.missing}’; say what else is not done, or nothing")
        if not row.handled and row.proofs:
            found.append(f"{row.id}: {row.proofs[0].test} proves it, but rows.toml does not say how it is met")
    return found


def _row(name: str, table: dict[str, str], recipes: tuple[Recipe, ...], proofs: tuple[Proof, ...]) -> Row:
    if not ROW.fullmatch(name) or set(table) - _KEYS or table.get("tier") not in TIERS or not table.get("breaks"):
        raise ChecklistError(f"rows.toml: {name}: found {table}, expected tier (M, S, L), breaks, met, missing")
    return Row(
        name, table["tier"], table["breaks"], table.get("met", ""), table.get("missing", ""),
        tuple(recipe for recipe in recipes if name in recipe.rows),
        tuple(sorted(proof for proof in proofs if proof.row == name)),
    )  # fmt: skip


def recipe_proofs(recipes: tuple[Recipe, ...]) -> tuple[Proof, ...]:
    """A recipe's own tests compare trees: T1 of the rows that it names."""
    return tuple(Proof(row, "T1", f"recipes/{r.file}") for r in recipes if r.tests for row in r.rows)


def marked_tests(tests: Path) -> Iterator[Proof]:
    for path in sorted(tests.rglob("test_*.py")):
        yield from proofs_in(path.read_text(), str(path.relative_to(tests.parent)))


def proofs_in(source: str, file: str) -> Iterator[Proof]:
    """Every ``adapts`` mark of a module: on a test, on a class of tests, on one parameter, or for the whole module."""

    def walk(node: ast.AST, name: str) -> Iterator[Proof]:
        for child in ast.iter_child_nodes(node):
            inside = name
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not name:
                inside = child.name
            if isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute) and child.func.attr == "adapts":
                yield from _mark(child, f"{file}: {inside}" if inside else file, f"{file}:{child.lineno}")
            else:
                yield from walk(child, inside)

    yield from walk(ast.parse(source), "")


def _mark(call: ast.Call, test: str, place: str) -> Iterator[Proof]:
    """``adapts("B4", "B18", "T1", systems=("Debian 12",))``: any number of rows, then of levels."""
    try:
        words = [ast.literal_eval(word) for word in call.args]
        named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except ValueError as error:
        raise ChecklistError(f"{place}: the marks are read from the source: literal texts only") from error
    levels = [word for word in words if word in LEVELS]
    rows = [word for word in words if word not in LEVELS]
    systems = named.pop("systems", ())
    if not rows or not levels or named or not all(isinstance(row, str) and ROW.fullmatch(row) for row in rows):
        raise ChecklistError(f'{place}: found {ast.unparse(call)}, expected adapts("B4", "T1", systems=("Debian 12",))')
    if not isinstance(systems, tuple) or not all(isinstance(one, str) and re.search(r"\w", one) for one in systems):
        raise ChecklistError(f'{place}: systems: found {systems!r}, expected a tuple of names, such as ("Debian 12",)')
    for row in rows:
        for level in levels:
            yield Proof(row, level, test, systems)
