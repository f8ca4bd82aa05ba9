"""The checklist as a page of the documentation."""

from __future__ import annotations

from collections.abc import Iterator

from tests.adaptation.checklist import LEVELS, TIERS, Group, Row

_HEAD = """\
# What is adapted, and how it is proved

<!-- Made by `python -m tests.adaptation` from tests/adaptation/rows.toml, the recipes and the marks of the tests.
     After a merge: make it again, never by hand. -->

What a Linux image may hold that does not fit another machine: one row each. A row is *met* by recipes, or without one:
by the layout of the new disk, by the plan, or by a refusal before anything is written.

"""


def page(groups: tuple[Group, ...]) -> str:
    rows = [row for group in groups for row in group.rows]
    text = _HEAD + "\n".join(_summary(rows)) + "\n"
    for group in groups:
        text += f"\n## {group.title}\n\n" + "\n".join(_table(group)) + "\n"
    text += "\n## The tests\n\nA recipe's file stands for its own tests.\n\n" + "\n".join(_tests(rows)) + "\n"
    return text + "\n## Not done\n\n" + "\n".join(_missing(rows)) + "\n"


def _summary(rows: list[Row]) -> Iterator[str]:
    yield "| tier | rows | met | of them booted | on trees only | not done |"
    yield "|---|---|---|---|---|---|"
    for tier, name in TIERS.items():
        some = [row for row in rows if row.tier == tier]
        met = [row for row in some if row.handled]
        booted = [row for row in met if row.systems]
        yield (
            f"| {tier} {name} | {len(some)} | {len(met)} | {len(booted)} | {len(met) - len(booted)} "
            f"| {len(some) - len(met)} |"
        )
    yield ""
    yield from (f"- **{level}**: {says}" for level, says in LEVELS.items())


def _table(group: Group) -> Iterator[str]:
    yield "| row | tier | what breaks | how it is met | tests | booted on |"
    yield "|---|---|---|---|---|---|"
    for row in group.rows:
        tests = " ".join(row.levels) or "–"
        yield f"| {row.id} | {row.tier} | {row.breaks} | {_how(row)} | {tests} | {', '.join(row.systems) or '–'} |"


def _how(row: Row) -> str:
    if not row.handled:
        return f"not done: {row.missing}"
    links = [f"[{recipe.id}](../recipes/{recipe.file})" for recipe in row.recipes]
    parts = ([f"Recipes: {', '.join(links)}"] if links else []) + [part for part in (row.met,) if part]
    return ". ".join(parts) + (f". Not done: {row.missing}" if row.missing else "")


def _tests(rows: list[Row]) -> Iterator[str]:
    yield "| row | level | test |"
    yield "|---|---|---|"
    for row in rows:
        for level in row.levels:
            tests = dict.fromkeys(f"`{proof.test}`" for proof in row.proofs if proof.level == level)
            yield f"| {row.id} | {level} | {', '.join(tests)} |"


def _missing(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        if row.missing:
            yield f"- {row.id} ({row.tier}): {row.breaks}: {row.missing}"
