"""crypttab: what opens encrypted devices at the boot, and which of it the image brings along."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from agent.model.compare_storage import key_items, storage_items
from agent.model.crypttab import CryptEntry, crypt_entries, enrolments, is_of, key_file, lost_key, slot_of
from agent.model.difference import Op, Tier
from agent.model.plan import EnrolKey, MakeLuks
from agent.model.tree import MemoryTree
from tests.model.machines_of_tests import situation
from tests.model.stacks_of_tests import GIB, LUKS_UUID, laid, on_luks

KEY = "/etc/keys/data.key"
TREE = MemoryTree({KEY: b"key", "/etc/cryptsetup-keys.d/own.key": b"key", "/etc/empty": b"",
                   "/etc/k\udcfc": b"key"})  # fmt: skip


def test_lines_are_read_with_their_options() -> None:
    text = "# a comment\n\nroot UUID=1 none luks,discard\nshort /dev/sda2\nkey\t/dev/sda3  /etc/k\n"
    assert crypt_entries(text) == (
        CryptEntry("root", "UUID=1", "none", ("luks", "discard")),
        CryptEntry("short", "/dev/sda2"),
        CryptEntry("key", "/dev/sda3", "/etc/k"),
    )


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (f"UUID={LUKS_UUID}", True),
        (f'UUID="{LUKS_UUID.upper()}"', True),
        (f"/dev/disk/by-uuid/{LUKS_UUID}", True),
        ("UUID=0c1f6a52-0000-44c1-8d5e-4d4a6cb0a2a1", False),
        ("/dev/disk/by-uuid/other", False),
        ("/dev/vda3", True),  # by the name of the mapping
        ("PARTUUID=7", True),
    ],
)
def test_a_line_means_a_device_by_its_uuid_or_by_its_name(device: str, expected: bool) -> None:
    assert is_of(CryptEntry("data", device), LUKS_UUID, "data") is expected
    assert not is_of(CryptEntry("other", "/dev/vda3"), LUKS_UUID, "data")


NO_KEY = ", which is no file of the image that can be a key"


@pytest.mark.parametrize(
    ("key", "options", "file", "lost"),
    [
        (KEY, (), KEY, ""),
        (KEY, ("luks", "keyfile-offset=1", "keyfile-size=2"), KEY, ""),
        (KEY, ("luks", "keyscript=/bin/cat"), KEY, ""),
        (KEY, ("keyfile-offset=3",), "", f"the key {KEY}{NO_KEY}"),
        (KEY, ("keyfile-offset=2", "keyfile-size=2"), "", f"the key {KEY}{NO_KEY}"),
        (KEY, ("keyfile-size=" + "9" * 5000,), KEY, ""),
        ("/etc/empty", (), "", f"the key /etc/empty{NO_KEY}"),
        ("/etc/k\udcfc", (), "", f"the key /etc/k\\xfc{NO_KEY}"),
        ("none", (), "", ""),
        ("-", (), "", ""),
        ("", (), "", ""),
        ("/media/key", (), "", f"the key /media/key{NO_KEY}"),
        (f"{KEY}:LABEL=STICK", (), "", f"the key {KEY}:LABEL=STICK{NO_KEY}"),
        (f"{KEY}:/dev/sdb1", (), "", f"the key {KEY}:/dev/sdb1{NO_KEY}"),
        ("/dev/disk/by-label/STICK", (), "", f"the key /dev/disk/by-label/STICK{NO_KEY}"),
        ("root", ("keyscript=decrypt_derived",), "", "the script decrypt_derived, which asks nobody"),
        (KEY, ("keyscript=/usr/bin/ours",), "", "the script /usr/bin/ours, which asks nobody"),
        ("shared", ("keyscript=decrypt_keyctl",), "", ""),
        (KEY, ("tpm2-device=auto",), "", "a file that tpm2-device=auto decrypts"),
        ("-", ("fido2-device=auto",), "", ""),  # its header says so, which the layout tells
    ],
)
def test_which_key_comes_with_the_image(key: str, options: tuple[str, ...], file: str, lost: str) -> None:
    entry = CryptEntry("data", "UUID=1", key, options)
    assert (key_file(entry, TREE), lost_key(entry, TREE)) == (file, lost)


def test_slots_that_no_header_has_are_any_slot() -> None:
    for version, slot, expected in ((1, 7, 7), (1, 8, -1), (2, 31, 31), (2, 32, -1), (2, 0, 0)):
        assert slot_of(CryptEntry("data", "UUID=1", KEY, (f"keyslot={slot}",)), version) == expected
    assert slot_of(CryptEntry("data", "UUID=1", KEY, ("key-slot=5",)), 2) == 5
    for options in (("luks",), ("keyslot=",), ("keyslot=one",), ("keyslot=" + "1" * 5000,)):
        assert slot_of(CryptEntry("data", "UUID=1", KEY, options), 2) == -1


def test_a_key_that_the_table_does_not_name_is_found_by_the_mappings_name() -> None:
    assert key_file(CryptEntry("own", "UUID=1"), TREE) == "/etc/cryptsetup-keys.d/own.key"
    assert key_file(CryptEntry("own", "UUID=1", "none"), TREE) == "/etc/cryptsetup-keys.d/own.key"


def stack_with(line: str) -> tuple[MakeLuks, MemoryTree]:
    layout = laid(on_luks(), 20 * GIB)
    (made,) = (step for step in layout.stack if isinstance(step, MakeLuks))
    return made, MemoryTree({"/etc/crypttab": line.encode("utf-8", "surrogateescape"), KEY: bytes(64)})


@pytest.mark.adapts("B10", "T1")
def test_a_key_file_of_the_system_opens_the_device_that_is_made_anew() -> None:
    made, tree = stack_with(f"vda3_crypt UUID={LUKS_UUID} {KEY} luks,keyfile-size=32,keyfile-offset=8,keyslot=3\n")
    assert enrolments([made], tree) == (
        EnrolKey(on=made.on, uuid=LUKS_UUID, name="vda3_crypt", path=KEY, offset_bytes=8, size_bytes=32, slot=3,
                 kdf="argon2id"),
    )  # fmt: skip
    first = msgspec.structs.replace(made, luks=msgspec.structs.replace(made.luks, version=1, kdf="pbkdf2"))
    assert [step.kdf for step in enrolments([first], tree)] == [""], "LUKS1 has one derivation only"
    for line in (f"vda3_crypt UUID={LUKS_UUID} none luks\n", f"vda3_crypt UUID={LUKS_UUID} /media/key luks\n",
                 f"other UUID=7 {KEY} luks\n"):  # fmt: skip
        assert not list(enrolments([made], stack_with(line)[1])), line


def test_a_key_that_needs_a_slot_comes_before_those_that_take_any() -> None:
    lines = "".join(f"{name} UUID={LUKS_UUID} {KEY} luks{more}\n" for name, more in (("a", ""), ("b", ",keyslot=1")))
    made, tree = stack_with(lines)
    assert [(step.name, step.slot) for step in enrolments([made], tree)] == [("b", 1), ("a", -1)]


@pytest.mark.adapts("B10", "T1")
def test_a_key_that_does_not_come_along_is_told() -> None:
    made, tree = stack_with(f"vda3_crypt UUID={LUKS_UUID} /media/k\udcfc luks,nofail\n")
    given = replace(situation(), tree=tree, stack=(made,))
    (item,) = key_items(given)
    assert (item.op, item.kind, item.key, item.tier) == (Op.CHANGE, "crypt-key", "vda3_crypt", Tier.SHOULD)
    assert "/media/k\\xfc" in item.reason and "luksAddKey" in item.reason
    assert item.evidence == (("hw-config", f"/etc/crypttab: vda3_crypt UUID={LUKS_UUID} /media/k\\xfc luks,nofail"),)
    assert item in tuple(storage_items(given))
    _, brought = stack_with(f"vda3_crypt UUID={LUKS_UUID} {KEY}\n")
    assert not list(key_items(replace(given, tree=brought)))
