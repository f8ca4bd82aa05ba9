"""The first text of a recipe: whatever difference it is made of, it loads and its test passes as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import UsageError
from agent.model.difference import Difference, Item, Op, Tier
from agent.model.recipe_draft import chosen_items, draft, file_name
from agent.model.recipe_file import load_recipe
from agent.model.recipe_test import run_tests

CARD = Item("d7", Op.REMOVE, "device", "pci:1af4:1000:1af4:0001:020000#1", Tier.LATER, "it stays behind", "virtio_pci")
NEW = Item("d8", Op.ADD, "nic", "x[1]*", Tier.MUST, 'a "reason"\n\x07', target="é\\")
DIFFERENCE = Difference("a", "b", (CARD, NEW))


def test_a_draft_is_a_recipe_that_answers_to_its_items() -> None:
    text = draft("site.scale", (CARD, NEW))
    recipe = load_recipe(text, file_name("site.scale"))
    assert (recipe.id, recipe.tier, recipe.phase, recipe.file) == ("site.scale", "must", "site", "90-site-scale.toml")
    assert [condition.fields.get("key") for condition in recipe.all[:2]] == [
        "pci:1af4:1000:1af4:0001:020000#*",
        "x[[]1][*]",
    ]
    (result,) = run_tests([recipe])
    assert result.ok, result.failures


def test_a_plain_draft_is_a_recipe() -> None:
    (result,) = run_tests([load_recipe(draft("site.scale"), "scale.toml")])
    assert result.ok, result.failures


texts = st.text(min_size=1, max_size=30)


@given(texts, texts, st.text(max_size=30), st.sampled_from(Op), st.sampled_from(Tier))
def test_any_item_makes_a_recipe_that_matches_it(key: str, reason: str, value: str, op: Op, tier: Tier) -> None:
    item = Item("d1", op, "device", key, tier, reason, value, value)
    (result,) = run_tests([load_recipe(draft("site.x", (item,)), "x.toml")])
    assert result.ok, result.failures


def test_what_cannot_be_chosen_is_told_with_what_can() -> None:
    assert chosen_items(DIFFERENCE, ["d8", "d7"]) == (NEW, CARD)
    with pytest.raises(UsageError, match="no item d9") as error:
        chosen_items(DIFFERENCE, ["d7", "d9"])
    assert "d7 remove device pci:1af4" in error.value.hint
    with pytest.raises(UsageError, match="no item of the difference is named"):
        chosen_items(DIFFERENCE, [])
    with pytest.raises(UsageError, match="no id of a recipe"):
        draft("Scale")
