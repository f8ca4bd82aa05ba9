"""Key files of a restored system become keys of its encrypted devices: with cryptsetup itself, on files."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from agent.errors import PatchError, TargetIOError
from agent.model.plan import EnrolKey
from agent.process import Completed, run
from agent.restore import luks
from agent.restore.inside import InsideRoot
from agent.restore.luks import enrol_key

UUID = "0c1f6a52-52d5-44c1-8d5e-4d4a6cb0a2a1"
PASSPHRASE = b"the operator's"
STEP = EnrolKey(on=1, uuid=UUID, name="data", path="/etc/keys/data.key", kdf="pbkdf2")


@pytest.fixture
def system(tmp_path: Path) -> InsideRoot:
    keys = tmp_path / "system/etc/keys"
    keys.mkdir(parents=True)
    (keys / "data.key").write_bytes(bytes(range(256)))
    return InsideRoot(tmp_path / "system")


def device(folder: Path, version: int) -> Path:
    """A LUKS device in a file, which one passphrase opens."""
    node = folder / "device"
    with node.open("wb") as file:
        file.truncate(32 << 20)
    kdf = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
    run(["cryptsetup", "luksFormat", "-q", "--type", f"luks{version}", "--uuid", UUID, *kdf, "--key-file", "-", node],
        stdin=PASSPHRASE)  # fmt: skip
    return node


def opens(node: Path, key: bytes, *words: str) -> bool:
    done = run(["cryptsetup", "open", "--test-passphrase", "--key-file", "-", *words, node], stdin=key, accept=(0, 2))
    return done.status == 0


def slots(node: Path) -> list[int]:
    """Those in use, as both versions of the header are printed."""
    said = run(["cryptsetup", "luksDump", node]).stdout
    return [int(number) for number in re.findall(r"^(?:Key Slot |  )(\d): (?:ENABLED|luks2)", said, re.MULTILINE)]


@pytest.mark.root
@pytest.mark.adapts("B10", "T2")
@pytest.mark.parametrize(
    ("version", "changes", "key", "slot"),
    [
        (1, {"kdf": "", "slot": 3}, bytes(range(256)), 3),
        (2, {"slot": 0}, bytes(range(256)), 0),
        (2, {}, bytes(range(256)), 1),
        (2, {"offset_bytes": 16, "size_bytes": 32}, bytes(range(16, 48)), 1),
    ],
    ids=("LUKS1 and a slot", "the slot of the given key", "LUKS2", "a part of the file"),
)
def test_the_file_opens_what_the_passphrase_opens(
    version: int, changes: dict[str, object], key: bytes, slot: int, system: InsideRoot, tmp_path: Path
) -> None:
    node = device(tmp_path, version)
    step = msgspec.structs.replace(STEP, **changes)
    assert not opens(node, key)
    check = enrol_key(node, step, PASSPHRASE, system)
    assert check.ok and check.detail == "/etc/keys/data.key opens data"
    given = 0 if slot else 1
    assert opens(node, key) and opens(node, PASSPHRASE, "--key-slot", str(given))
    assert slots(node) == sorted((given, slot))
    enrol_key(node, step, b"not asked for", system)  # as after a run that was cut
    assert slots(node) == sorted((given, slot)), "once is enough"


@pytest.mark.root
def test_a_slot_that_another_key_has_is_freed(system: InsideRoot, tmp_path: Path) -> None:
    """After a reset to an image with another key file, or where two lines name the slot that one of them moved into."""
    node = device(tmp_path, 2)
    enrol_key(node, msgspec.structs.replace(STEP, slot=1), PASSPHRASE, system)
    (system.root / "etc/keys/data.key").write_bytes(b"another key")
    enrol_key(node, msgspec.structs.replace(STEP, slot=1), PASSPHRASE, system)
    assert opens(node, b"another key", "--key-slot", "1") and opens(node, PASSPHRASE)
    assert not opens(node, bytes(range(256)))


@pytest.mark.root
def test_no_link_of_the_image_leads_to_a_key_outside(system: InsideRoot, tmp_path: Path) -> None:
    node = device(tmp_path, 1)
    (tmp_path / "outside").write_bytes(b"the live system's")
    place = system.root / "etc/keys/data.key"
    for target in (str(tmp_path / "outside"), "../../../outside"):
        place.unlink()
        place.symlink_to(target)
        with pytest.raises(PatchError, match=r"/etc/keys/data.key of data"):
            enrol_key(node, STEP, PASSPHRASE, system)


def test_a_key_that_does_not_open_what_it_was_added_to_is_an_error(
    system: InsideRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: list[list[str]] = []

    def refusing(argv: list[str], **_: object) -> Completed:
        words.append(argv)
        return Completed(2 if "open" in argv else 0, "", "")

    monkeypatch.setattr(luks, "run", refusing)
    with pytest.raises(TargetIOError, match=f"added to the keys of LUKS {UUID}, and does not open it"):
        enrol_key(tmp_path / "device", STEP, PASSPHRASE, system)
    assert [each[1] for each in words] == ["open", "luksAddKey", "open"]
    assert not any(PASSPHRASE.decode() in word for each in words for word in each)


@pytest.mark.parametrize("size", [0, (8 << 20) + 1])
def test_a_file_that_can_be_no_key_is_refused(size: int, system: InsideRoot, tmp_path: Path) -> None:
    with (system.root / "etc/keys/data.key").open("wb") as file:
        file.truncate(size)
    with pytest.raises(PatchError, match=f"gives a key of {size:,} bytes, expected 1 to"):
        enrol_key(tmp_path / "device", STEP, PASSPHRASE, system)
