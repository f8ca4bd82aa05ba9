"""Edits of text: what is meant changes, everything else stays to the byte, twice is as once."""

from __future__ import annotations

import msgspec
import pytest

from agent.errors import PatchError
from agent.model.edits import FileEdit, edit, shell_values, words_at
from agent.model.recipe import AddTo, DropFrom, EditMounts, Replace, SetValue, Truncate, Write

ENTRY = "/boot/loader/entries/0a-5.14.conf"
GRUBENV = "/boot/grub2/grubenv"
GRUB = "# comment\nGRUB_CMDLINE_LINUX=\"quiet resume=UUID=1  splash\"\nexport X='a b'\n"


@pytest.mark.parametrize(
    ("operation", "before", "after"),
    [
        (Write(path="/x", lines=("a", "b")), None, "a\nb\n"),
        (Write(path="/x", lines=("a", "b")), "b", "b\na\n"),
        (Write(path="/x", lines=("a",), whole=True), "old\n", "a\n"),
        (SetValue(path="/x", format="shell", key="A", value="b c"), None, 'A="b c"\n'),
        (SetValue(path="/x", format="shell", key="A", value="2"), "A=0\n#A=1\nA='1'\nB=3\n", "A=0\n#A=1\nA='2'\nB=3\n"),
        (SetValue(path="/x", format="ini", section="s", key="k", value="v"), "[s]\nk = u\n", "[s]\nk = v\n"),
        (SetValue(path="/x", format="ini", section="s", key="k", value="v"), "[s]\na=1\n\n[t]\nk=1\n",
         "[s]\na=1\nk=v\n\n[t]\nk=1\n"),
        (SetValue(path="/x", format="keyfile", section="s", key="k", value="v"), "a=1\n", "a=1\n\n[s]\nk=v\n"),
        (DropFrom(path="/x", key="GRUB_CMDLINE_LINUX", word="resume=*"), GRUB,
         GRUB.replace("quiet resume=UUID=1  splash", "quiet splash")),
        (DropFrom(path="/x", key="GRUB_CMDLINE_LINUX", word="nothing"), GRUB, GRUB),
        (DropFrom(path="/x", key="ABSENT", word="*"), GRUB, GRUB),
        (DropFrom(path="/x", key="A", word="b*"), 'A="a \\\n  b \\\n  c=\\"d\\""  # why\nB=1\n',
         'A="a c=\\"d\\""  # why\nB=1\n'),
        (DropFrom(path="/x", key="A", word="b*"), "A='a\nb c'\nB=1\n", "A='a c'\nB=1\n"),
        (DropFrom(path="/x", key="A", word="b"), "A=b # ours\nB=1\n", 'A="" # ours\nB=1\n'),
        (AddTo(path="/x", key="A", word="w"), "A=quiet # ours\n", 'A="quiet w" # ours\n'),
        (AddTo(path="/x", key="A", word="w"), "A= # nothing\n", "A=w # nothing\n"),
        (AddTo(path="/x", key="A", word="w"), 'A="a b"; # why\n', 'A="a b w"; # why\n'),
        (AddTo(path="/x", key="A", word="w"), "A=a#b\n", 'A="a#b w"\n'),
        (DropFrom(path="/x", key="A", word="z"), 'A="a \\\n  b"\n', 'A="a \\\n  b"\n'),
        (AddTo(path="/x", key="A", word="z"), 'A="a \\\n  b"\n', 'A="a b z"\n'),
        (DropFrom(path="/x", key="", word="b=*"), "a b=1 c\n", "a c\n"),
        (AddTo(path="/x", key="GRUB_CMDLINE_LINUX", word="splash"), GRUB, GRUB),
        (AddTo(path="/x", key="NEW", word="w"), "A=1\n", "A=1\nNEW=w\n"),
        (AddTo(path="/x", key="A", word="w"), 'A=""\n', 'A="w"\n'),
        (Replace(path="/x", pattern=r"^a(\d)$", text=r"\1"), "a1\nba1\n", "\\1\nba1\n"),
        (Replace(path="/x", pattern=r"^a[^#]*?b$", text="# ", before_lines=True), "a\n\nb\na b", "# a\n# \n# b\n# a b"),
        (Truncate(path="/x"), "abc", ""),
        (EditMounts(action="set-device", device="/dev/sda1", value="UUID=1"), "#/dev/sda1 / x\n/dev/sda1\t/\text4\n",
         "#/dev/sda1 / x\nUUID=1\t/\text4\n"),
        (EditMounts(action="add-options", device="UUID=1", mountpoint="/a", value="nofail"),
         "UUID=1 /a ext4 ro,noatime 0 0\nUUID=1 /b ext4 ro 0 0\n",
         "UUID=1 /a ext4 ro,noatime,nofail 0 0\nUUID=1 /b ext4 ro 0 0\n"),
        (EditMounts(action="add-options", device="UUID=1", value="nofail"),
         "UUID=1\t/a  ext4\nUUID=1 /b ext4 ", "UUID=1\t/a  ext4 nofail\nUUID=1 /b ext4 nofail"),
        (EditMounts(action="comment-out", device="x", value="why"), "x y z\n",
         "# regraft: not on this machine (why): x y z\n"),
        (EditMounts(action="add", device="d", mountpoint="/m", value="d /m vfat x 0 1"),
         "a /m ext4 x\n", "a /m ext4 x\n"),
        (EditMounts(action="add", device="d", mountpoint="/m", value="d /m vfat x 0 1"), None, "d /m vfat x 0 1\n"),
    ],
)  # fmt: skip
def test_edits(operation: FileEdit, before: str | None, after: str) -> None:
    assert edit(operation, before) == after
    assert edit(operation, after) == after


@pytest.mark.parametrize(
    "operation",
    [DropFrom(path="/x", key="A", word="b"), Truncate(path="/x"), Replace(path="/x", pattern="a", text="b")],
)
def test_what_is_absent_stays_absent(operation: FileEdit) -> None:
    assert edit(operation, None) is None


@pytest.mark.parametrize("tail", ["x", "#", "; x"])
def test_many_blanks_behind_a_value_take_no_time(tail: str) -> None:
    """A file of the image may be as hostile as it likes: by the square of its blanks this one would take minutes."""
    for value in ('"a"', "a"):
        text = f"A={value}{' ' * 300_000}{tail}\n"
        assert len(shell_values(text, "A")) == 1


@pytest.mark.parametrize("value", ['"a b', "a\\\n  b", "'a'$B c", '"a" \\\n "b"', 'a"b c"'])
def test_a_value_that_is_not_one_pair_of_quotes_is_refused_with_its_line(value: str) -> None:
    with pytest.raises(PatchError, match=r"^line 2: A=.* expected one value in quotes"):
        edit(AddTo(path="/x", key="A", word="z"), f"B=1\nA={value}\n")


def test_bytes_that_are_not_text_survive() -> None:
    odd = b"A=\xff\xfe 1\nB=2\n".decode("utf-8", "surrogateescape")
    changed = edit(SetValue(path="/x", format="shell", key="B", value="3"), odd)
    assert changed is not None and changed.encode("utf-8", "surrogateescape") == b"A=\xff\xfe 1\nB=3\n"


def test_the_last_assignment_counts() -> None:
    assert shell_values("A=1\n A='2 3'\nexport A=\"4\"\n", "A") == ["1", "2 3", "4"]
    assert shell_values('A="1 \\\n2"\nB=0\nA="3" # 4\nA="5', "A") == ["1 2", "3", '"5']


@pytest.mark.adapts("B20", "T1")
def test_one_edit_serves_every_form_of_the_kernel_command_line() -> None:
    """The place tells the form: neither entries nor GRUB's environment know quotes, and the latter has a size."""
    entry = "title options\noptions\troot=UUID=1  ro $kernelopts\noption x\n"
    block = "# GRUB Environment Block\nsaved_entry=a\nkernelopts=root=UUID=1 ro\n".ljust(1024, "#")
    assert words_at(ENTRY, entry, "options") == ["root=UUID=1", "ro", "$kernelopts"]
    assert words_at(GRUBENV, block, "kernelopts") == ["root=UUID=1", "ro"]
    assert words_at("/etc/kernel/cmdline", "a b\n", "") == ["a", "b"]
    dropped = edit(DropFrom(path=ENTRY, key="options", word="r[o]"), entry)
    assert dropped == "title options\noptions\troot=UUID=1 $kernelopts\noption x\n"
    assert edit(DropFrom(path=ENTRY, key="options", word="absent"), entry) == entry, "spaces stay, too"
    fewer = edit(DropFrom(path=GRUBENV, key="kernelopts", word="root=*"), block)
    assert fewer == "# GRUB Environment Block\nsaved_entry=a\nkernelopts=ro\n".ljust(1024, "#")


def test_grubs_environment_is_counted_in_bytes_whatever_they_are() -> None:
    odd = b"# GRUB Environment Block\nname=\xff\xc3\xa9\nkernelopts=ro\n".ljust(1024, b"#")
    more = edit(AddTo(path=GRUBENV, key="kernelopts", word="quiet"), odd.decode("utf-8", "surrogateescape"))
    assert more is not None
    data = more.encode("utf-8", "surrogateescape")
    assert len(data) == 1024 and b"name=\xff\xc3\xa9\nkernelopts=ro quiet\n#" in data


def test_grubs_environment_never_grows() -> None:
    """GRUB writes the block where it lies on the disk, and refuses one of another size."""
    head = "# GRUB Environment Block\nkernelopts=ro "
    full = f"{head}{'x' * (1024 - len(head) - 7)}\n".ljust(1024, "#")
    fits = edit(AddTo(path=GRUBENV, key="kernelopts", word="quiet"), full)
    assert fits is not None and len(fits) == 1024 and fits.endswith("x quiet\n"), "the last byte of padding is used"
    with pytest.raises(PatchError, match=r"has 1,024 bytes, and 1,025 would be needed"):
        edit(AddTo(path=GRUBENV, key="kernelopts", word="quiet6"), full)
    fewer = edit(DropFrom(path=GRUBENV, key="kernelopts", word="xx*"), fits)
    assert fewer == f"{head}quiet\n".ljust(1024, "#")


def test_a_plan_that_still_names_the_form_is_read() -> None:
    older = b'{"type": "drop-from", "path": "/grubenv", "key": "kernelopts", "word": "x", "format": "grubenv"}'
    assert msgspec.json.decode(older, type=DropFrom) == DropFrom(path="/grubenv", key="kernelopts", word="x")
