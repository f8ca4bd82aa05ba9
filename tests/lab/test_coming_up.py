"""What shows that a machine is not up: its own words, or its address on no card or on the wrong one."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from tests.lab.coming_up import GIVES_UP, Seen, misplaced
from tests.lab.machine import Machine, Nic
from tests.lab.source import ADDRESS

FIRST, SECOND = "52:54:00:50:10:01", "52:54:00:50:10:02"
MACHINE = Machine(nics=(Nic("e1000e", FIRST), Nic("e1000e", SECOND)))


def said(**addresses: str) -> str:
    """What is typed back by a console: the command's answer among line ends and prompts."""
    cards = [
        {"ifname": name, "address": mac, "addr_info": [{"family": "inet", "local": local, "prefixlen": 24}]}
        for name, (mac, local) in {key: value.split() for key, value in addresses.items()}.items()
    ]
    return f"\n{json.dumps(cards)}\n"


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (said(lo="00:00:00:00:00:00 127.0.0.1", ens1=f"{FIRST} 169.254.1.1"), f"is on no card, and not on {FIRST}"),
        (said(ens1=f"{FIRST} 10.77.1.50", ens2=f"{SECOND} {ADDRESS}"), f"is on {SECOND}, and not on {FIRST}"),
        (said(ens1=f"{FIRST} {ADDRESS}"), ""),  # it should have answered: something else is wrong
        ("bash: ip: command not found", ""),
    ],
)
def test_where_the_address_is(answer: str, shown: str) -> None:
    assert misplaced(answer, MACHINE) == (f"{ADDRESS} {shown}" if shown else "")


def test_the_card_on_the_labs_network_is_meant_wherever_it_sits() -> None:
    first, second = MACHINE.nics
    swapped = replace(MACHINE, nics=(replace(second, network=1), replace(first, network=0)))
    assert misplaced(said(ens1=f"{FIRST} {ADDRESS}"), swapped) == ""
    assert misplaced(said(ens1=f"{SECOND} {ADDRESS}"), swapped)


@pytest.mark.parametrize(
    "line",
    [
        "Gave up waiting for root file system device.\r\n(initramfs) ",
        "[    4.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        "error: no such device: 6f1d3c52-2b70-4a52-9f0b-1a50c4b0b102.\r\ngrub rescue> ",
        'BdsDxe: starting Boot0002 "EFI Internal Shell" from Fv(7CB8BDC9-F8EB-4F34-AAEA-3EE4AF6516A1)',
        "Boot failed: not a bootable disk\r\n\r\nNo bootable device.",
    ],
)
def test_words_of_what_gives_up(line: str) -> None:
    assert re.search(GIVES_UP, line)


def test_silence_and_an_answer_are_no_proof() -> None:
    assert not Seen(False, "no login prompt").is_down
    assert not Seen(True, "ssh answers").is_down
    assert Seen(False, "it stopped", "(initramfs)").is_down
