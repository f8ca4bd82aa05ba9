"""The documentation and the program say the same: commands, options, exit codes, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from agent import errors
from agent.cli import COMMANDS, cli
from agent.model.agent_config import AgentConfig

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
COMMANDS_PAGE = (ROOT / "docs/commands.md").read_text()


def commands(group: click.Group = cli, words: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its full name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, f"{name} is listed but does not exist"
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


def error_classes(parent: type[errors.RegraftError] = errors.RegraftError) -> Iterator[type[errors.RegraftError]]:
    for child in parent.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from error_classes(child)


def test_every_command_is_documented_and_every_documented_command_exists() -> None:
    documented = re.findall(r"^\| `regraft ([a-z -]+)` \|", COMMANDS_PAGE, re.M)
    assert sorted(documented) == sorted(name for name, _ in commands())


def test_every_option_says_what_it_is_for() -> None:
    silent = [
        f"{name} {'/'.join(option.opts)}"
        for name, command in commands()
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert not silent


def test_every_command_explains_itself() -> None:
    """The line in the list of commands, and a help of its own."""
    assert not [name for name, (_, line) in COMMANDS.items() if not line.endswith(".") or len(line) > 80]
    assert not [name for name, command in commands() if not (command.help or "").strip()]


def test_every_key_of_the_medium_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+)` \|.*\| `?([a-z]*)`? ?\|$", COMMANDS_PAGE, re.M))
    defaults = {field.name: field.default for field in msgspec.structs.fields(AgentConfig)}
    said = {name: str(value).lower() if isinstance(value, str | bool) else "" for name, value in defaults.items()}
    assert rows == said


def test_exit_codes_are_the_documented_ones() -> None:
    rows = re.findall(r"^\| (\d+) \| ([a-z-]*) ?\|", COMMANDS_PAGE, re.M)
    documented = {int(code): name.strip() for code, name in rows}
    assert documented.pop(0) == ""
    assert documented == {one.exit_code: one.code for one in error_classes()}


def test_exit_codes_are_one_to_one_with_names() -> None:
    codes = [one.exit_code for one in error_classes()]
    assert len(codes) == len(set(codes))


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    drawn = dict(re.findall(r"^[├└]── (\w+) +(\d+)", errors.__doc__ or "", re.M))
    assert drawn == {one.__name__: str(one.exit_code) for one in error_classes()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_readme_names_what_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    paths = re.findall(r"`((?:agent|pe_build|recipes|tests|docs)/[\w./]*)`", readme)
    assert paths
    assert not [path for path in paths if not (ROOT / path).exists()]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^ {4}|`)make ([a-z]+)\b", readme, re.M)) <= targets


def test_every_target_of_make_has_its_line_of_help() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z]+):(.*)$", text, re.M)
    assert targets[0][0] == "help"
    assert not [name for name, rest in targets if "## " not in rest]
    recipes = re.findall(r"(?:^\t.*\n)+", text, re.M)
    assert all(recipe.count("\n") == 1 for recipe in recipes), "logic belongs into programs"


def test_the_changelog_knows_this_version() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"', project, re.M)
    assert version and f"## {version[1]}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs/decisions").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
