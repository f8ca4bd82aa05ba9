"""LUKS on other disks: what opens it, what is refused, what crypttab names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.errors import RefusedError
from agent.model.references import Planned
from tests.model.stacks_of_tests import GIB, LUKS_UUID, guid, laid, on_luks


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
