"""Does another machine answer at an address that this one is about to have? Asked before the restart, on each card."""

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from agent.model.arp import ETH_P_ARP, probe_packet, sender_of
from agent.model.nic_map import Watched

PROBES = 3  # RFC 5227: PROBE_NUM
WAIT_S = 0.7  # after each; the RFC's 1 to 2 s are for links that just came up


@dataclass(frozen=True, slots=True)
class Duplicate:
    address: str
    mac: str  # who answers
    card: str


def find_duplicates(watched: Iterable[Watched], own_macs: Collection[str]) -> tuple[list[Duplicate], list[str]]:
    """Who else has one of these addresses, and where nobody could be asked (a sentence each)."""
    found: list[Duplicate] = []
    unasked: list[str] = []
    for one in watched:
        try:
            found += ask(one, own_macs)
        except OSError as error:
            unasked.append(f"{one.card} could not ask for {', '.join(one.addresses)}: {error}")
    return found, unasked


def ask(watched: Watched, own_macs: Collection[str]) -> list[Duplicate]:
    """Probes on one card; needs CAP_NET_RAW. Raises OSError where the card is gone or down."""
    answers: dict[str, str] = {}
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP)) as link:
        link.bind((watched.card, ETH_P_ARP))
        for _ in range(PROBES):
            for address in watched.addresses:
                link.send(probe_packet(watched.mac, address))
            _listen(link, answers)
    return [
        Duplicate(address, answers[address], watched.card)
        for address in watched.addresses
        if answers.get(address, watched.mac) not in own_macs
    ]


def _listen(link: socket.socket, answers: dict[str, str]) -> None:
    deadline = time.monotonic() + WAIT_S
    while (left := deadline - time.monotonic()) > 0:
        link.settimeout(left)
        try:
            told = sender_of(link.recv(1514))
        except TimeoutError:
            return
        if told:
            answers[told[0]] = told[1]
