"""Two images' changes and one image's files, as people read them."""

from __future__ import annotations

import stat

from agent.console.changes_text import file_lines, section_lines
from agent.console.tree_text import ls_line, time_text
from agent.model.image_changes import Counts, FileChange, SectionChanges, ValueChange


def counted(*changes: FileChange) -> Counts:
    counts = Counts()
    for change in changes:
        counts.add(change)
    return counts


def lines(*changes: FileChange, limit: int = 40) -> list[str]:
    return list(file_lines("FILES", counted(*changes), changes, limit))


def test_a_section_says_how_many_and_which() -> None:
    section = SectionChanges(
        "packages", (ValueChange("a", "1", "2"), ValueChange("b", "", "1"), ValueChange("c", "1", ""))
    )
    assert list(section_lines(section, 2)) == [
        "PACKAGES (1 added, 1 removed, 1 changed)",
        "  ~ a: 1 -> 2",
        "  + b: 1",
        "  … and 1 more: --all shows them",
    ]
    assert list(section_lines(SectionChanges("kernels"), 2)) == ["KERNELS (no change)"]
    (told,) = section_lines(SectionChanges("services", not_compared="web-1: no systemd"), 2)
    assert told == "SERVICES\n  not compared: web-1: no systemd"


def test_changes_of_files_say_what_differs() -> None:
    assert lines(
        FileChange(path="/a", op="changed", type="file", differences=("content", "mode"), old_size=1000, size=2000),
        FileChange(path="/b", op="changed", type="dir", differences=("type",), old_type="link"),
        FileChange(path="/c\x1b", op="changed", type="file", differences=("owner",)),
        FileChange(path="/d\ufffd", op="removed", type="file", raw="L2T/"),
        FileChange(path="/", op="changed", type="dir", differences=("time",)),
    ) == [
        "FILES (1 removed, 3 changed; 1 of these in metadata only; 1 in nothing but their time)",
        "  ~ /a  content (1,000 -> 2,000 bytes), mode",
        "  ~ /b/  link -> dir",
        "  ~ /c\\x1b  owner",
        "  - /d\\xff",
    ]


def test_a_directory_that_came_stands_for_what_is_in_it() -> None:
    came = [
        FileChange(path=path, op="added", type=kind)
        for path, kind in (
            ("/a", "dir"),
            ("/a/x", "file"),
            ("/a/b", "dir"),
            ("/a/b/y", "file"),
            ("/a-b", "dir"),
            ("/c", "dir"),
        )
    ]
    went = FileChange(path="/c/gone", op="removed", type="file")
    assert lines(*came, went) == [
        "FILES (6 added, 1 removed)",
        "  + /a/  with 3 entries in it",
        "  + /a-b/",
        "  + /c/",
        "  - /c/gone",
    ]
    assert lines(*came, went, limit=1) == [
        "FILES (6 added, 1 removed)",
        "  + /a/  with 3 entries in it",
        "  … and 3 more: --all shows them",
    ]


def test_files_are_listed_as_ls_has_them() -> None:
    line = ls_line(stat.S_IFLNK | 0o777, 1, "root", "adm", "7", 1_600_000_000_123_456_789, b"/odd\xff\n", b"to\x1b")
    assert line == "lrwxrwxrwx   1 root     adm                 7 2020-09-13 12:26:40 /odd\\xff\\n -> to\\x1b"
    assert ls_line(stat.S_IFCHR | 0o6755, 2, "0", "0", "1, 3", -1, b"/n", None).startswith("crwsr-sr-x   2 0 ")


def test_times_beyond_any_calendar_are_numbers() -> None:
    assert time_text(-1) == "1969-12-31 23:59:59"
    assert time_text(10**30) == "1000000000000000000000 s"
