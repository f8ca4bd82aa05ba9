"""regraft recipe: the adaptations themselves, those shipped and those of the site."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from agent.commands.options import Access, depot_options, json_option, optional_depot_options, parse_image, print_json
from agent.commands.plan import mode_option, prepared_for, read_profile, recipes_option
from agent.console.recipe_text import explained, here, recipe_list
from agent.depot.recipe_bundle import read_bundle
from agent.errors import RefusedError, UsageError
from agent.model.profile_xml import load_difference
from agent.model.recipe_bundle import RecipeBundle, decode, encode
from agent.model.recipe_draft import chosen_items, draft, file_name
from agent.model.recipe_file import Recipe
from agent.model.recipe_match import bind
from agent.model.recipe_test import TestResult, run_tests
from agent.restore.prepare import RestoreRequest
from agent.restore.recipe_folder import count_text, read_recipes, recipe_texts

folder_argument = click.argument("directory", type=click.Path(exists=True, path_type=Path))


@click.group()
def recipe() -> None:
    """Write, explain, test and publish adaptations."""


@recipe.command("new")
@click.argument("recipe_id", metavar="ID")
@click.option("--from-difference", "document", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              metavar="DIFF.xml", help="Made by ‘regraft diff … --xml’.")  # fmt: skip
@click.option("--item", "items", multiple=True, metavar="dN", help="What it answers to; may be given several times.")
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE", help="Default: 90-ID.toml in this directory."
)
def new(recipe_id: str, document: Path | None, items: tuple[str, ...], output: Path | None) -> None:
    """Write the first text of a recipe, which is then edited; its id is subject.purpose, such as site.scale.

    With a difference, its conditions, its reason and its test are of the items named.
    """
    if items and document is None:
        raise UsageError("--item names an item of a difference, and none is given", "give it by --from-difference")
    found = chosen_items(load_difference(document.read_bytes()), items) if document else ()
    text, place = draft(recipe_id, found), output or Path(file_name(recipe_id))
    try:
        with place.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{place} is there already", "edit it, or name another by --output") from None
    click.echo(f"{place} is written; edit it, then ‘regraft recipe test {place}’")


@recipe.command("list")
@recipes_option
@optional_depot_options
@json_option
def list_all(site_recipes: Path | None, location: str, token: str, trust: tuple[str, ...], as_json: bool) -> None:
    """List the recipes in the order in which they are applied: shipped, of the depot, of the site."""
    recipes = _recipes(Access(location, token, trust), site_recipes)
    if as_json:
        fields = ("id", "title", "tier", "phase", "why", "os", "mode", "origin", "replaces", "rows", "file")
        print_json([{key: getattr(one, key) for key in fields} for one in recipes])
    else:
        click.echo(recipe_list(recipes))


@recipe.command("explain")
@click.argument("recipe_id", metavar="ID")
@click.option("--image", metavar="IMAGE", help="Show what it would do with this image; needs --target and a depot.")
@click.option("--target", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="TARGET.xml",
              help="The machine that the image would be restored onto.")  # fmt: skip
@click.option("--disk", "selector", default="only-eligible", show_default=True, help="Target disk; see ‘regraft plan’.")
@mode_option
@recipes_option
@optional_depot_options
def explain(
    recipe_id: str, image: str | None, target: Path | None, selector: str, mode: str, site_recipes: Path | None,
    location: str, token: str, trust: tuple[str, ...],
) -> None:  # fmt: skip
    """Tell what a recipe does, why and when; with --image and --target, what it would do there, or why nothing."""
    access = Access(location, token, trust)
    if (image is None) != (target is None):
        raise UsageError("--image and --target are given together, or neither")
    recipes = _recipes(access, site_recipes)
    wanted = next((one for one in recipes if one.id == recipe_id), None)
    if wanted is None:
        raise UsageError(f"there is no recipe ‘{recipe_id}’", "‘regraft recipe list’ shows all")
    click.echo(explained(wanted))
    if image is None or target is None:
        return
    prepared = prepared_for(access, RestoreRequest(
        image=parse_image(image), target=read_profile(target), selector=selector, mode=mode, site_recipes=site_recipes,
    ))  # fmt: skip
    assert prepared.situation is not None
    bound = bind(wanted, prepared.difference, prepared.situation)
    click.echo(here(wanted, bound, prepared.difference, prepared.situation))


@recipe.command("test")
@click.argument("directory", required=False, type=click.Path(exists=True, path_type=Path))
def test_recipes(directory: Path | None) -> None:
    """Run the recipes' own tests: those shipped, or those in DIRECTORY (or one file). Needs no machine and no root.

    Those in DIRECTORY are read beside the shipped ones, so that what collides is found.
    """
    recipes = read_recipes(directory)
    ours = [one for one in recipes if one.origin == "site"] if directory else recipes
    if directory and not ours:
        raise UsageError(f"‘{directory}’ holds no recipe", "a recipe is a file NAME.toml")
    failed = sum(not result.ok for result in map(_tell, run_tests(ours)))
    for one in ours:
        if one.replaces:
            click.echo(f"{one.file} replaces the {one.replaces} recipe {one.id}")
    if failed:
        click.echo(f"{failed} test{'' if failed == 1 else 's'} failed")
        sys.exit(1)


@recipe.command("publish")
@folder_argument
@depot_options
@json_option
def publish(directory: Path, location: str, token: str, trust: tuple[str, ...], as_json: bool) -> None:
    """Put all recipes of DIRECTORY into the depot, signed as one bundle; it takes the place of the one before.

    Every restore from this depot uses them from then on. Their tests are run first.
    """
    texts = recipe_texts(directory)
    recipes = [one for one in read_recipes(directory) if one.origin == "site"]
    if not recipes:
        raise UsageError(f"‘{directory}’ holds no recipe", "to have none in the depot: ‘regraft recipe withdraw’")
    failed = [result for result in run_tests(recipes) if not result.ok]
    if failed:
        names = ", ".join(f"{result.recipe}: {result.test}" for result in failed)
        raise RefusedError(f"tests fail: {names}", f"‘regraft recipe test {directory}’ shows how")
    bundle = encode(texts, _now())
    Access(location, token, trust).open_writable().publish_recipes(bundle)
    _told(decode(bundle, str(directory)), location, as_json)
    for one in recipes:
        if one.replaces and not as_json:
            click.echo(f"{one.file} replaces the {one.replaces} recipe {one.id}")


@recipe.command("withdraw")
@depot_options
@json_option
def withdraw(location: str, token: str, trust: tuple[str, ...], as_json: bool) -> None:
    """Publish an empty bundle: restores from this depot use the shipped recipes only."""
    bundle = encode({}, _now())
    Access(location, token, trust).open_writable().publish_recipes(bundle)
    _told(decode(bundle, location), location, as_json)


def _told(bundle: RecipeBundle, location: str, as_json: bool) -> None:
    if as_json:
        print_json({"time": bundle.time, "recipes": sorted(bundle.recipes)})
    else:
        click.echo(f"depot {location} has {count_text(len(bundle.recipes))} of the site, bundle of {bundle.time}")


def _recipes(access: Access, site: Path | None) -> tuple[Recipe, ...]:
    """Those of a depot too, where one is named."""
    if not access.location:
        return read_recipes(site)
    depot = access.open()
    return read_recipes(site, read_bundle(depot, access.keys(depot)))


def _tell(result: TestResult) -> TestResult:
    click.echo(f"{'ok    ' if result.ok else 'FAILED'} {result.recipe}: {result.test}")
    for failure in result.failures:
        click.echo("\n".join(f"         {line}" for line in failure.splitlines()))
    return result


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
