"""The words for cryptsetup and mdadm: identities in, keys never; an image’s words are checked before they are used."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from agent.commands.luks_keys import asked_before, key_source
from agent.errors import RefusedError, UsageError
from agent.model.plan import (
    ClearDisk,
    DiskIdentity,
    MakeArray,
    MakeLuks,
    Plan,
    PlannedArray,
    PlannedLuks,
    PlannedMember,
    describe,
)
from agent.probe.stack_open import no_keys
from agent.restore import luks, raid, stack
from agent.restore.disk import DiskHandle

UUID = "92808176-dd16-40d6-b4a8-d5c85b231d92"
LUKS = PlannedLuks(
    version=2, uuid=UUID, name="vda3_crypt", label="crypt", cipher="aes-xts-plain64", key_bytes=64, sector_bytes=512,
    offset_bytes=16 << 20, kdf="argon2id",
)  # fmt: skip
ARRAY = PlannedArray(
    uuid="a3ba06fe:5cfe7bf4:e2581feb:df9a4a6a", level="raid1", node="md0", name="debian:0", devices=2,
    offset_bytes=2 << 20, bitmap=True,
)  # fmt: skip


def test_luks_keeps_uuid_label_cipher_and_key_size_and_reads_its_key_from_a_pipe() -> None:
    words = luks.format_words(Path("/dev/sda3"), LUKS)
    pairs = dict(pairwise(words))
    assert words[:2] == ["cryptsetup", "luksFormat"]
    assert words[-1] == "/dev/sda3"
    assert {key: pairs[key] for key in ("--type", "--uuid", "--label", "--cipher", "--key-size", "--offset",
                                        "--sector-size", "--pbkdf", "--key-file")} == {
        "--type": "luks2", "--uuid": UUID, "--label": "crypt", "--cipher": "aes-xts-plain64", "--key-size": "512",
        "--offset": "32768", "--sector-size": "512", "--pbkdf": "argon2id", "--key-file": "-",
    }  # fmt: skip
    first = luks.format_words(Path("/dev/sda3"), msgspec.structs.replace(LUKS, version=1))
    assert not {"--label", "--sector-size", "--pbkdf"} & set(first)


@pytest.mark.parametrize(
    "change",
    [{"name": "../x"}, {"name": "-x"}, {"name": "a b"}, {"name": ".."}, {"name": ""}, {"uuid": "--help"},
     {"cipher": "-c"}, {"cipher": "a b"}, {"kdf": "x"}, {"version": 3}],
)  # fmt: skip
def test_words_that_cryptsetup_does_not_know_are_refused(change: dict[str, object]) -> None:
    luks.refuse_bad_words(LUKS)
    with pytest.raises(RefusedError):
        luks.refuse_bad_words(msgspec.structs.replace(LUKS, **change))


@pytest.mark.adapts("B9", "T1")
def test_an_array_keeps_uuid_and_name_and_its_other_members_are_missing() -> None:
    words = raid.create_words(Path("/dev/md0"), ARRAY, [Path("/dev/sda3")])
    pairs = dict(pairwise(words))
    assert words[-2:] == ["/dev/sda3", "missing"]
    assert (pairs["--uuid"], pairs["--homehost"], pairs["--name"], pairs["--level"], pairs["--raid-devices"]) == (
        ARRAY.uuid, "debian", "0", "1", "2",
    )  # fmt: skip
    ten = msgspec.structs.replace(ARRAY, level="raid10", layout="far=2")
    assert dict(pairwise(raid.create_words(Path("/dev/md0"), ten, [])))["--layout"] == "f2", "mdadm tells it otherwise"
    assert raid.name_words("data") == ["--name", "data"]
    assert (pairs["--data-offset"], pairs["--bitmap"], pairs["--metadata"]) == ("2048", "internal", "1.2")


@pytest.mark.adapts("B9", "T1")
def test_a_mirror_has_a_member_on_each_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[str]] = []
    monkeypatch.setattr(stack, "partition_node", lambda disk, number: Path(f"{disk.node}{number}"))

    def make_array(_: PlannedArray, nodes: Sequence[Path], __: ExitStack) -> Path:
        made.append([*map(str, nodes)])
        return Path("/dev/md0")

    monkeypatch.setattr(raid, "make_array", make_array)
    first, second = (
        DiskHandle(DiskIdentity(name=name, model="", serial="", wwn="", size_bytes=1, logical_sector_bytes=512), -1,
                   Path(f"/dev/{name}"), tmp_path)
        for name in ("sda", "sdb")
    )  # fmt: skip
    maker = stack.StackMaker(first, {"sda": first, "sdb": second}, no_keys, ExitStack())
    maker.make(MakeArray(place=1001, on=(2,), array=ARRAY, also=(PlannedMember(disk="sdb", partition=3),)))
    assert made == [["/dev/sda2", "/dev/sdb3"]]
    assert first.stacked == {1001: Path("/dev/md0")}, "it is mounted with the disk that boots"
    assert raid.create_words(Path("/dev/md0"), ARRAY, [Path("/dev/sda2"), Path("/dev/sdb3")])[-1] == "/dev/sdb3"


@pytest.mark.parametrize(
    "change",
    [{"uuid": "x"}, {"name": "-x"}, {"name": "a b"}, {"level": "raid5"}, {"metadata": "imsm"}, {"devices": 0},
     {"layout": "--help"}],
)  # fmt: skip
def test_words_that_mdadm_does_not_know_are_refused(change: dict[str, object]) -> None:
    raid.refuse_bad_words(ARRAY)
    with pytest.raises(RefusedError):
        raid.refuse_bad_words(msgspec.structs.replace(ARRAY, **change))


# --- keys -----------------------------------------------------------------------------------------------------------


def plan_with(*steps: MakeLuks) -> Plan:
    disk = DiskIdentity(name="sda", model="", serial="S", wwn="", size_bytes=1, logical_sector_bytes=512)
    return Plan(
        format=1, mode="restore", image="m", manifest_sha256="", source_profile_sha256="", target_profile_sha256="",
        difference_sha256="", disk=disk, untouched=(), components=(), steps=(ClearDisk(disk=disk), *steps),
    )  # fmt: skip


def test_a_passphrase_loses_its_line_end_and_a_key_file_does_not(tmp_path: Path) -> None:
    words, key = tmp_path / "words", tmp_path / "key"
    words.write_bytes(b"open sesame\n")
    key.write_bytes(b"\x00\xff\n")
    key_of = key_source((str(words),), (f"{UUID}={key}",))
    assert key_of(UUID, "") == b"\x00\xff\n"
    assert key_of("another", "") == b"open sesame"


def test_keys_are_asked_for_before_anything_is_written_and_stand_in_no_plan(tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_bytes(b"open sesame")
    step = MakeLuks(place=1001, on=3, luks=LUKS)
    key_of = asked_before(plan_with(step), key_source((str(words),), ()))
    assert key_of(UUID, "") == b"open sesame"
    assert "sesame" not in describe(step)
    with pytest.raises(RefusedError, match="no passphrase was given"):
        asked_before(plan_with(step), key_source((), ()))


def test_bad_key_files_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(b"\n")
    for words, said in (((str(empty),), "empty or too large"), ((str(tmp_path / "none"),), "cannot be read")):
        with pytest.raises(UsageError, match=said):
            key_source(words, ())
    key = tmp_path / "key"
    key.write_bytes(b"x")
    with pytest.raises(UsageError, match="two keys"):
        key_source((str(key),), (str(key),))
