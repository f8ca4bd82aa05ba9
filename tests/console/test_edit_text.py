"""What an edit changed, for people."""

from __future__ import annotations

from agent.console.edit_text import SHOWN, changed_paths, changes_text


def test_one_mark_a_path() -> None:
    lines = [
        "/etc/motd: 6 bytes, expected 286", "/etc/motd: time 2 ns, expected 1 ns", "/etc: time 2 ns, expected 1 ns",
        "/srv/new: is not in the image", "/srv: time 2 ns, expected 1 ns", "/bin/old: No such file or directory",
        "/opt/folder: is absent or no directory", "/touched: time 2 ns, expected 1 ns",
        "/opt/folder/file: /work/opt/folder: No such file or directory",
    ]  # fmt: skip
    assert changed_paths(lines) == {
        "/bin/old": "-", "/etc/motd": "~", "/opt/folder": "-", "/opt/folder/file": "-", "/srv/new": "+",
        "/touched": "~",
    }  # fmt: skip


def test_long_lists_are_cut_and_counted() -> None:
    text = changes_text(f"/f{number:03}: is not in the image" for number in range(SHOWN + 5))
    assert len(text) == SHOWN + 1 and text[0] == "  + /f000" and text[-1] == "  … and 5 more"
