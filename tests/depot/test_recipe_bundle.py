"""The site's recipes in a depot: one signed document, all or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.depot.local import LocalDepot
from agent.depot.recipe_bundle import read_bundle
from agent.depot.signing import TrustedKeys, make_key, trusted_keys
from agent.depot.store import RECIPES_FILE
from agent.errors import DamagedError, NotTrustedError, UsageError
from agent.model.recipe_bundle import decode, encode
from agent.restore.recipe_folder import read_recipes, told
from tests.model.test_recipes import GOOD

TIME = "2026-11-24T18:00:00Z"


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalDepot:
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "home"))
    return LocalDepot.init(tmp_path / "depot")


def test_what_is_published_is_what_is_read(depot: LocalDepot) -> None:
    trust = trusted_keys(depot)
    assert read_bundle(depot, trust) is None
    depot.publish_recipes(encode({"90-scale.toml": GOOD}, TIME))
    found = read_bundle(depot, trust)
    assert found is not None and found.recipes == {"90-scale.toml": GOOD}
    recipe = next(one for one in read_recipes(bundle=found) if one.id == "site.scale")
    assert (recipe.origin, recipe.replaces) == ("depot", "")
    depot.publish_recipes(encode({}, TIME))
    assert read_bundle(depot, trust) == decode(encode({}, TIME), "x")


def test_a_changed_an_unsigned_and_a_missing_bundle_are_refused_not_left_out(depot: LocalDepot) -> None:
    trust = trusted_keys(depot)
    depot.publish_recipes(encode({"90-scale.toml": GOOD}, TIME))
    path, signature = depot.root / RECIPES_FILE, depot.root / f"{RECIPES_FILE}.sig"
    good = path.read_bytes()
    path.write_bytes(good.replace(b"should", b"must"))
    with pytest.raises(NotTrustedError, match=r"recipes/bundle\.json: its signature .* does not fit"):
        read_bundle(depot, trust)
    path.unlink()
    with pytest.raises(NotTrustedError, match="is gone and its signature is there"):
        read_bundle(depot, trust)
    path.write_bytes(good)
    signature.write_bytes(make_key("11111111-1111").sign("application/vnd.regraft.recipes+json", good))
    with pytest.raises(NotTrustedError, match="trusted keys are"):
        read_bundle(depot, trust)
    signature.unlink()
    with pytest.raises(NotTrustedError, match="has no signature"):
        read_bundle(depot, trust)


def test_a_signature_of_another_kind_of_document_does_not_count(depot: LocalDepot) -> None:
    key = make_key("11111111-1111")
    data = encode({}, TIME)
    depot.write(RECIPES_FILE, data)
    depot.write(f"{RECIPES_FILE}.sig", key.sign("application/vnd.regraft.manifest+json", data))
    with pytest.raises(NotTrustedError):
        read_bundle(depot, TrustedKeys(frozenset({key.public})))


def test_a_folder_goes_before_the_bundle_and_the_bundle_before_what_is_shipped(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD.replace("The scale moves", "Ours"))
    shipped = GOOD.replace("site.scale", "net.keep-names")
    bundle = decode(encode({"s.toml": GOOD, "n.toml": shipped}, TIME), "x")
    recipes = {recipe.id: recipe for recipe in read_recipes(tmp_path, bundle)}
    assert (recipes["site.scale"].title, recipes["site.scale"].replaces) == ("Ours", "depot")
    assert (recipes["net.keep-names"].origin, recipes["net.keep-names"].replaces) == ("depot", "shipped")
    lines = told(tuple(recipes.values()), tmp_path, bundle)
    assert lines[0] == f"the depot’s bundle of {TIME}: 2 recipes"
    assert "n.toml replaces the shipped recipe net.keep-names" in lines
    assert "a.toml replaces the recipe of the depot’s bundle site.scale" in lines


@pytest.mark.parametrize("name", ["../x.toml", "x", ".toml", "a b.toml", "x.toml\n", "a/b.toml"])
def test_names_that_lead_elsewhere_are_neither_made_nor_read(name: str) -> None:
    with pytest.raises(UsageError):
        encode({name: GOOD}, TIME)
    with pytest.raises(DamagedError):
        decode(
            encode({"n.toml": GOOD}, TIME).replace(b'"n.toml"', str.encode('"' + name.replace("\n", "\\n") + '"')), "x"
        )


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_anything_else_is_damage(data: bytes) -> None:
    with pytest.raises(DamagedError):
        decode(data, "recipes/bundle.json")


@pytest.mark.parametrize("swap", [(b'"format": 1', b'"format": 2'), (b"2026-11", b"20261-1"), (b'"time"', b'"tyme"')])
def test_other_formats_and_fields_are_refused(swap: tuple[bytes, bytes]) -> None:
    data = encode({}, TIME)
    assert swap[0] in data
    with pytest.raises(DamagedError):
        decode(data.replace(*swap), "recipes/bundle.json")
