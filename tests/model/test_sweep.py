"""What may be deleted: only what was marked long enough ago, is still unreferenced, and nothing running needs."""

from __future__ import annotations

from agent.model.sweep import Due, Sweep, sweep

NOW, HOUR = "20261124T120000Z", 3600
YESTERDAY, TODAY = "20261123T120000Z", "20261124T110000Z"
PRESENT = {"a": 10, "b": 20, "c": 30}


def decided(marks: dict[str, str], begins: tuple[str, ...] = (), grace_s: int = 24 * HOUR,
            referenced: tuple[str, ...] = ("a",)) -> Sweep:  # fmt: skip
    return sweep(PRESENT, referenced, marks, begins, NOW, grace_s)


def test_what_is_unreferenced_is_marked_now() -> None:
    found = decided({})
    assert found.new == found.waiting == (Due("b", 20, NOW), Due("c", 30, NOW))
    assert not found.delete and found.marks() == {"b": NOW, "c": NOW}


def test_only_after_the_grace_period_it_goes() -> None:
    found = decided({"b": YESTERDAY, "c": TODAY})
    assert found.delete == (Due("b", 20, YESTERDAY),) and found.waiting == (Due("c", 30, TODAY),)
    assert not found.new
    assert decided({"b": "20261123T120001Z"}).delete == ()


def test_what_is_referred_to_again_loses_its_mark() -> None:
    found = decided({"a": YESTERDAY, "b": YESTERDAY, "gone": YESTERDAY})
    assert found.unmark == ("a", "gone")
    assert [due.path for due in found.delete] == ["b"]
    assert found.marks().keys() == {"c"}


def test_a_lease_holds_what_was_marked_since_it_began() -> None:
    marks = {"b": "20261121T000000Z", "c": "20261123T000000Z"}
    assert [due.path for due in decided(marks).delete] == ["b", "c"]
    running = decided(marks, ("20261122T000000Z",))
    assert [due.path for due in running.delete] == ["b"] and [due.path for due in running.held] == ["c"]
    same_second = decided(marks, ("20261123T000000Z",))
    assert [due.path for due in same_second.held] == ["c"]
    assert decided(marks, ("20261122T000000Z", "20261101T000000Z")).delete == ()
    assert running.marks() == {"c": marks["c"]}, "held files keep their marks"


def test_without_grace_it_goes_at_once_unless_something_runs() -> None:
    assert [due.path for due in decided({}, grace_s=0).delete] == ["b", "c"]
    assert decided({}, (NOW,), grace_s=0).delete == ()
    assert [due.path for due in decided({}, (TODAY,), grace_s=0).held] == ["b", "c"]


def test_a_mark_from_a_clock_that_went_wrong_begins_anew() -> None:
    found = decided({"b": "20991231T000000Z", "c": "20269999T000000Z"})
    assert found.new == (Due("b", 20, NOW), Due("c", 30, NOW)) and not found.delete


def test_nothing_referenced_is_ever_deleted() -> None:
    for referenced in ((), ("a",), ("a", "b"), ("a", "b", "c")):
        found = decided(dict.fromkeys(PRESENT, "20200101T000000Z"), grace_s=0, referenced=referenced)
        assert {due.path for due in found.delete} == PRESENT.keys() - set(referenced)
