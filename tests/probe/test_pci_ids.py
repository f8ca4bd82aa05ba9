"""Names of PCI devices from the list that the live system carries."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.probe.hardware import read_devices
from agent.probe.pci_ids import PLACES, PciNames
from tests.probe.machine_tree import MachineTree

LIST = """\
# List of PCI ID's

0001  SafeNet (wrong ID)
1000  Broadcom / LSI
\t0012  53c895a
\t0016  MegaRAID SAS 2008 [Falcon]
\t\t1028 1f15  PERC
# a comment in between
\t005b  MegaRAID SAS 2208 [Thunderbolt]
8086  Intel Corporation
\t0012  another of the same number
\t10d3  82574L Gigabit Network Connection
C 01  Mass storage controller
\t00  SCSI storage controller
"""


@pytest.fixture
def names(tmp_path: Path) -> PciNames:
    (tmp_path / PLACES[1]).parent.mkdir(parents=True)
    (tmp_path / PLACES[1]).write_text(LIST)
    return PciNames(tmp_path)


@pytest.mark.parametrize(
    ("vendor", "product", "expected"),
    [
        ("1000", "0012", ("Broadcom / LSI", "53c895a")),
        ("1000", "005B", ("Broadcom / LSI", "MegaRAID SAS 2208 [Thunderbolt]")),
        ("8086", "10d3", ("Intel Corporation", "82574L Gigabit Network Connection")),
        ("8086", "005b", ("Intel Corporation", "")),  # of another vendor
        ("0001", "0012", ("SafeNet (wrong ID)", "")),
        ("1028", "1f15", ("", "")),  # a subsystem is no device
        ("ffff", "0000", ("", "")),
    ],
)
def test_vendors_and_devices(names: PciNames, vendor: str, product: str, expected: tuple[str, str]) -> None:
    assert names.names(vendor, product) == expected


def test_without_a_list_nothing_has_a_name(tmp_path: Path) -> None:
    assert PciNames(tmp_path).names("8086", "10d3") == ("", "")


def test_a_device_is_named_where_udev_knows_no_names(tmp_path: Path, names: PciNames) -> None:
    machine = MachineTree(tmp_path)
    place = "sys/devices/pci0000:00/0000:00:02.0"
    machine.text(f"{place}/modalias", "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00")
    (found,) = read_devices(tmp_path).devices
    assert found.label == "Intel Corporation 82574L Gigabit Network Connection"
