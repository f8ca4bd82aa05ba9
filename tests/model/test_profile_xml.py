"""Profiles and differences as documents: everything comes back as it was, and nothing bad comes in."""

from __future__ import annotations

import time
import typing
from dataclasses import fields, is_dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from agent.errors import DamagedError
from agent.model import profile as values
from agent.model.difference import Difference, Item, Op, Tier, Verdict
from agent.model.profile import Assigned, Lease, Made, Mention, Network, NetworkConfig, Nic, Profile, Section, Status
from agent.model.profile_xml import (
    dump_difference,
    dump_profile,
    escape,
    load_difference,
    load_profile,
    unescape,
)

MACHINES = Path(__file__).parent.parent / "machines"

# Any text at all: control characters, lone surrogates as file names have them, the mark that escapes begin with.
TEXT = st.text(st.characters(exclude_categories=()), max_size=12) | st.sampled_from(
    ["\u241b{7}", "\u241b", "a\r\nb\t", " x ", "]]>", "<a b='c'>&amp;", "\udcff", "\ufffe", "\x00"]
)
COUNT = st.integers(0, 2**63)
CHOICES: dict[tuple[str, str], st.SearchStrategy[Any]] = {
    ("Section", "name"): st.sampled_from(values.SECTIONS),
    ("Platform", "secure_boot"): st.sampled_from(["on", "off", "unknown"]),
    ("Platform", "tpm"): st.sampled_from(["none", "1.2", "2.0"]),
    ("Platform", "cpu_level"): st.integers(1, 4),
    ("Nic", "mac"): st.from_regex(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", fullmatch=True),
    ("Nic", "link"): st.sampled_from(["up", "down", "unknown"]),
    ("Address", "origin"): st.sampled_from(["static", "dhcp", "link"]),
    ("NetworkConfig", "backend"): st.sampled_from(
        ["ifupdown", "netplan", "networkd", "nm", "ifcfg", "wicked", "cloud-init", "udev"]
    ),
    ("OperatingSystem", "package_format"): st.sampled_from(["deb", "rpm", "other"]),
    ("Unit", "state"): st.sampled_from(["enabled", "disabled", "static", "masked", "generated"]),
    ("ConfigFile", "sha256"): st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    ("Mention", "kind"): st.sampled_from(
        ["interface", "mac", "uuid", "partuuid", "label", "device-path", "disk-id", "pci", "module"]
    ),
}


def of_type(hint: Any) -> st.SearchStrategy[Any]:
    if typing.get_origin(hint) is tuple:
        return st.lists(of_type(typing.get_args(hint)[0]), max_size=1).map(tuple)
    if isinstance(hint, UnionType):
        return st.none() | of_type(typing.get_args(hint)[0])
    if is_dataclass(hint):
        return of_class(hint)
    if issubclass(hint, StrEnum):
        return st.sampled_from(list(hint))
    return {bool: st.booleans(), int: COUNT, str: TEXT}[hint]


def of_class(kind: Any) -> st.SearchStrategy[Any]:
    """Every field gets a value, whatever fields there are: a new one that the document forgets fails here."""
    chosen: dict[str, st.SearchStrategy[Any]] = {}
    for name, hint in typing.get_type_hints(kind).items():
        choice = CHOICES.get((kind.__name__, name))
        chosen[name] = of_type(hint) if choice is None else choice
    return st.builds(kind, **chosen)


SMALL = Profile("web1", "2026-11-23T20:41:40Z", "regraft 0.1.0")
PARTS = [field.name for field in fields(Profile) if field.name not in ("machine", "time")]


@pytest.mark.parametrize("name", PARTS)
def test_every_profile_comes_back_as_it_was(name: str) -> None:
    """One part at a time: a whole profile of arbitrary parts takes minutes to make up."""
    parts = of_type(typing.get_type_hints(Profile)[name])

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(parts)
    def comes_back(part: Any) -> None:
        changed: dict[str, Any] = {name: part}
        profile = replace(SMALL, **changed)
        document = dump_profile(profile)
        assert load_profile(document) == profile
        assert dump_profile(load_profile(document)) == document

    comes_back()


ITEM = st.builds(
    Item,
    id=st.just("d1"), op=st.sampled_from(Op), kind=TEXT, key=TEXT, tier=st.sampled_from(Tier), reason=TEXT, source=TEXT,
    target=TEXT, verdict=st.sampled_from(Verdict), evidence=st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple),
    handled_by=st.lists(TEXT, max_size=2).map(tuple),
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.builds(Difference, source=TEXT, target=TEXT, items=st.lists(ITEM, max_size=3).map(tuple)))
def test_every_difference_comes_back_as_it_was(difference: Difference) -> None:
    assert load_difference(dump_difference(difference)) == difference


@given(TEXT)
def test_escapes_are_reversible_and_writable(text: str) -> None:
    written = escape(text)
    assert unescape(written) == text
    etree.Element("a").text = written  # lxml refuses what XML cannot carry


def test_a_document_reads_well() -> None:
    profile = replace(
        SMALL,
        sections=(Section("devices", Status.PARTIAL, "no bus"),),
        config_files=(values.ConfigFile("/etc/fstab", "0" * 64, (Mention("label", "data\x07", 3),)),),
    )
    text = dump_profile(profile).decode()
    assert '<profile xmlns="urn:regraft:profile:1" format="1" machine="web1" time="2026-11-23T20:41:40Z"' in text
    assert '<section name="devices" status="partial" reason="no bus"/>' in text
    assert '<mention kind="label" line="3">data␛{7}</mention>' in text


@pytest.mark.parametrize("path", sorted(MACHINES.glob("*.xml")), ids=lambda path: path.stem)
def test_machines_of_the_collection_are_profiles(path: Path) -> None:
    document = path.read_bytes()
    profile = load_profile(document)
    assert profile.devices and profile.disks and profile.network.nics
    assert load_profile(dump_profile(profile)) == profile


def test_there_are_machines_in_the_collection() -> None:
    assert len(list(MACHINES.glob("*.xml"))) >= 4


# --- what must not come in ------------------------------------------------------------------------------------------

GOOD = dump_profile(SMALL)


def spoiled(old: bytes, new: bytes) -> bytes:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"", "is not XML"),
        (b"hello", "is not XML"),
        (GOOD[:-5], "is not XML"),
        (b"\xff\xfe<\0p\0", "is not UTF-8"),
        (GOOD.decode().replace("UTF-8", "UTF-16").encode("utf-16"), "is not UTF-8"),
        (spoiled(b"<profile", b"<!DOCTYPE profile><profile"), "DOCTYPE"),
        (spoiled(b"<profile", b'<!DOCTYPE p [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;">]><profile'), "DOCTYPE"),
        (spoiled(b"<profile", b'<!DOCTYPE p SYSTEM "file:///etc/passwd"><profile'), "DOCTYPE"),
        (spoiled(b'tool="regraft 0.1.0"', b'tool="&secret;"'), "is not XML"),
        (spoiled(b"urn:regraft:profile:1", b"urn:other"), "schema"),
        (spoiled(b'format="1"', b'format="2"'), "schema"),
        (spoiled(b'machine="web1"', b'machine="../../etc"'), "schema"),
        (spoiled(b'machine="web1"', b'machine="web1" extra="x"'), "schema"),
        (spoiled(b'time="2026-11-23T20:41:40Z"', b'time="today"'), "schema"),
        (spoiled(b"<devices/>", b"<devices><gadget/></devices>"), "schema"),
        (spoiled(b'memory-bytes="0"', b'memory-bytes="-1"'), "schema"),
        (spoiled(b'cpu-level="1"', b'cpu-level="9"'), "schema"),
        (spoiled(b'firmware="unknown"', b'firmware="coreboot"'), "schema"),
        (spoiled(b"<software/>", b""), "schema"),
        (dump_profile(replace(SMALL, network=values.Network(nics=(Nic("52:54:00:12:34:5G", "a"),)))), "schema"),
        (dump_difference(Difference("a", "b", ())), "is a difference, expected a profile"),
        (b"<a>" * 5000 + b"</a>" * 5000, "is not XML"),
    ],
)
def test_bad_documents_are_refused_by_name(document: bytes, said: str) -> None:
    with pytest.raises(DamagedError, match=said):
        load_profile(document)


def test_a_document_of_before_an_attribute_came_is_read() -> None:
    """Format 1 gained firmware-disks; what was written earlier lies in depots for years."""
    earlier = spoiled(b' firmware-disks="-1"', b"")
    assert load_profile(earlier) == SMALL


def test_a_refusal_names_the_line() -> None:
    document = spoiled(b'cpu-level="1"', b'cpu-level="9"')
    line = document[: document.index(b"<platform")].count(b"\n") + 1
    with pytest.raises(DamagedError, match=f"line {line}:"):
        load_profile(document)


def test_documents_have_a_size_limit() -> None:
    with pytest.raises(DamagedError, match=r"has \d+ bytes, expected at most 100"):
        load_profile(GOOD, limit_bytes=100)


def test_comments_and_instructions_do_not_matter() -> None:
    document = spoiled(b"<devices/>", b"<devices><!-- none --><?ask nobody?></devices>")
    assert load_profile(document) == SMALL


def test_a_profile_is_no_difference() -> None:
    with pytest.raises(DamagedError, match="is a profile, expected a difference"):
        load_difference(GOOD)


def test_a_card_without_an_address_is_allowed() -> None:
    profile = replace(SMALL, network=values.Network(nics=(Nic(mac="", name="wlan0"),)))
    assert load_profile(dump_profile(profile)) == profile


def test_many_things_take_moderate_time() -> None:
    """Optional attributes in the schema once made this last for ever: each one doubled libxml2's states."""
    profile = replace(
        SMALL,
        packages=tuple(values.Package(f"package{n}", "amd64", "1.0-1") for n in range(3000)),
        devices=tuple(values.Device(f"pci:{n}", "pci", "0", "pci:v", "0", driver="x", label="y") for n in range(500)),
    )
    document = dump_profile(profile)
    started = time.process_time()
    assert load_profile(document) == profile
    hostile = document.replace(b'driver="x"', b'driver="x" ' + b" ".join(b'a%d=""' % n for n in range(50)))
    with pytest.raises(DamagedError, match="schema"):
        load_profile(hostile)
    assert time.process_time() - started < 5


def test_what_is_known_of_networks_comes_back_from_the_document() -> None:
    config = NetworkConfig(
        "netplan", "/etc/netplan/1.yaml", interfaces=("lan", "up"), macs=("52:54:00:aa:00:01",),
        addresses=("10.0.0.5/24",), made=(Made("up", ("lan",)), Made("six")), sets_macs=("02:00:00:00:00:01",),
        match_paths=("pci-0000:00:03.0",), match_drivers=("virtio_net",), assigned=(Assigned("up", "10.0.0.5/24"),),
    )  # fmt: skip
    network = Network(configs=(config,), leases=(Lease("lan", "10.0.0.9/24", "/var/lib/dhcp/x"),))
    profile = Profile("m", "2026-11-23T20:41:40Z", network=network)
    assert load_profile(dump_profile(profile)).network == network
