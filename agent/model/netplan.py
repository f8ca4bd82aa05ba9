"""Netplan's YAML: what it configures, and edits of single values that leave every other byte as it is.

PyYAML's ``compose`` tells where each value stands in the text; the text is changed there and nowhere else. The result
is composed again and compared with what was meant, so that a file that cannot be edited surely is not edited at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.errors import PatchError
from agent.model.mac_address import MAC, mac_pattern

if TYPE_CHECKING:
    from yaml import MappingNode, Node, ScalarNode

LIMIT_CHARACTERS = 1 << 20
CARDS = ("ethernets", "wifis", "modems")
# Kind of a made interface → the key that names what it stands on.
MADE = {
    "bonds": "interfaces", "bridges": "interfaces", "vrfs": "interfaces", "vlans": "link", "tunnels": "",
    "dummy-devices": "", "virtual-ethernets": "", "openvswitch": "",
}  # fmt: skip
_Path = tuple[str, ...]
_KEY = "?"  # ends the path of what is a key itself


@dataclass(frozen=True, slots=True)
class Definition:
    """One interface of a file. ``name``: the interface's own, "" where only a match that is not a name tells."""

    kind: str  # ethernets, bonds, …
    id: str
    name: str
    members: tuple[str, ...]  # ids
    addresses: tuple[str, ...]
    macs: tuple[str, ...]  # that it is bound to
    sets_macs: tuple[str, ...]
    drivers: tuple[str, ...]


def definitions(text: str) -> tuple[Definition, ...]:
    """Every interface that the file defines; nothing of a file that is not YAML, which netplan refuses too."""
    try:
        network = _get(_compose(text), "network")
    except PatchError:
        return ()
    found = []
    for kind, group in _items(network):
        if kind in CARDS or kind in MADE:
            found += [_definition(kind, name, node) for name, node in _items(group)]
    return tuple(found)


def match_names(text: str) -> tuple[tuple[str, ...], ...]:
    """The names or globs of each ``match`` of the file."""
    try:
        network = _get(_compose(text), "network")
    except PatchError:
        return ()
    cards = [node for kind, group in _items(network) if kind in CARDS for _, node in _items(group)]
    return tuple(tuple(_words(_get(_get(node, "match"), "name"))) for node in cards)


def _definition(kind: str, name: str, node: Node | None) -> Definition:
    match = _get(node, "match")
    literal = [one for one in _words(_get(match, "name")) if not any(sign in one for sign in "*?[")]
    set_name = _words(_get(node, "set-name"))
    members = _words(_get(node, MADE[kind])) if MADE.get(kind) else ()
    addresses = []
    for each in _elements(_get(node, "addresses")):
        addresses += _words(each) or [key for key, _ in _items(each)]  # an address may have options of its own
    return Definition(
        kind=kind,
        id=name,
        name=name if match is None else next(iter((*set_name, *literal)), ""),
        members=tuple(members),
        addresses=tuple(addresses),
        macs=tuple(_words(_get(match, "macaddress"))),
        sets_macs=tuple(word for word in _words(_get(node, "macaddress")) if MAC.fullmatch(word)),
        drivers=tuple(_words(_get(match, "driver"))),
    )


# --- edits ----------------------------------------------------------------------------------------------------------


def rebind(text: str, old: str, new: str) -> str:
    """What ``match`` binds to (MAC address, driver): ``new`` where it says ``old``."""
    mac = mac_pattern(old)

    def meant(path: _Path, value: str) -> bool:
        # network, kind, id, match, key; and its place in a list
        bound = path[:1] == ("network",) and path[3:4] == ("match",) and path[4:5] in (("macaddress",), ("driver",))
        return bound and (value == old or bool(mac and mac.fullmatch(value)))

    return _replaced(text, meant, new)


def renamed(text: str, old: str, new: str) -> str:
    """Another interface name, as id, match, set-name, member or link."""
    return _replaced(text, lambda path, value: path[:1] == ("network",) and value == old, new)


def not_awaited(text: str, name: str) -> str:
    """``optional: true`` for the interfaces of that name, so that starting does not wait for them."""
    ids = [(one.kind, one.id) for one in definitions(text) if name in (one.name, one.id)]
    for kind, key in ids:
        root = _compose(text)
        node = _get(_get(_get(root, "network"), kind), key)
        _refuse_alias(root, node)
        after = _with_key(text, node, "optional", "true")
        before = dict(_values(_compose(text)))
        before.pop(("network", kind, key), None)  # had no settings at all
        _prove(after, {**before, ("network", kind, key, "optional"): "true"})
        text = after
    return text


def _with_key(text: str, node: Node | None, key: str, value: str) -> str:
    import yaml  # noqa: PLC0415 - 15 ms, see _compose

    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
        end = node.end_mark.index
        return f"{text[:end].rstrip(' ')} {{{key}: {value}}}{text[end:]}"
    if not isinstance(node, yaml.MappingNode):
        raise PatchError("netplan: an interface whose settings are no mapping", "correct the file on the source")
    known = _get(node, key)
    if isinstance(known, yaml.ScalarNode):
        return _replace_scalar(text, known, value)
    if not node.flow_style:
        first = node.value[0][0].start_mark
        line = first.index - first.column
        return f"{text[:line]}{' ' * first.column}{key}: {value}\n{text[line:]}"
    start = text.index("{", node.start_mark.index) + 1
    return f"{text[:start]}{key}: {value}{', ' if node.value else ''}{text[start:]}"


def _replaced(text: str, meant: Callable[[_Path, str], bool], new: str) -> str:
    """``new`` for every scalar, key or value, that is meant; from the end, so that places stay right."""
    root = _compose(text)
    if root is None:
        return text
    places = [(path, node) for path, node in _scalars(root) if meant(path, node.value)]
    if not places:
        return text
    for _, node in places:
        _refuse_alias(root, node)
    after = text
    for _, node in sorted(places, key=lambda place: place[1].start_mark.index, reverse=True):
        after = _replace_scalar(after, node, new)
    found = [new if meant(path, node.value) else node.value for path, node in _scalars(root)]
    if [node.value for _, node in _scalars(_compose(after))] != found:
        raise PatchError(f"netplan: a value cannot be changed to {new} in place", "correct the file on the source")
    return after


def _replace_scalar(text: str, node: ScalarNode, value: str) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    at = text.rfind(node.value, start, end)  # behind an anchor or a tag
    if at < 0:
        raise PatchError(f"netplan: ‘{node.value}’ is written in a way that is not edited", "write it as plain text")
    return text[:at] + value + text[at + len(node.value) :]


def _prove(text: str, expected: Mapping[_Path, str]) -> None:
    if dict(_values(_compose(text))) != expected:
        raise PatchError("netplan: the edited file does not mean what was intended", "correct the file on the source")


# --- nodes ----------------------------------------------------------------------------------------------------------


def _compose(text: str) -> Node | None:
    import yaml  # noqa: PLC0415 - 15 ms, and most systems have no netplan

    if len(text) > LIMIT_CHARACTERS:
        raise PatchError(f"netplan: a file of {len(text)} characters, expected at most {LIMIT_CHARACTERS}")
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        first = str(error).splitlines()[0]
        raise PatchError(f"netplan: not YAML: {first}", "correct the file on the source machine") from None


def _items(node: Node | None) -> Iterator[tuple[str, Node]]:
    import yaml  # noqa: PLC0415 - 15 ms, see _compose

    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield key.value, value


def _get(node: Node | None, key: str) -> Node | None:
    return next((value for name, value in _items(node) if name == key), None)


def _elements(node: Node | None) -> tuple[Node, ...]:
    import yaml  # noqa: PLC0415 - 15 ms, see _compose

    return tuple(node.value) if isinstance(node, yaml.SequenceNode) else ()


def _words(node: Node | None) -> list[str]:
    """A scalar, or the scalars of a sequence."""
    import yaml  # noqa: PLC0415 - 15 ms, see _compose

    nodes = (node,) if isinstance(node, yaml.ScalarNode) else _elements(node)
    return [one.value for one in nodes if isinstance(one, yaml.ScalarNode) and one.value]


def _scalars(root: Node | None, path: _Path = (), seen: set[int] | None = None) -> Iterator[tuple[_Path, ScalarNode]]:
    """Every scalar once, keys too, each with its path; an alias is not walked again."""
    import yaml  # noqa: PLC0415 - 15 ms, see _compose

    seen = set() if seen is None else seen
    if root is None or id(root) in seen:
        return
    seen.add(id(root))
    if isinstance(root, yaml.ScalarNode):
        yield path, root
    elif isinstance(root, yaml.SequenceNode):
        for number, each in enumerate(root.value):
            yield from _scalars(each, (*path, str(number)), seen)
    elif isinstance(root, yaml.MappingNode):
        yield from _mapping(root, path, seen)


def _mapping(root: MappingNode, path: _Path, seen: set[int]) -> Iterator[tuple[_Path, ScalarNode]]:
    import yaml  # noqa: PLC0415 - 15 ms, see _compose

    for key, value in root.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else "?"
        yield from _scalars(key, (*path, name, _KEY), seen)
        yield from _scalars(value, (*path, name), seen)


def _refuse_alias(root: Node | None, wanted: Node | None) -> None:
    """What stands in one place and is meant in several (``&name``, ``*name``) is changed by a person."""
    import yaml  # noqa: PLC0415 - 15 ms, see _compose

    references, left, seen = 0, [root], set()
    while left:
        node = left.pop()
        references += node is wanted
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        pairs = isinstance(node, yaml.MappingNode)
        left += [one for pair in node.value for one in pair] if pairs else node.value
    if references > 1:
        raise PatchError("netplan: an alias shares the value that changes", "write it out on the source machine")


def _values(root: Node | None) -> Iterator[tuple[_Path, str]]:
    """What the document says: scalars that are no keys."""
    for path, node in _scalars(root):
        if path[-1:] != (_KEY,):
            yield path, node.value
