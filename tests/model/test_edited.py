"""What an edited image is of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.errors import DoesNotFitError
from agent.model.edited import edited_filesystem, edited_profile
from agent.model.fingerprint import hardware_fingerprint
from agent.model.profile import (
    Network,
    NetworkConfig,
    Nic,
    OperatingSystem,
    Package,
    Platform,
    Profile,
    Section,
    Status,
)
from agent.model.storage import Disk, FileSystem

CONFIG = NetworkConfig("ifupdown", "/etc/network/interfaces", ("ens3",))
SOURCE = Profile(
    "box", "2026-11-24T12:00:00Z", sections=(Section("platform", Status.COMPLETE), Section("os", Status.COMPLETE)),
    platform=Platform(system_vendor="Contoso"), disks=(Disk("vda", 1 << 30, 512, 512),),
    network=Network((Nic("52:54:00:00:00:01", "ens3"),), (CONFIG,)), packages=(Package("nano", "amd64", "7"),),
)  # fmt: skip
TREE = Profile(
    "box", "2026-11-24T13:00:00Z", sections=(Section("platform", Status.UNAVAILABLE), Section("os", Status.PARTIAL)),
    network=Network(configs=(CONFIG,)), os=OperatingSystem("debian"), hostname="new",
)  # fmt: skip


def test_hardware_stays_and_software_is_read_again() -> None:
    edited = edited_profile(SOURCE, TREE)
    assert (edited.platform, edited.disks, edited.network) == (SOURCE.platform, SOURCE.disks, SOURCE.network)
    assert (edited.os.id, edited.hostname, edited.packages, edited.time) == ("debian", "new", (), TREE.time)
    assert [(s.name, s.status) for s in edited.sections] == [("platform", "complete"), ("os", "partial")]
    assert hardware_fingerprint(edited) == hardware_fingerprint(SOURCE)


def test_the_network_configuration_is_part_of_the_fingerprint() -> None:
    other = replace(TREE, network=Network(configs=(replace(CONFIG, interfaces=("eth0",)),)))
    assert hardware_fingerprint(edited_profile(SOURCE, other)) != hardware_fingerprint(SOURCE)


def test_two_profiles_never_share_a_second() -> None:
    assert edited_profile(SOURCE, replace(TREE, time=SOURCE.time)).time == "2026-11-24T12:00:01Z"


def test_use_follows_the_edit() -> None:
    held = FileSystem("ext4", size_bytes=1000, used_bytes=600)
    assert edited_filesystem(held, 100, "root").used_bytes == 700
    assert edited_filesystem(held, -700, "root").used_bytes == 0
    assert edited_filesystem(FileSystem("", mountpoint="/"), 100, "root").used_bytes == 0
    with pytest.raises(DoesNotFitError, match="volume root would hold"):
        edited_filesystem(held, 500, "root")
