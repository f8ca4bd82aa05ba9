"""Every key of a TOML document is found on its line, whatever stands around it."""

from __future__ import annotations

import string
import tomllib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.toml_lines import line_of, toml_lines
from agent.restore.recipe_folder import SHIPPED

DOCUMENT = '''\
# a "comment" = [
id = "x" # = "y"
"quoted key".'and # literal' = 1
text = """
not = "a key"
\\""" [not.a.table]
""""
raw = \'\'\'
no = 1\'\'\'
list = [ # one
  1, { a = 2 },
  [ "]", 3 ],
]
[when]
all = [ { diff = { op = "add" } },
        { not = { source = { os = "}" } } } ]
[[do]]
write = { path = "/x" }
[[do]]
run = { argv = ["/bin/x"] }
[do.more]
deep.er = 1979-05-27 07:32:00
[[do.again]]
n = 1
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("id",), 2), (("quoted key", "and # literal"), 3), (("text",), 4), (("raw",), 8), (("list",), 10),
        (("list", 1), 11), (("list", 1, "a"), 11), (("list", 2, 1), 12), (("when",), 14),
        (("when", "all", 0, "diff", "op"), 15),
        (("when", "all", 1, "not", "source", "os"), 16), (("do", 0), 17), (("do", 0, "write", "path"), 18),
        (("do", 1), 19), (("do", 1, "run", "argv", 0), 20), (("do", 1, "more", "deep", "er"), 22),
        (("do", 1, "again", 0, "n"), 24), (("do", 1, "run", "absent", "too"), 20), (("nothing",), 1),
    ],
)  # fmt: skip
def test_lines(path: tuple[str | int, ...], line: int) -> None:
    tomllib.loads(DOCUMENT)
    assert line_of(toml_lines(DOCUMENT), path) == line


def paths(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in pairs:
        yield from paths(below, (*path, key))


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.toml")), ids=lambda file: file.stem)
def test_everything_that_tomllib_reads_in_the_shipped_recipes_has_a_line(file: object) -> None:
    text = file.read_text()  # type: ignore[attr-defined]
    lines = toml_lines(text)
    rows = text.splitlines()
    for path in paths(tomllib.loads(text)):
        assert path in lines, path
        if isinstance(path[-1], str):
            assert path[-1] in rows[lines[path] - 1], path


VALUES = st.recursive(
    st.one_of(st.integers(-9, 9), st.booleans(), st.text(string.printable, max_size=8)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(string.ascii_letters + '" .#', max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)  # fmt: skip


def written(value: object, space: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{space}" + f",{space}".join(written(one, space) for one in value) + f"{space}]"
    assert isinstance(value, dict)
    return "{ " + ", ".join(f"{quoted(key)} = {written(one, space)}" for key, one in value.items()) + " }"


def quoted(text: str) -> str:
    return '"' + "".join(f"\\u{ord(char):04x}" if char in '"\\' or ord(char) < 32 else char for char in text) + '"'


@given(
    st.dictionaries(st.text("ab #", min_size=1, max_size=3), VALUES, max_size=4), st.sampled_from([" ", "\n", "# x\n"])
)
def test_every_path_of_any_document_is_found(table: dict[str, object], space: str) -> None:
    text = "\n".join(f"{quoted(key)} = {written(value, space)}" for key, value in table.items())
    lines = toml_lines(text)
    assert tomllib.loads(text) == table
    assert set(lines) == set(paths(table))


@given(st.text(string.printable + "é\0", max_size=60))
def test_what_is_not_toml_raises_nothing(text: str) -> None:
    toml_lines(text)
