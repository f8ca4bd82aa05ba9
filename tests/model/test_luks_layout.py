"""LUKS on other disks: what opens it, what is refused, what crypttab names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.errors import RefusedError
from agent.model.compare import compare
from agent.model.difference import Item, Op
from agent.model.image import Manifest
from agent.model.recipe_match import bind_all
from agent.model.recipe_test import apply
from agent.model.references import Planned
from agent.model.storage import FileSystem
from agent.restore.recipe_folder import read_recipes
from tests.model.machines_of_tests import situation
from tests.model.stacks_of_tests import GIB, LUKS_UUID, guid, laid, on_luks

RECIPES = read_recipes()


@pytest.mark.adapts("B10", "T1")
def test_a_device_that_only_a_chip_opens_is_refused_and_one_with_a_passphrase_is_told_of() -> None:
    source = on_luks()
    (sealed,) = source.stack.luks
    sealed = replace(sealed, tokens=("systemd-tpm2",))
    layout = laid(replace(source, stack=replace(source.stack, luks=(sealed,))), 20 * GIB)
    assert any("systemd-tpm2" in note and "enrol it again" in note for note in layout.notes)
    alone = replace(sealed, passphrases=0)
    with pytest.raises(RefusedError, match="opened by systemd-tpm2 only"):
        laid(replace(source, stack=replace(source.stack, luks=(alone,))), 20 * GIB)


@pytest.mark.adapts("B11", "T1")
def test_an_encrypted_boot_is_refused_where_there_is_something_to_boot() -> None:
    source = on_luks()
    without = replace(source, volumes=tuple(v for v in source.volumes if v.id != "boot"))
    with pytest.raises(RefusedError, match="/boot lies in volume root, which is encrypted"):
        laid(without, 20 * GIB)


@pytest.mark.adapts("B18", "T1")
@pytest.mark.adapts("B11", "T1")
def test_what_fstab_and_crypttab_name_is_planned() -> None:
    layout = laid(on_luks(), 20 * GIB)
    planned = Planned(layout.partitions, layout.filesystems, (), (), layout.stack)
    for device in ("/dev/mapper/debian--vg-root", "/dev/debian-vg/swap_1", f"UUID={LUKS_UUID}", f"UUID={guid(0x71)}",
                   "/dev/mapper/vda3_crypt"):  # fmt: skip
        assert planned.has(device), device
    assert not planned.has("/dev/mapper/other-root")


def crypt_of(line: str, source: Manifest, fstab: str = "") -> tuple[list[Item], str]:
    """The items of crypttab's line on another disk, all handled, and crypttab after the recipes."""
    layout = laid(source, 20 * GIB)
    tree = {"/etc/crypttab": f"# name device key\n{line}\n", "/etc/fstab": fstab}
    case = replace(
        situation(tree), manifest=source, partitions=layout.partitions, filesystems=layout.filesystems,
        stack=layout.stack,
    )  # fmt: skip
    bound, difference = bind_all(RECIPES, compare(case), case)
    items = [item for item in difference.items if item.kind == "crypt"]
    after = apply([operation for recipe in bound for operation in recipe.operations], tree)
    return items, after["/etc/crypttab"]


@pytest.mark.adapts("B4", "B11", "T1")
@pytest.mark.parametrize(
    "device",
    ["/dev/vda3", "/dev/disk/by-id/ata-QEMU_HARDDISK_QM1-part3", "/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part3",
     "PARTUUID=dead", "UUID=dead"],
)  # fmt: skip
def test_the_line_of_the_roots_own_device_names_it_by_its_uuid(device: str) -> None:
    fstab = "/dev/mapper/debian--vg-root / ext4 defaults 0 1\n"
    (item,), text = crypt_of(f"vda3_crypt {device} none luks,discard", on_luks(), fstab)
    assert (item.op, item.source, item.target) == (Op.CHANGE, device, f"UUID={LUKS_UUID}")
    assert item.handled_by == ("storage.crypttab",) and device in item.reason
    assert text == f"# name device key\nvda3_crypt UUID={LUKS_UUID} none luks,discard\n"


@pytest.mark.adapts("B4", "T1")
def test_a_line_of_another_name_is_known_by_what_its_partition_held() -> None:
    source = on_luks()
    (first,) = source.disks
    held = replace(first.partitions[2], holds=FileSystem("crypto_LUKS", LUKS_UUID))
    source = replace(source, disks=(replace(first, partitions=(*first.partitions[:2], held)),))
    (item,), text = crypt_of("root /dev/vda3 none luks", source)
    assert item.op is Op.CHANGE and text.endswith(f"root UUID={LUKS_UUID} none luks\n")
    (item,), text = crypt_of("swap /dev/vda2 /dev/urandom swap", source)
    assert item.op is Op.REMOVE, "a line with a random key would overwrite /boot, which lies there"


@pytest.mark.parametrize("rest", ["/dev/urandom swap", "/etc/key plain,hash=x", "/dev/random", "none tmp=ext4"])
def test_a_line_that_makes_its_device_anew_at_each_boot_never_names_what_was_restored(rest: str) -> None:
    """Whatever it is called: it would be overwritten."""
    (item,), text = crypt_of(f"vda3_crypt /dev/vda3 {rest}", on_luks())
    assert item.op is Op.REMOVE and LUKS_UUID not in text


@pytest.mark.adapts("B18", "T1")
def test_lines_of_what_stays_behind_are_set_aside_or_block() -> None:
    (item,), text = crypt_of("data /dev/vdb3 none luks", on_luks())
    assert item.op is Op.REMOVE and "no such device): data /dev/vdb3" in text
    (item,), _ = crypt_of("data /dev/vdb3 none luks", on_luks(), "/dev/mapper/data /var ext4 defaults 0 1\n")
    assert item.op is Op.BLOCK
    assert crypt_of(f"vda3_crypt UUID={LUKS_UUID} none luks", on_luks())[0] == []
