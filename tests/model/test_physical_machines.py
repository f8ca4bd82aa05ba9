"""Real machines against real Debian kernels: which of their controllers, cards and displays each kernel drives.

The machines are in tests/machines/physical, each with its source; what drives a function was found by its owner's
system, not by us.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass

import pytest

from agent.model.difference import Verdict
from agent.model.drivers import KernelIndex
from agent.model.storage import ChainLink
from agent.model.tree import MemoryTree
from agent.probe.hardware import describe
from tests.commands.system import MACHINES
from tests.model.debian_kernel import unpacked_kernel

PHYSICAL = sorted((MACHINES / "physical").glob("*.toml"))
CLOUD_DRIVES = {"nvme"}  # of real iron; built in


@dataclass(frozen=True)
class Function:
    """A PCI function of a machine, and the module that drives it."""

    modalias: str
    kind: str  # class: "01" storage, "02" network, …
    driver: str


def functions(text: str) -> list[Function]:
    return [
        Function(modalias(each["class"], each["id"], each["subsystem"]), each["class"][:2], each["driver"])
        for each in tomllib.loads(text)["functions"]
    ]


def modalias(code: str, device: str, subsystem: str) -> str:
    (vendor, product), (sub_vendor, sub_product) = (pair.upper().split(":") for pair in (device, subsystem))
    base, sub, interface = (code[n : n + 2].upper() for n in (0, 2, 4))
    return f"pci:v0000{vendor}d0000{product}sv0000{sub_vendor}sd0000{sub_product}bc{base}sc{sub}i{interface}"


@pytest.fixture(scope="module")
def kernels() -> dict[str, KernelIndex]:
    return {flavour: kernel(flavour) for flavour in ("amd64", "cloud-amd64")}


def kernel(flavour: str) -> KernelIndex:
    root, release = unpacked_kernel(flavour)
    below = root / "lib/modules" / release
    files = {f"/lib/modules/{release}/{path.name}": path.read_bytes() for path in below.glob("modules.*")}
    files |= {f"/boot/{path.name}": path.read_bytes() for path in (root / "boot").glob("config-*")}
    return KernelIndex.from_tree(MemoryTree(files), release)


@pytest.mark.root
@pytest.mark.adapts("D1", "T1")
@pytest.mark.parametrize("file", PHYSICAL, ids=lambda file: file.stem)
def test_the_generic_kernel_drives_every_function_by_the_right_module(
    file: object, kernels: dict[str, KernelIndex]
) -> None:
    for each in functions(file.read_text()):  # type: ignore[attr-defined]
        found = kernels["amd64"].verdict(ChainLink(each.modalias, ""))
        assert found.verdict is Verdict.MODULE, f"{each}: {found}"
        assert each.driver in found.modules, f"{each}: {found}"


@pytest.mark.root
@pytest.mark.adapts("B3", "T1", "T5")
@pytest.mark.parametrize("file", PHYSICAL, ids=lambda file: file.stem)
def test_the_cloud_kernel_is_refused_on_iron(file: object, kernels: dict[str, KernelIndex]) -> None:
    """What carries disks and addresses is told as absent, whatever drives it; the one that is built in is believed."""
    for each in functions(file.read_text()):  # type: ignore[attr-defined]
        if each.kind not in ("01", "02"):
            continue
        found = kernels["cloud-amd64"].verdict(ChainLink(each.modalias, each.driver))
        expected = Verdict.BUILTIN if each.driver in CLOUD_DRIVES else Verdict.ABSENT
        assert found.verdict is expected, f"{each}: {found}"


@pytest.mark.parametrize("file", PHYSICAL, ids=lambda file: file.stem)
def test_a_machine_names_its_source_and_has_what_a_restore_needs(file: object) -> None:
    text = file.read_text()  # type: ignore[attr-defined]
    assert re.search(r"^# https://\S+, commit [0-9a-f]{12},\n# .+/.+$", text, re.M)
    table = tomllib.loads(text)
    assert table["vendor"] and table["product"]
    kinds = {each.kind for each in functions(text)}
    assert {"01", "02"} <= kinds
    for each in functions(text):
        assert describe("pci", each.modalias)[0].startswith("pci:")


def test_there_are_machines_of_every_kind() -> None:
    tables = [tomllib.loads(file.read_text()) for file in PHYSICAL]
    assert len(tables) >= 12
    assert {table["kind"] for table in tables} == {"Server", "Notebook", "Mini Pc", "Desktop"}
    drivers = {each.driver for file in PHYSICAL for each in functions(file.read_text())}
    assert {"megaraid_sas", "hpsa", "mpt3sas", "ahci", "nvme"} <= drivers
    assert {"tg3", "i40e", "ixgbe", "igb", "e1000e", "r8169", "iwlwifi"} <= drivers
