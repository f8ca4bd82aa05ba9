"""docs/adaptation.md says what is true: every claim has its test, and the page is the one that is made now."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.model.recipe_file import load_recipe
from tests.adaptation.__main__ import PAGE
from tests.adaptation.checklist import ChecklistError, Group, checklist, faults, here, proofs_in
from tests.adaptation.page import page
from tests.model.test_recipes import GOOD

ROWS = """
[[group]]
title = "Storage"
[group.rows.B1]
tier = "M"
breaks = "It does not boot"
[group.rows.B2]
tier = "S"
breaks = "It warns"
missing = "not yet"
"""
RECIPE = replace(load_recipe(GOOD, "scale.toml"), rows=("B1",))


@pytest.fixture(scope="module")
def groups() -> tuple[Group, ...]:
    return here()


def test_every_row_that_is_met_is_proved(groups: tuple[Group, ...]) -> None:
    assert not faults(groups)


def test_the_page_is_made_of_what_is_here(groups: tuple[Group, ...]) -> None:
    assert PAGE.read_text() == page(groups), "docs/adaptation.md is stale: python -m tests.adaptation"


def test_a_recipe_meets_its_rows_and_its_own_tests_prove_them() -> None:
    ((one, two),) = [group.rows for group in checklist(ROWS, (RECIPE,), ())]
    assert (one.handled, one.levels, [proof.test for proof in one.proofs]) == (True, ("T1",), ["recipes/scale.toml"])
    assert (two.handled, two.proofs) == (False, ())
    assert not faults(checklist(ROWS, (RECIPE,), ()))


def test_claims_without_proof_are_told() -> None:
    untested = replace(RECIPE, tests=())
    (fault,) = faults(checklist(ROWS, (untested,), ()))
    assert fault == "B1 is said to be met (site.scale) and no test is marked with it"
    assert "must say how it is met" in faults(checklist(ROWS, (), ()))[0]
    marked = tuple(proofs_in('@pytest.mark.adapts("B2", "T1")\ndef test_x(): ...', "tests/test_x.py"))
    assert "rows.toml does not say how" in faults(checklist(ROWS, (RECIPE,), marked))[0]
    met = ROWS.replace('missing = "not yet"', 'met = "by the layout"')
    assert faults(checklist(met, (RECIPE,), marked)) == []
    assert faults(checklist(met, (RECIPE,), ())) == [
        "B2 is said to be met (by the layout) and no test is marked with it"
    ]


def test_what_is_met_cannot_be_said_to_be_still_missing() -> None:
    stale = ROWS.replace('missing = "not yet"', 'met = "by the layout"\nmissing = "no recipe yet"')
    marked = tuple(proofs_in('@pytest.mark.adapts("B2", "T1")\ndef test_x(): ...', "tests/test_x.py"))
    assert faults(checklist(stale, (RECIPE,), marked)) == [
        "B2 is met, and rows.toml says ‘no recipe yet’; say what else is not done, or nothing"
    ]


def test_unknown_rows_are_refused_with_their_place() -> None:
    with pytest.raises(ChecklistError, match=r"recipes/scale\.toml: rows: there is no row Z9"):
        checklist(ROWS, (replace(RECIPE, rows=("Z9",)),), ())
    proofs = tuple(proofs_in('@pytest.mark.adapts("Z9", "T1")\ndef test_x(): ...', "tests/test_x.py"))
    with pytest.raises(ChecklistError, match=r"tests/test_x\.py: test_x: there is no row Z9"):
        checklist(ROWS, (), proofs)


def test_marks_are_found_wherever_pytest_takes_them() -> None:
    source = """
pytestmark = [pytest.mark.root, pytest.mark.adapts("B1", "T3", systems=("Debian 12",))]
@pytest.mark.adapts("B2", "B4", "T1", "T4")
def test_one(): ...
class TestMany:
    @mark.adapts("B5", "T1")
    def test_two(self): ...
@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.adapts("B6", "T5"))])
def test_three(x): ...
"""
    found = [(proof.test, proof.row, proof.level, proof.systems) for proof in proofs_in(source, "t.py")]
    assert found == [
        ("t.py", "B1", "T3", ("Debian 12",)),
        ("t.py: test_one", "B2", "T1", ()),
        ("t.py: test_one", "B2", "T4", ()),
        ("t.py: test_one", "B4", "T1", ()),
        ("t.py: test_one", "B4", "T4", ()),
        ("t.py: TestMany", "B5", "T1", ()),
        ("t.py: test_three", "B6", "T5", ()),
    ]


@pytest.mark.parametrize(
    "mark",
    ['("B1")', '("T1")', '("b1", "T1")', '("B1", "T1", systems="Debian 12")', '("B1", ROW)', '("B1", "T1", on=("x",))'],
)
def test_marks_that_say_nothing_are_refused_with_their_line(mark: str) -> None:
    with pytest.raises(ChecklistError, match=r"t\.py:2: "):
        list(proofs_in(f"\n@pytest.mark.adapts{mark}\ndef test_x(): ...", "t.py"))
