"""The first text of a recipe, made of what it answers to: it can be read and tested as it is; then it is edited."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agent.errors import UsageError
from agent.model.difference import Difference, Item, Tier
from agent.model.recipe_file import ID
from agent.model.wording import printable

_TIERS = (Tier.LATER, Tier.SHOULD, Tier.MUST)

_HEAD = """\
# 1. Say what it is for.  2. Say when: values are globs.  3. Replace [[do]], [[check]] and [[test]].
#    Verbs, checks and conditions: docs/recipes.md.   Try it: regraft recipe test {file}
id    = {id}
title = {title}
tier  = {tier}        # must: a failure stops the restore; should: it warns
phase = "site"
why   = {why}

[when]
all = [
{conditions}
]

[[do]]
{do}

[[check]]
{check}

[[test]]
{test}
"""


def file_name(recipe_id: str) -> str:
    """90-site-scale.toml for site.scale: after the shipped ones of its phase."""
    return f"90-{recipe_id.replace('.', '-')}.toml"


def chosen_items(difference: Difference, ids: Sequence[str]) -> tuple[Item, ...]:
    """The items named; UsageError lists what there is when one is not, or when none is named."""
    by_id = {item.id: item for item in difference.items}
    unknown = [name for name in ids if name not in by_id]
    if not ids or unknown:
        listed = "; ".join(
            printable(f"{item.id} {item.op} {item.kind} {item.key}", 80)
            for item in difference.items
            if not item.handled_by
        )
        what = f"the difference has no item {', '.join(unknown)}" if unknown else "no item of the difference is named"
        raise UsageError(what, f"name one by --item; nothing handles: {listed or 'no item, all are handled'}")
    return tuple(by_id[name] for name in ids)


def draft(recipe_id: str, items: Sequence[Item] = ()) -> str:
    """A whole recipe as text, with ``items`` as its conditions, its test and its reason."""
    if not ID.fullmatch(recipe_id):
        raise UsageError(
            f"‘{printable(recipe_id, 80)}’ is no id of a recipe, expected subject.purpose in lower case",
            "such as site.label-printer",
        )
    path = f"/etc/{recipe_id.replace('.', '-')}.conf"
    tier = max((item.tier for item in items), key=_TIERS.index, default=Tier.SHOULD)
    before, after = "device=old\n", "device=new\n"
    return _HEAD.format(
        file=file_name(recipe_id),
        id=_quoted(recipe_id),
        title=_quoted(
            "; ".join(f"{item.op} {item.kind} {item.key}" for item in items)[:100] or "One line: what it does"
        ),
        tier=_quoted(max(tier, Tier.SHOULD, key=_TIERS.index).value),
        why=_quoted(
            "; ".join(item.reason for item in items)[:400] or "What goes wrong on the other machine without it"
        ),
        conditions="\n".join(
            [
                *(f"  {{ diff = {_condition(item)} }}," for item in items),
                f"  {{ image = {{ path = {_quoted(path)} }} }},",
            ]
        ),
        do=f'set = {{ path = {_quoted(path)}, format = "shell", key = "device", value = "new" }}',
        check=f'grep = {{ path = {_quoted(path)}, text = "device=new" }}',
        test="\n".join(
            [
                f"tree   = {{ {_quoted(path)} = {_quoted(before)} }}",
                *(["diff   = [", *(f"  {_golden(item)}," for item in items), "]"] if items else []),
                f"expect = {{ {_quoted(path)} = {_quoted(after)} }}",
            ]
        ),
    )


def _condition(item: Item) -> str:
    """The item again, on machines of the same kind: which of several equal devices it was does not count."""
    facts = {"op": item.op.value, "kind": item.kind, "key": _literal(re.sub(r"#\d+$", "", item.key))}
    if item.key != re.sub(r"#\d+$", "", item.key):
        facts["key"] += "#*"
    return _table(facts)


def _golden(item: Item) -> str:
    facts = {"op": item.op.value, "kind": item.kind, "key": item.key, "tier": item.tier.value,
             "from": item.source, "to": item.target}  # fmt: skip
    return _table({key: value for key, value in facts.items() if value})


def _literal(text: str) -> str:
    """As a glob that matches this text."""
    return re.sub(r"([*?\[])", r"[\1]", text)


def _table(facts: dict[str, str]) -> str:
    return "{ " + ", ".join(f"{key} = {_quoted(value)}" for key, value in facts.items()) + " }"


def _quoted(text: str) -> str:
    """A TOML string on one line, whatever is in it."""

    def escaped(char: str) -> str:
        code = ord(char)
        if char in '"\\':
            return "\\" + char
        if char == "\n":
            return "\\n"
        if 0xD800 <= code < 0xE000:
            return "\\uFFFD"
        return char if char.isprintable() else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"

    return '"' + "".join(map(escaped, text)) + '"'
