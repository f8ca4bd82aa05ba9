"""component.xml: what a component is and what it provides. Format of record: docs/recipes.md, "Components".

Strict both ways: unknown elements and attributes, a DOCTYPE, or more than 16 MiB are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lxml import etree

from agent.errors import DamagedError
from agent.model.image import Component, ComponentFile

NAMESPACE = "urn:regraft:component:1"
LIMIT_BYTES = 16 << 20
KINDS = ("kernel", "driver", "firmware", "microcode", "guest-tools", "loader", "other")
# Ids, versions and file names become parts of paths and URLs.
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+:~_-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ATTRIBUTES = ("id", "version", "kind", "architecture", "for-os", "package-format", "kernel-release", "flavour")
_LISTS = {"builtin": "builtin", "firmware": "firmware", "needs-firmware": "needs_firmware", "depends": "depends"}


def dump_component(component: Component) -> bytes:
    """The document of a component: canonical order, so that equal components have equal bytes."""
    values = (
        component.id, component.version, component.kind, component.architecture, component.for_os,
        component.package_format, component.kernel_release, component.flavour,
    )  # fmt: skip
    # lxml's stubs know no default name space (the prefix None); lxml does.
    root = etree.Element(_tag("component"), nsmap={None: NAMESPACE})  # type: ignore[dict-item]
    for name, value in zip(_ATTRIBUTES, values, strict=True):
        if value:
            root.set(name, value)
    for file in component.payload:
        size = str(file.size_bytes)
        etree.SubElement(root, _tag("file"), {"path": file.path, "sha256": file.sha256, "size": size})
    aliases: dict[str, list[str]] = {name: [] for name in component.modules}
    for line in component.modaliases:
        pattern, _, module = line.rpartition(" ")
        aliases.setdefault(module, []).append(pattern)
    for name, patterns in aliases.items():
        module_element = etree.SubElement(root, _tag("module"), {"name": name})
        for pattern in patterns:
            etree.SubElement(module_element, _tag("modalias")).text = pattern
    for tag, field in _LISTS.items():
        for text in getattr(component, field):
            etree.SubElement(root, _tag(tag)).text = text
    for vendor, product in component.models:
        etree.SubElement(root, _tag("model"), {"vendor": vendor, "product": product})
    if component.control:
        etree.SubElement(root, _tag("control")).text = component.control
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True)


def load_component(data: bytes) -> Component:
    """Read a component document, or DamagedError saying what is wrong with it."""
    root = _parse(data)
    head = _attributes(root)
    _known(root, _ATTRIBUTES)
    for name in ("id", "version", "kind", "architecture", "package-format"):
        if not head.get(name):
            raise DamagedError(f"component.xml: component has no {name}")
    for name in ("id", "version"):
        _safe(name, head[name])
    if head["kind"] not in KINDS:
        raise DamagedError(f"component.xml: kind is {head['kind']!r}, expected one of {', '.join(KINDS)}")
    modules, modaliases = _modules(root)
    lists = {field: _texts(root, tag) for tag, field in _LISTS.items()}
    return Component(
        id=head["id"],
        version=head["version"],
        kind=head["kind"],
        architecture=head["architecture"],
        for_os=head.get("for-os", ""),
        package_format=head["package-format"],
        payload=_files(root),
        kernel_release=head.get("kernel-release", ""),
        flavour=head.get("flavour", ""),
        modaliases=modaliases,
        modules=modules,
        control="".join(_texts(root, "control")[:1]),
        models=_models(root),
        **lists,
    )


def _tag(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def _parse(data: bytes) -> etree._Element:
    if len(data) > LIMIT_BYTES:
        raise DamagedError(f"component.xml has {len(data):,} bytes, at most {LIMIT_BYTES:,} are read")
    if b"<!DOCTYPE" in data:
        raise DamagedError("component.xml has a DOCTYPE, which is never read")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise DamagedError(f"component.xml is not XML: {error}") from error
    if root.tag != _tag("component"):
        raise DamagedError(f"component.xml begins with {root.tag}, expected {_tag('component')}")
    known = {_tag(name) for name in ("file", "module", "model", "control", *_LISTS)}
    for element in root:
        if element.tag not in known:
            raise DamagedError(f"component.xml: unknown element {element.tag} in line {element.sourceline}")
    return root


def _attributes(element: etree._Element) -> dict[str, str]:
    return {str(name): str(value) for name, value in element.attrib.items()}


def _known(element: etree._Element, names: Iterable[str]) -> None:
    for name in _attributes(element):
        if name not in names:
            raise DamagedError(f"component.xml: unknown attribute {name} in line {element.sourceline}")


def _safe(what: str, text: str) -> str:
    if not SAFE_NAME.fullmatch(text):
        raise DamagedError(f"component.xml: {what} is {text!r}, expected {SAFE_NAME.pattern}")
    return text


def _files(root: etree._Element) -> tuple[ComponentFile, ...]:
    files = []
    for element in root.iterfind(_tag("file")):
        _known(element, ("path", "sha256", "size"))
        path, sha256, size = (str(element.get(name, "")) for name in ("path", "sha256", "size"))
        if not _SHA256.fullmatch(sha256) or not size.isdecimal():
            raise DamagedError(f"component.xml: file {path!r} has sha256 {sha256!r} and size {size!r}")
        files.append(ComponentFile(_safe("file", path), sha256, int(size)))
    return tuple(files)


def _modules(root: etree._Element) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(module names, "pattern module" lines)."""
    names, lines = [], []
    for element in root.iterfind(_tag("module")):
        _known(element, ("name",))
        name = _safe("module", str(element.get("name", "")))
        names.append(name)
        lines += [f"{pattern} {name}" for pattern in _texts(element, "modalias")]
    return tuple(names), tuple(lines)


def _models(root: etree._Element) -> tuple[tuple[str, str], ...]:
    """(vendor, product) globs."""
    found = []
    for element in root.iterfind(_tag("model")):
        _known(element, ("vendor", "product"))
        found.append((str(element.get("vendor", "*")), str(element.get("product", "*"))))
    return tuple(found)


def _texts(root: etree._Element, tag: str) -> tuple[str, ...]:
    return tuple(str(element.text or "") for element in root.iterfind(_tag(tag)))
