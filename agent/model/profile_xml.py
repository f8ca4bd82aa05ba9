"""Profiles and differences as XML documents, format 1. Schema: schema/profile.rng; described in docs/profile.md.

    Profile ──dump_profile──► bytes ──load_profile──► the same Profile

What comes from outside is size-capped, may hold no DOCTYPE, and is checked against the schema before anything is made
of it. Every field is written, whatever its value.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from types import UnionType
from typing import Any, TypeVar

from lxml import etree

from agent.errors import DamagedError
from agent.model.difference import Difference, Item
from agent.model.profile import Mention, Network, OperatingSystem, Platform, Profile
from agent.model.storage import Stack
from agent.model.wording import printable

NAMESPACE = "urn:regraft:profile:1"
FORMAT = "1"
LIMIT_BYTES = 16 << 20
FAULTS_SHOWN = 5

T = TypeVar("T")

# Names of the child elements that tuples become.
ELEMENTS = {
    "features": "feature",
    "flags": "flag",
    "in_use": "in-use",
    "partitions": "partition",
    "chain": "link",
    "nics": "nic",
    "configs": "config",
    "interfaces": "interface",
    "macs": "mac",
    "addresses": "address",
    "leases": "lease",
    "made": "made",
    "of": "of",
    "sets_macs": "sets-mac",
    "match_paths": "match-path",
    "match_drivers": "match-driver",
    "assigned": "assigned",
    "kernels": "kernel",
    "loader_packages": "loader-package",
    "mentions": "mention",
    "members": "member",
    "tokens": "token",
    "physical": "physical-volume",
    "logical": "logical-volume",
}
# Where the lists of a profile stand: field, section element, child element.
LISTS = (
    ("devices", "devices", "device"),
    ("disks", "storage", "disk"),
    ("packages", "software", "package"),
    ("units", "services", "unit"),
    ("config_files", "hw-config", "file"),
    ("identity", "identity", "item"),
)
# Beside the disks: field of the stack, child element of the section.
STACK = (("luks", "luks"), ("arrays", "array"), ("groups", "volume-group"))
# The one field of a class that is its element's text.
TEXT: Mapping[type, str] = {Mention: "text"}
# Attributes that documents of format 1 did not always have: element, attribute → what their absence means.
LATER = {("platform", "firmware-disks"): "-1"}

# XML 1.0 has no way to write these characters, and names on disks and in firmware hold anything. U+241B is a visible
# character that no one uses; written as ␛{7} the bell goes into a document and comes out of it again.
_MARK = "\u241b"
_UNWRITABLE = re.compile("[\u0000-\u001f\ud800-\udfff\ufffe\uffff" + _MARK + "]")
_ESCAPED = re.compile(_MARK + r"\{([0-9a-f]{1,4})\}")


def dump_profile(profile: Profile) -> bytes:
    """The document of a profile; the same profile always gives the same bytes."""
    root = _root("profile")
    for name in ("machine", "time", "tool"):
        root.set(name, escape(getattr(profile, name)))
    meta = _child(root, "meta")
    for collected in profile.sections:
        _write(meta, "section", collected)
    _write(root, "platform", profile.platform)
    sections = {name: _child(root, name) for name in ("devices", "storage")}
    _write(root, "network", profile.network)
    _write(root, "os", profile.os)
    sections.update({name: _child(root, name) for name in ("software", "services", "hw-config", "identity")})
    sections["identity"].set("hostname", escape(profile.hostname))
    for field, section, element in LISTS:
        for value in getattr(profile, field):
            _write(sections[section], element, value)
    for field, element in STACK:
        for value in getattr(profile.stack, field):
            _write(sections["storage"], element, value)
    return _bytes(root)


def load_profile(xml: bytes, limit_bytes: int = LIMIT_BYTES) -> Profile:
    """The profile of a document. Raises DamagedError naming what is wrong and where."""
    root = _parse(xml, "profile", limit_bytes)
    return Profile(
        machine=unescape(root.get("machine", "")),
        time=root.get("time", ""),
        tool=unescape(root.get("tool", "")),
        sections=_read_list(Profile, "sections", root, "meta", "section"),
        platform=_read(Platform, _section(root, "platform")),
        network=_read(Network, _section(root, "network")),
        os=_read(OperatingSystem, _section(root, "os")),
        hostname=unescape(_section(root, "identity").get("hostname", "")),
        stack=Stack(**{field: _read_list(Stack, field, root, "storage", element) for field, element in STACK}),
        **{field: _read_list(Profile, field, root, section, element) for field, section, element in LISTS},
    )


def dump_difference(difference: Difference) -> bytes:
    """The document of a difference."""
    root = _root("difference")
    root.set("source", escape(difference.source))
    root.set("target", escape(difference.target))
    for item in difference.items:
        element = _child(root, "item")
        for name in ("id", "op", "kind", "key", "tier", "verdict"):
            element.set(name, escape(getattr(item, name)))
        for name, text in (("from", item.source), ("to", item.target)):
            if text:
                _child(element, name).text = escape(text)
        _child(element, "reason").text = escape(item.reason)
        for section, text in item.evidence:
            evidence = _child(element, "evidence")
            evidence.set("section", escape(section))
            evidence.text = escape(text)
        for handler in item.handled_by:
            _child(element, "handled-by").set("recipe", escape(handler))
    return _bytes(root)


def load_difference(xml: bytes, limit_bytes: int = LIMIT_BYTES) -> Difference:
    """The difference of a document. Raises DamagedError naming what is wrong and where."""
    root = _parse(xml, "difference", limit_bytes)
    items = tuple(_read_item(element) for element in root)
    return Difference(unescape(root.get("source", "")), unescape(root.get("target", "")), items)


def escape(text: str) -> str:
    """``text`` as XML can carry it; ``unescape`` gives it back whatever it was."""
    return _UNWRITABLE.sub(lambda found: f"{_MARK}{{{ord(found[0]):x}}}", text)


def unescape(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)


# --- values to elements ---------------------------------------------------------------------------------------------


def _root(name: str) -> etree._Element:
    default_namespace: Any = {None: NAMESPACE}
    root = etree.Element(f"{{{NAMESPACE}}}{name}", nsmap=default_namespace)
    root.set("format", FORMAT)
    return root


def _child(parent: etree._Element, name: str) -> etree._Element:
    return etree.SubElement(parent, f"{{{NAMESPACE}}}{name}")


def _bytes(root: etree._Element) -> bytes:
    return etree.tostring(root, encoding="UTF-8", xml_declaration=True, pretty_print=True)


def _write(parent: etree._Element, name: str, value: Any) -> None:
    """An element with an attribute for every plain field and children for the others."""
    element = _child(parent, name)
    text_field = TEXT.get(type(value))
    for field in fields(value):
        content = getattr(value, field.name)
        if field.name == text_field:
            element.text = escape(content)
        elif isinstance(content, tuple):
            for each in content:
                _write_each(element, ELEMENTS[field.name], each)
        elif is_dataclass(content):
            _write(element, _dashed(field.name), content)
        elif content is not None:
            element.set(_dashed(field.name), _written(content))


def _write_each(parent: etree._Element, name: str, value: object) -> None:
    if isinstance(value, str):
        _child(parent, name).text = escape(value)
    else:
        _write(parent, name, value)


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return escape(str(value))


def _dashed(name: str) -> str:
    return name.replace("_", "-")


# --- elements to values, of a document that the schema accepted -----------------------------------------------------


@cache
def _schema() -> etree.RelaxNG:
    return etree.RelaxNG(etree.fromstring(files("agent.model").joinpath("schema/profile.rng").read_bytes()))


def _parse(xml: bytes, what: str, limit_bytes: int) -> etree._Element:
    if len(xml) > limit_bytes:
        raise DamagedError(f"the {what} has {len(xml)} bytes, expected at most {limit_bytes}")
    # In UTF-8 only, so that no other encoding can hide a DOCTYPE from this look; entities are declared nowhere else.
    try:
        xml.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedError(f"the {what} is not UTF-8: {error}") from None
    if b"<!DOCTYPE" in xml or b"<!ENTITY" in xml:
        raise DamagedError(f"the {what} has a DOCTYPE, expected none", "make the document with ‘regraft profile’")
    parser = etree.XMLParser(
        resolve_entities=False, load_dtd=False, no_network=True, huge_tree=False, remove_comments=True,
        remove_pis=True, encoding="utf-8",
    )  # fmt: skip
    try:
        root = etree.fromstring(xml, parser)
    except etree.XMLSyntaxError as error:
        raise DamagedError(f"the {what} is not XML: {printable(str(error))}") from None
    _add_later_ones(root)
    schema = _schema()
    if not schema.validate(root):
        faults = [f"line {fault.line}: {fault.message}" for fault in schema.error_log][:FAULTS_SHOWN]
        told = printable("; ".join(faults))
        raise DamagedError(f"the {what} does not follow its schema, format {FORMAT}: {told}")
    if root.tag != f"{{{NAMESPACE}}}{what}":
        raise DamagedError(f"the document is a {etree.QName(root).localname}, expected a {what}")
    return root


def _add_later_ones(root: etree._Element) -> None:
    """Give attributes that came later their defaults: older documents lack them, and none is optional."""
    for (element, name), default in LATER.items():
        for found in root.iter(f"{{{NAMESPACE}}}{element}"):
            if name not in found.attrib:
                found.set(name, default)


def _section(root: etree._Element, name: str) -> etree._Element:
    found = root.find(f"{{{NAMESPACE}}}{name}")
    return root if found is None else found


def _named(parent: etree._Element, name: str) -> Iterable[etree._Element]:
    return parent.iterchildren(f"{{{NAMESPACE}}}{name}")


def _read_list(owner: type, field: str, root: etree._Element, section: str, element: str) -> Any:
    kind = typing.get_args(_hints(owner)[field])[0]
    return tuple(_read(kind, child) for child in _named(_section(root, section), element))


@cache
def _hints(kind: object) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read(kind: type[T], element: etree._Element) -> T:
    values: dict[str, Any] = {}
    hinted: object = kind
    for name, hint in _hints(hinted).items():
        if TEXT.get(kind) == name:
            values[name] = unescape(element.text or "")
        elif typing.get_origin(hint) is tuple:
            each = typing.get_args(hint)[0]
            values[name] = tuple(_read_each(each, child) for child in _named(element, ELEMENTS[name]))
        elif isinstance(hint, UnionType):
            for child in _named(element, _dashed(name)):
                values[name] = _read(typing.get_args(hint)[0], child)
        elif (text := element.get(_dashed(name))) is not None:
            values[name] = _value(hint, text)
    return kind(**values)


def _read_each(kind: type, element: etree._Element) -> Any:
    return unescape(element.text or "") if kind is str else _read(kind, element)


def _value(kind: type, text: str) -> Any:
    if kind is bool:
        return text == "true"
    if issubclass(kind, StrEnum | int):
        return kind(text)
    return unescape(text)


def _read_item(element: etree._Element) -> Item:
    def texts(name: str) -> list[str]:
        return [unescape(child.text or "") for child in _named(element, name)]

    hints = _hints(Item)
    return Item(
        **{name: _value(hints[name], element.get(name, "")) for name in ("id", "op", "kind", "key", "tier", "verdict")},
        reason="".join(texts("reason")),
        source="".join(texts("from")),
        target="".join(texts("to")),
        evidence=tuple(
            (unescape(child.get("section", "")), unescape(child.text or "")) for child in _named(element, "evidence")
        ),
        handled_by=tuple(unescape(child.get("recipe", "")) for child in _named(element, "handled-by")),
    )
