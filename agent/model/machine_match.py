"""Are two profiles of the same machine? A score over everything that tells machines apart.

No single fact decides: boards report the UUID FFFFFFFF-…, vendors leave "To Be Filled By O.E.M." behind, and a USB
network adapter or dock on the bench lends its MAC to every machine it is plugged into. A tie is no opinion.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agent.model.profile import Profile

UUID_POINTS, SERIAL_POINTS, BOARD_POINTS, ASSET_POINTS, MAC_POINTS = 100, 60, 40, 10, 20
MACS_COUNTED = 3

# What firmware says when nobody filled it in, in lower case without punctuation.
_PLACEHOLDERS = frozenset(
    {
        "tobefilledbyoem", "tobesetbyoem", "filledbyoem", "fillbyoem", "oem", "byoem", "default", "defaultstring",
        "systemserialnumber", "serialnumber", "serial", "sernum", "chassisserialnumber", "baseboardserialnumber",
        "boardserialnumber", "type2boardserialnumber", "mbserialnumber", "systemproductname", "systemmanufacturer",
        "assettag", "assettagnumber", "noassettag", "noassetinformation", "atag", "notspecified", "notapplicable",
        "notavailable", "notpresent", "notset", "notprovided", "none", "na", "null", "nil", "empty", "unknown",
        "undefined", "invalid", "unspecified", "test", "sample", "xxxxxxxxxx",
        "0123456789", "1234567890", "123456789", "12345678", "1234567", "123456", "12345", "1234", "0123456789abcdef",
        "123456789abcdef", "987654321", "9876543210",
        # UUIDs: AMI's default in both byte orders, other vendors' samples, Dell's prefix around an empty service tag
        "03000200040005000006000700080009", "00020003000400050006000700080009",
        "12345678123456781234567812345678", "12345678123456789012123456789012", "123456781234567890abcddeefaabbcc",
        "0123456789abcdef0123456789abcdef", "4c4c454400002010802080c04f202020",
        # MACs: of cards whose memory was never written
        "001122334455", "000102030405", "123456789abc", "deadbeefcafe", "00e04c680001", "00e04c360001", "020000000000",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Match:
    """How much speaks for the same machine; 0 is nothing, or more against it."""

    score: int
    reasons: tuple[str, ...]


def is_placeholder(value: str) -> bool:
    """Whether a UUID, serial number, asset tag or MAC tells nothing about the machine."""
    plain = re.sub(r"[^0-9a-z]", "", value.casefold())
    return len(set(plain)) <= 1 or plain in _PLACEHOLDERS


def score(known: Profile, found: Profile) -> Match:
    """Compare a machine of the depot with the one that is here."""
    one, other = known.platform, found.platform
    facts = (
        ("system UUID", one.system_uuid, other.system_uuid, UUID_POINTS),
        ("system serial number", one.system_serial, other.system_serial, SERIAL_POINTS),
        ("board serial number", one.board_serial, other.board_serial, BOARD_POINTS),
        ("asset tag", one.asset_tag, other.asset_tag, ASSET_POINTS),
    )
    points = 0
    reasons: list[str] = []
    for name, here, there, worth in facts:
        if is_placeholder(here) or is_placeholder(there):
            continue
        if _same(here, there):
            points += worth
            reasons.append(f"same {name} {there.strip()}")
        else:
            points -= worth
            reasons.append(f"another {name}: {there.strip()}, known is {here.strip()}")
    shared = sorted(_macs(known) & _macs(found))
    points += MAC_POINTS * min(len(shared), MACS_COUNTED)
    reasons += [f"same network card {mac}" for mac in shared]
    return Match(max(points, 0), tuple(reasons))


def best_match(known: Sequence[Profile], found: Profile) -> tuple[Profile, Match] | None:
    """The one profile that fits best; None when none fits, or when two fit equally well."""
    ranked = sorted(((score(each, found), each) for each in known), key=lambda pair: -pair[0].score)
    if not ranked or ranked[0][0].score == 0:
        return None
    if len(ranked) > 1 and ranked[1][0].score == ranked[0][0].score:
        return None
    return ranked[0][1], ranked[0][0]


def _macs(profile: Profile) -> set[str]:
    return {nic.mac.lower() for nic in profile.network.nics if not is_placeholder(nic.mac)}


def _same(one: str, other: str) -> bool:
    one, other = one.strip().casefold(), other.strip().casefold()
    return one == other or _swapped(one) == other


def _swapped(uuid: str) -> str:
    """The UUID with its first three fields in the other byte order: SMBIOS 2.6 changed it, firmware updates do too."""
    fields = uuid.split("-")
    if [len(field) for field in fields] != [8, 4, 4, 4, 12]:
        return uuid
    turned = ["".join(re.findall("..", field)[::-1]) for field in fields[:3]]
    return "-".join([*turned, *fields[3:]])
