"""Components as plain text."""

from __future__ import annotations

from collections.abc import Sequence

from agent.console.table import table
from agent.model.image import Component
from agent.model.wording import printable, size_text

SHOWN = 12


def components_table(components: Sequence[Component]) -> str:
    rows = [
        (one.id, one.version, one.kind, one.for_os or "any system", one.kernel_release or "-", _models(one) or "any")
        for one in components
    ]
    return table(("ID", "VERSION", "KIND", "FOR", "KERNEL", "MACHINES"), rows)


def component_text(one: Component) -> str:
    """Everything, a heading a line; long lists cut."""
    size = sum(file.size_bytes for file in one.payload)
    fields = [
        ("id", one.id), ("version", one.version), ("kind", one.kind), ("architecture", one.architecture),
        ("for", one.for_os or "any system"), ("machines", _models(one) or "any"), ("kernel", one.kernel_release),
        ("package", f"{one.package_format}, {size_text(size)}"), ("needs", _cut(one.depends)),
        ("modules", _cut(one.modules)), ("drives", _cut(tuple(line.rpartition(" ")[0] for line in one.modaliases))),
        ("firmware", _cut(one.firmware)), ("asks for", _cut(one.needs_firmware)),
    ]  # fmt: skip
    return "\n".join(f"{name:<13}{printable(text, 2000)}" for name, text in fields if text)


def _models(one: Component) -> str:
    return ", ".join(f"{vendor}:{product}" for vendor, product in one.models)


def _cut(texts: Sequence[str]) -> str:
    more = f" … and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
