"""The page of the difference: by tier, with lights that need no colour, in one file that loads nothing."""

from __future__ import annotations

import tomllib

import msgspec
from lxml import etree

from agent.console.difference_html import difference_html
from agent.console.edits_template import edits_template
from agent.console.report_text import difference_table
from agent.model.choices import Choices, Skip, read_choices
from agent.model.difference import Difference, Op, Tier, Verdict
from agent.model.plan import ApplyRecipe, Plan
from agent.model.recipe import BoundRecipe
from tests.console.test_report import PLAN, item
from tests.model.machines_of_tests import target

DIFFERENCE = Difference(
    "web1@1", "iron@2",
    (
        item("d1", Tier.LATER, reason="a sound card", verdict=Verdict.ABSENT),
        item("d2", Tier.MUST, handled_by=("net.keep-names",), kind="nic", source="ens3", op=Op.MAP, target="a:1"),
        item("d3", Tier.MUST, reason="no <driver> for the card", evidence=(("devices", "pci:v1234"),)),
        item("d4", Tier.SHOULD, kind="swap", key="/dev/vda5", handled_by=("storage.swap",)),
    ),
)  # fmt: skip


def recipe(name: str, tier: str, *items: str) -> ApplyRecipe:
    return ApplyRecipe(
        recipe=BoundRecipe(id=name, title=f"Title of {name}", tier=tier, phase="network", why="because", items=items,
                           operations=(), checks=())
    )  # fmt: skip


def a_plan(**changes: object) -> Plan:
    steps = (recipe("net.keep-names", "must", "d2"), recipe("storage.swap", "should", "d4"), *PLAN.steps)
    return msgspec.structs.replace(PLAN, steps=steps, **changes)


def text_in(element: etree._Element) -> str:
    return "".join(map(str, element.itertext()))


def test_the_page_is_sorted_by_tier_and_the_worst_comes_first() -> None:
    page = difference_html(a_plan(), DIFFERENCE)
    tree = etree.HTML(page)
    assert "It would stop" in (tree.findtext(".//h1") or "")
    captions = [text_in(each).partition(":")[0] for each in tree.iter("caption")]
    assert captions == ["Must", "Should", "Later"]
    rows = [[text_in(cell) for cell in row.iter("td")] for row in tree.iter("tr")]
    told = [row for row in rows if len(row) == 7]
    assert [row[:2] for row in told] == [["✘ red", "d3"], ["✔ green", "d2"], ["✔ green", "d4"], ["⚠ amber", "d1"]]
    assert told[0][4:] == ["no <driver> for the card", "devices: pci:v1234", "NOTHING"]
    assert told[1][6] == "net.keep-names: Title of net.keep-names (shipped)"


def test_the_page_needs_nothing_else_and_can_be_read_without_seeing_it() -> None:
    page = difference_html(a_plan(), DIFFERENCE)
    assert "http" not in page and "<script" not in page and "@import" not in page and "url(" not in page
    tree = etree.HTML(page)
    assert tree.get("lang") == "en" and (tree.findtext(".//title") or "").startswith("red: web1@")
    assert all(head.get("scope") in ("col", "row") for head in tree.iter("th"))
    assert "@media print" in page


def test_what_was_edited_stands_on_the_page_and_in_the_text() -> None:
    choices = Choices(skip=Skip(items=("swap:/dev/vda5",)), nics={"ens3": "52:54:00:bb:00:01"})
    page = difference_html(a_plan(choices=choices), DIFFERENCE)
    assert "skip swap:/dev/vda5" in page and "ens3 becomes card 52:54:00:bb:00:01" in page


def test_the_text_counts_lights() -> None:
    text = difference_table(DIFFERENCE)
    assert "1 red (stops the restore), 1 amber (look at it), 2 green (handled, or nothing to do)" in text


def test_the_template_is_a_file_of_edits_that_changes_nothing_until_a_line_is_taken() -> None:
    text = edits_template(a_plan(), DIFFERENCE, target(), ["vda"])
    assert read_choices(text, "t") == Choices()
    choices = [line for line in text.split("\n") if '= "' in line or '",  #' in line]
    taken = "\n".join(line.replace("# ", "", 1) if line in choices else line for line in text.split("\n"))
    said = tomllib.loads(taken)
    assert said["skip"] == {"items": ["swap:/dev/vda5"], "recipes": ["storage.swap"]}
    assert said["nics"] == {"ens3": "a:1"} and said["disks"] == {"vda": "serial=NV0001"}
    assert said["components"] == {"linux-image-amd64": "6.1.1"}
