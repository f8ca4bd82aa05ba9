"""The header of an rpm: what a package is, needs and brings; the same in a package file and in rpm's database.

    index length, data length (32 bits, big-endian) │ index: tag, type, offset, count │ data

rpm, docs/manual/format_header.md. Pure; every offset is checked, because packages and images are untrusted input.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from lxml import etree

from agent.errors import DamagedError

COMMON, RPM = "http://linux.duke.edu/metadata/common", "http://linux.duke.edu/metadata/rpm"  # names of rpm-md
MAGIC = b"\x8e\xad\xe8\x01"
LIMIT_BYTES = 64 << 20
_ENTRIES_LIMIT = 100_000
_NUMBERS = {2: "B", 3: "H", 4: "I", 5: "Q"}  # int8 … int64
_TEXTS = (6, 8, 9)  # string, string array, translated string
# Tags (rpm, include/rpm/rpmtag.h)
NAME, VERSION, RELEASE, EPOCH, ARCH = 1000, 1001, 1002, 1003, 1022
DISTRIBUTION, VENDOR, SOURCE_RPM = 1010, 1011, 1044
MODES, LINKS, DIR_INDEXES, BASENAMES, DIRNAMES = 1030, 1036, 1116, 1117, 1118
COMPRESSOR = 1125
# relation → its names, flags, versions
RELATIONS = {
    "provides": (1047, 1112, 1113),
    "requires": (1049, 1048, 1050),
    "conflicts": (1054, 1053, 1055),
    "obsoletes": (1090, 1114, 1115),
}
_SIGNS = {2: "<", 4: ">", 8: "=", 10: "<=", 12: ">="}
_MD_SIGNS = {"<": "LT", ">": "GT", "=": "EQ", "<=": "LE", ">=": "GE"}


@dataclass(frozen=True, slots=True)
class Relation:
    name: str
    sign: str = ""  # <, <=, =, >=, >
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.sign} {self.version}" if self.sign else self.name


class RpmHeader:
    """``data`` begins at the index length. Raises DamagedError naming ``place``."""

    def __init__(self, data: bytes, place: str) -> None:
        self.place = place
        try:
            entries, size = struct.unpack_from(">II", data)
        except struct.error:
            raise DamagedError(f"{place}: the header of an rpm is cut short") from None
        start = 8 + 16 * entries
        if entries > _ENTRIES_LIMIT or size > LIMIT_BYTES or start + size > len(data):
            raise DamagedError(f"{place}: header with {entries:,} entries, {size:,} bytes, found {len(data):,}")
        self._data = bytes(data[start : start + size])
        self._index = {
            tag: (kind, offset, count) for tag, kind, offset, count in struct.iter_unpack(">IIII", data[8:start])
        }
        self.length = start + size

    def texts(self, tag: int) -> tuple[str, ...]:
        kind, offset, count = self._index.get(tag, (8, 0, 0))
        if kind not in _TEXTS:
            raise DamagedError(f"{self.place}: tag {tag} has type {kind}, expected a text")
        if count > len(self._data):
            raise DamagedError(f"{self.place}: tag {tag} has {count:,} texts in {len(self._data):,} bytes")
        parts = self._data[offset:].split(b"\0", count)[:count] if count else []
        if len(parts) < count:
            raise DamagedError(f"{self.place}: tag {tag} is cut short")
        return tuple(part.decode("utf-8", "replace") for part in parts)

    def text(self, tag: int) -> str:
        return next(iter(self.texts(tag)), "")

    def numbers(self, tag: int) -> tuple[int, ...]:
        kind, offset, count = self._index.get(tag, (4, 0, 0))
        if kind not in _NUMBERS:
            raise DamagedError(f"{self.place}: tag {tag} has type {kind}, expected numbers")
        try:
            return struct.unpack_from(f">{count}{_NUMBERS[kind]}", self._data, offset) if count else ()
        except struct.error:
            raise DamagedError(f"{self.place}: tag {tag} is cut short") from None

    @property
    def name(self) -> str:
        return self.text(NAME)

    @property
    def architecture(self) -> str:
        return self.text(ARCH)

    @property
    def epoch(self) -> int:
        return next(iter(self.numbers(EPOCH)), 0)

    @property
    def version(self) -> str:
        """``[epoch:]version-release``."""
        epoch = self.epoch
        return f"{f'{epoch}:' if epoch else ''}{self.text(VERSION)}-{self.text(RELEASE)}"

    def files(self) -> tuple[str, ...]:
        names, folders, places = self.texts(BASENAMES), self.texts(DIRNAMES), self.numbers(DIR_INDEXES)
        if len(places) != len(names) or any(place >= len(folders) for place in places):
            raise DamagedError(f"{self.place}: the list of files does not fit its folders")
        return tuple(folders[place] + name for place, name in zip(places, names, strict=True))

    def relations(self, which: str) -> tuple[Relation, ...]:
        """provides, requires, conflicts or obsoletes."""
        names, flags, versions = RELATIONS[which]
        texts = self.texts(names)
        signs, numbers = self.numbers(flags), self.texts(versions)
        if not len(texts) == len(signs) == len(numbers):
            raise DamagedError(f"{self.place}: the list of what it {which} does not fit its versions")
        return tuple(
            Relation(name, _SIGNS.get(sign & 14, ""), number if sign & 14 else "")
            for name, sign, number in zip(texts, signs, numbers, strict=True)
        )


def component_version(version: str) -> str:
    """As a component of the depot has it, in the names of its files: there is no ‘^’, ‘~’ stands in for it."""
    return version.replace("^", "~")


def version_in(package: str) -> str:
    """``[epoch:]version-release`` of what `package_xml` made; "" when it does not tell one."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        found = etree.fromstring(package.encode(), parser).find(f"{{{COMMON}}}version")
    except etree.XMLSyntaxError as error:
        raise DamagedError(f"the description of an rpm is no XML: {error}") from error
    if found is None:
        return ""
    epoch, version, release = (found.get(name, "") for name in ("epoch", "ver", "rel"))
    return f"{'' if epoch in ('', '0') else f'{epoch}:'}{version}{f'-{release}' if release else ''}"


def package_xml(header: RpmHeader, wanted_files: frozenset[str] = frozenset()) -> str:
    """The package as repository metadata says it (rpm-md, primary.xml), as far as a solver looks.

    Of the files those in folders of programs and in /etc, as createrepo does, and those in ``wanted_files``.
    """
    namespaces = {None: COMMON, "rpm": RPM}
    # lxml's stubs know no default name space (the prefix None); lxml does.
    package = etree.Element("package", {"type": "rpm"}, nsmap=namespaces)  # type: ignore[arg-type]
    try:
        etree.SubElement(package, f"{{{COMMON}}}name").text = header.name
        etree.SubElement(package, f"{{{COMMON}}}arch").text = header.architecture
        etree.SubElement(package, f"{{{COMMON}}}version", _evr(header.version))
        body = etree.SubElement(package, f"{{{COMMON}}}format")
        for which in RELATIONS:
            _add_relations(body, which, header)
        for path in header.files():
            if path in wanted_files or "bin/" in path or path.startswith("/etc/"):
                etree.SubElement(body, f"{{{COMMON}}}file").text = path
    except ValueError as error:  # a character that no XML document may hold
        raise DamagedError(f"{header.place}: {error}") from error
    return etree.tostring(package, encoding="unicode")


def _add_relations(body: etree._Element, which: str, header: RpmHeader) -> None:
    found = [one for one in dict.fromkeys(header.relations(which)) if not one.name.startswith("rpmlib(")]
    if not found:
        return
    group = etree.SubElement(body, f"{{{RPM}}}{which}")
    for one in found:
        told = {"name": one.name}
        if one.sign:
            told |= {"flags": _MD_SIGNS[one.sign], **_evr(one.version)}
        etree.SubElement(group, f"{{{RPM}}}entry", told)


def _evr(text: str) -> dict[str, str]:
    epoch, colon, rest = text.partition(":")
    if not colon:
        epoch, rest = "0", text
    version, dash, release = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return {"epoch": epoch, "ver": version} | ({"rel": release} if dash else {})
