"""The site's recipes go with its images: signed anew, never unsigned, and nothing of the other depot is lost by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.depot.copy_recipes import COPIED, LEFT, NONE, THERE, copy_recipes
from agent.depot.local import LocalDepot
from agent.depot.recipe_bundle import bundle_problems, read_bundle
from agent.depot.signing import TrustedKeys, make_key, trusted_keys
from agent.depot.store import RECIPES_FILE
from agent.model.recipe_bundle import encode
from tests.model.test_recipes import GOOD

EARLY, LATE = "2026-11-23T18:00:00Z", "2026-11-24T18:00:00Z"
MORE = GOOD.replace("site.scale", "site.more").replace("/etc/scale", "/etc/more")


@pytest.fixture
def other(depot: LocalDepot, tmp_path: Path) -> LocalDepot:
    return LocalDepot.init(tmp_path / "other")


def test_the_bundle_is_carried_once_and_signed_by_the_other_depot(depot: LocalDepot, other: LocalDepot) -> None:
    keys = trusted_keys(depot)
    assert copy_recipes(depot, keys, other).outcome == NONE
    depot.publish_recipes(encode({"90-scale.toml": GOOD}, EARLY))
    done = copy_recipes(depot, keys, other)
    assert (done.outcome, done.recipes) == (COPIED, 1) and done.said.startswith("1 recipe of the site, bundle of 2026")
    assert read_bundle(other, trusted_keys(other)) == read_bundle(depot, keys)
    assert depot.public_key != other.public_key and not list(bundle_problems(other, trusted_keys(other)))
    assert copy_recipes(depot, keys, other).outcome == THERE
    depot.publish_recipes(encode({"90-scale.toml": GOOD, "91-more.toml": MORE}, LATE))
    assert copy_recipes(depot, keys, other).recipes == 2, "an older one gives way"


def test_what_no_trusted_key_signed_stays_behind(depot: LocalDepot, other: LocalDepot) -> None:
    depot.publish_recipes(encode({"90-scale.toml": GOOD}, EARLY))
    strange = TrustedKeys(frozenset({make_key("11111111-1111").public}))
    done = copy_recipes(depot, strange, other)
    assert done.outcome == LEFT and "NOT copied" in done.said and "trusted keys are" in done.said
    path = depot.root / RECIPES_FILE
    path.write_bytes(path.read_bytes().replace(b"should", b"must"))
    assert copy_recipes(depot, trusted_keys(depot), other).outcome == LEFT
    assert read_bundle(other, trusted_keys(other)) is None


@pytest.mark.parametrize(
    ("time", "names", "says"),
    [(LATE, ("90-scale.toml",), rf"the other depot’s are of {LATE}, these of {EARLY}"),
     ("2026-11-01T00:00:00Z", ("90-scale.toml", "91-more.toml"), "has 91-more.toml, which would be lost")],
)  # fmt: skip
def test_what_the_other_depot_has_of_its_own_is_kept(
    depot: LocalDepot, other: LocalDepot, time: str, names: tuple[str, ...], says: str
) -> None:
    own = {name: text for name, text in (("90-scale.toml", GOOD), ("91-more.toml", MORE)) if name in names}
    depot.publish_recipes(encode({"90-scale.toml": GOOD}, EARLY))
    other.publish_recipes(encode(own, time))
    done = copy_recipes(depot, trusted_keys(depot), other)
    assert done.outcome == LEFT and says in done.said
    kept = read_bundle(other, trusted_keys(other))
    assert kept is not None and (kept.time, kept.recipes) == (time, own)


def test_a_check_finds_a_changed_an_unsigned_and_an_unreadable_bundle(depot: LocalDepot) -> None:
    trust = trusted_keys(depot)
    assert not list(bundle_problems(depot, trust))
    depot.publish_recipes(encode({"90-scale.toml": GOOD}, EARLY))
    path, signature = depot.root / RECIPES_FILE, depot.root / f"{RECIPES_FILE}.sig"
    good, signed = path.read_bytes(), signature.read_bytes()
    path.write_bytes(good.replace(b"should", b"must"))
    assert "does not fit its content" in "".join(bundle_problems(depot, trust))
    path.write_bytes(good)
    signature.unlink()
    assert "has no signature" in "".join(bundle_problems(depot, trust))
    signature.write_bytes(signed)
    assert not list(bundle_problems(depot, trust))
    depot.publish_recipes(encode({"90-scale.toml": "id = 1"}, LATE))
    assert "90-scale.toml" in "".join(bundle_problems(depot, trust))
