"""Which machine is this one? Placeholders say nothing, contradictions count, ties are no opinion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.model.fingerprint import hardware_fingerprint
from agent.model.machine_match import Match, best_match, is_placeholder, score
from agent.model.profile import Address, Device, Network, NetworkConfig, Nic, Platform, Profile
from agent.model.profile_xml import load_profile
from agent.model.storage import Disk

MACHINES = Path(__file__).parent.parent / "machines"


def known(name: str) -> Profile:
    return load_profile((MACHINES / f"{name}.xml").read_bytes())


DELL, HP, MSI = known("dell-optiplex-7090-vmd"), known("hp-dl380-gen9-hpsa-tg3"), known("msi-desktop-placeholders")


@pytest.mark.parametrize(
    "value",
    [
        "", "   ", "0", "00000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "00000000-0000-0000-0000-000000000000",
        "03000200-0400-0500-0006-000700080009", "To Be Filled By O.E.M.", "to be filled by OEM", "To Be Set By OEM",
        "Default string", "System Serial Number", "Not Specified", "None", "N/A", "0123456789", "123456789",
        "xxxxxxxx", "........", "Chassis Serial Number", "No Asset Tag", "Unknown", "INVALID", "OEM",
        "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "00:e0:4c:68:00:01",
    ],
)  # fmt: skip
def test_placeholders(value: str) -> None:
    assert is_placeholder(value)


@pytest.mark.parametrize(
    "value",
    ["8XK2R93", "4c4c4544-0038-4b10-8032-b8c04f523933", "CZ3541 07VD", "52:54:00:a0:00:01", "/8XK2R93/CNWS200165002A/"],
)
def test_what_tells_machines_apart(value: str) -> None:
    assert not is_placeholder(value)


def with_platform(profile: Profile, **changes: str) -> Profile:
    fields: dict[str, object] = dict(changes)
    return replace(profile, platform=replace(profile.platform, **fields))  # type: ignore[arg-type]


def test_a_machine_is_itself() -> None:
    found = score(DELL, DELL)
    assert found.score == 100 + 60 + 40 + 20
    assert found.reasons[0] == "same system UUID 4c4c4544-0038-4b10-8032-b8c04f523933"


def test_placeholders_speak_neither_for_nor_against() -> None:
    other = replace(MSI, network=Network(nics=(Nic("00:d8:61:00:00:01", "a"), Nic("00:e0:4c:68:00:01", "b"))))
    assert score(MSI, other) == Match(0, ())
    assert score(MSI, MSI).reasons == ("same network card 00:d8:61:5a:12:9e",)


def test_a_borrowed_network_adapter_is_no_machine() -> None:
    """A USB adapter of the bench, on a machine whose UUID and serial are known to be others."""
    visitor = replace(HP, network=Network(nics=(*HP.network.nics, DELL.network.nics[0])))
    assert score(DELL, visitor).score == 0
    assert any(reason.startswith("another system UUID") for reason in score(DELL, visitor).reasons)


def test_a_new_board_in_the_same_case() -> None:
    """UUID and board changed, the service tag and a plugged-in card stayed: less than certain, more than nothing."""
    repaired = with_platform(
        DELL,
        system_uuid="11111111-2222-4333-8444-555566667777",
        board_serial="/8XK2R93/CN1296/",
        system_serial="8XK2R93",
    )
    assert score(DELL, repaired).score == 0
    kept = with_platform(DELL, system_uuid="")
    assert score(DELL, kept).score == 60 + 40 + 20


def test_uuids_of_both_byte_orders_are_the_same() -> None:
    turned = with_platform(DELL, system_uuid="44454C4C-3800-104B-8032-B8C04F523933", system_serial="", board_serial="")
    assert "same system UUID" in score(DELL, turned).reasons[0]


def test_many_cards_are_not_worth_more_than_a_uuid() -> None:
    bare = replace(HP, platform=Platform())
    assert score(bare, bare).score == 60


def test_the_best_one_and_ties() -> None:
    assert best_match([HP, DELL], DELL) == (DELL, score(DELL, DELL))
    assert best_match([DELL, replace(DELL, machine="twin")], DELL) is None
    assert best_match([HP], MSI) is None
    assert best_match([], MSI) is None


# --- the fingerprint ------------------------------------------------------------------------------------------------

SOURCE = known("qemu-i440fx-virtio-bios-debian")
FINGERPRINT = hardware_fingerprint(SOURCE)


def with_disk(**changes: object) -> Profile:
    return replace(SOURCE, disks=(replace(SOURCE.disks[0], **changes),))  # type: ignore[arg-type]


def test_what_does_not_change_the_configuration() -> None:
    (nic,) = SOURCE.network.nics
    (disk,) = SOURCE.disks
    stick = Disk("sdb", 8 << 30, 512, 512, "usb", removable=True)
    leased = replace(nic, name="eth0", link="down", addresses=(Address("192.0.2.9/24", "dhcp"),))
    loaded = Device("other:platform:coretemp#1", "other", "coretemp.0", "platform:coretemp")
    filled = tuple(
        replace(part, holds=replace(part.holds, used_bytes=7, mountpoint="")) if part.holds else part
        for part in disk.partitions
    )
    for same in (
        replace(SOURCE, time="2027-01-01T00:00:00Z", packages=(), disks=tuple(reversed((*SOURCE.disks, stick)))),
        replace(SOURCE, devices=tuple(reversed((*SOURCE.devices, loaded)))),
        replace(SOURCE, network=replace(SOURCE.network, nics=(leased,))),
        with_disk(name="sda", in_use=(), boot_medium=False, partitions=filled),
    ):
        assert hardware_fingerprint(same) == FINGERPRINT


def test_what_changes_it() -> None:
    (nic,) = SOURCE.network.nics
    (config,) = SOURCE.network.configs
    static = NetworkConfig("ifupdown", config.path, config.interfaces, (), ("10.77.0.99/24",))
    for other in (
        replace(SOURCE, devices=SOURCE.devices[:-1]),
        with_disk(size_bytes=9 << 30),
        with_disk(partitions=SOURCE.disks[0].partitions[:-1]),
        replace(SOURCE, disks=(*SOURCE.disks, Disk("vdb", 1 << 30, 512, 512, "virtio"))),
        replace(SOURCE, network=replace(SOURCE.network, nics=(replace(nic, mac="52:54:00:ff:ff:01"),))),
        replace(SOURCE, network=replace(SOURCE.network, configs=(static,))),
    ):
        assert hardware_fingerprint(other) != FINGERPRINT
