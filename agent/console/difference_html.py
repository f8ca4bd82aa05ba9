"""The difference as a page for who decides: by tier, with a light, the reason, the evidence and the recipe. Pure.

One file that loads nothing, to read, to print and to hand over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agent.console.html import LOOKS, SIGNS, document, facts_of, light_text, table_of, text_of
from agent.console.report_text import MODES, TIERS, change_text, counted, disk_text, evidence_text, handled_text
from agent.model.choices import choice_lines
from agent.model.difference import Difference, Item, Light, light_of
from agent.model.plan import ApplyRecipe, Plan, describe, digest

VERDICTS = {
    Light.GREEN: "It can be restored: everything is handled",
    Light.AMBER: "It can be restored; look at what is amber",
    Light.RED: "It would stop: nothing handles what is red",
}
CAPTIONS = {
    "must": "Must: without these the machine does not start, or is not reached",
    "should": "Should: without these something works less well",
    "later": "Later: nothing here is needed to start",
}
HEADERS = ("", "No.", "What", "From → to", "Reason", "Evidence", "Handled by")


def difference_html(plan: Plan, difference: Difference) -> str:
    """The whole page."""
    light = difference.light
    body = [
        f'<h1 class="{LOOKS[light]}">{SIGNS[light]} {text_of(VERDICTS[light])}</h1>',
        f"<p>{text_of(counted(difference.items) or 'nothing differs')}</p>",
        facts_of(_facts(plan, difference)),
        "<h2>Difference</h2>",
        *_tiers(difference, titles(plan)),
        "<h2>What would be done</h2>",
        table_of(("Step", "What"), ((str(number), describe(step)) for number, step in enumerate(plan.steps, 1))),
    ]
    return document(f"{light.value}: {plan.image} on {difference.target}", body)


def titles(plan: Plan) -> dict[str, str]:
    """Id of a recipe → what it does, and why."""
    recipes = [step.recipe for step in plan.steps if isinstance(step, ApplyRecipe)]
    return {recipe.id: f"{recipe.title} ({recipe.origin})" for recipe in recipes}


def _facts(plan: Plan, difference: Difference) -> Sequence[tuple[str, str]]:
    return (
        ("Image", f"{plan.image}, made on {difference.source}"),
        ("Target", difference.target),
        ("Mode", f"{plan.mode}: {MODES.get(plan.mode, '')}"),
        ("Disk to erase", f"{disk_text(plan.disk)}\nnow holds: {plan.disk.content or 'nothing that is recognised'}"),
        ("Not touched", "\n".join(plan.untouched) or "there is no other disk"),
        ("Components", "\n".join(f"{c.id} {c.version}: {c.reason}" for c in plan.components) or "none"),
        ("Edited by the operator", "\n".join(choice_lines(plan.choices)) or "nothing"),
        ("Warnings", "\n".join(plan.warnings) or "none"),
        ("Plan", digest(plan)),
    )


def _tiers(difference: Difference, recipes: Mapping[str, str]) -> Iterator[str]:
    if not difference.items:
        yield "<p>The target is like the source.</p>"
    for tier in TIERS:
        items = [item for item in difference.items if item.tier == tier]
        if items:
            # The worst first: who reads only the beginning has read what stops.
            items.sort(key=lambda item: -tuple(Light).index(light_of(item)))
            yield table_of(HEADERS, (_row(item, recipes) for item in items), CAPTIONS[tier])


def _row(item: Item, recipes: Mapping[str, str]) -> Sequence[str]:
    handled = "\n".join(f"{name}: {recipes[name]}" if name in recipes else name for name in item.handled_by)
    return (
        light_text(light_of(item)),
        item.id,
        f"{item.op} {item.kind}\n{item.key}",
        change_text(item),
        item.reason,
        evidence_text(item) or "–",
        handled if recipes.keys() & set(item.handled_by) else handled_text(item),
    )
