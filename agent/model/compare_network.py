"""Network cards and the files that name them: which card becomes which interface, and what follows in each backend.

Names are kept: the new card gets the interface's name by a rule, so that firewall zones, VLANs and all else that names
it stays true. Only a name like eth0, which the kernel may give to another card first, is exchanged for one that cannot
collide, and then everywhere; where a file means it by a glob, for one that the glob means, too. Whether an edit is
needed is asked of the edit itself, on the image's own file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from agent.errors import PatchError
from agent.model import network_edits
from agent.model.difference import Item, Op, Tier
from agent.model.kernel_choice import KernelChoice
from agent.model.name_globs import Words, name_lists, suits
from agent.model.nic_map import KERNEL_NAME, STOP, Pair, card_text, made_by_software, map_nics
from agent.model.profile import NetworkConfig
from agent.model.situation import Situation
from agent.model.tree import read_text

TIE = "tie"  # section of the evidence that names a rival
NEW_NAME = "rg-{}"  # of an interface that was called as the kernel calls cards
PERSISTENT_RULES = "70-persistent-net.rules"
_NAMED_FILES = ("/etc/sysconfig/network-scripts", "/etc/sysconfig/network")  # where a file's name holds the interface's


def network_items(situation: Situation, choice: KernelChoice | None) -> Iterator[Item]:
    pairs = choice.pairs if choice else map_nics(situation.source, situation.target, situation.cards)
    reachable = any(pair.carries and pair.target for pair in pairs)
    renamed = new_names(situation, pairs)
    for pair in pairs:
        if pair.target is None:
            yield _lost_nic(pair, reachable)
        elif _moves(pair):
            yield _mapped_nic(pair, situation, renamed.get(pair.name, ""))
    yield from spare_items(situation, pairs)
    yield from binding_items(situation, pairs)
    yield from absent_items(situation, pairs)
    yield from renaming_items(situation, renamed)


# --- cards ----------------------------------------------------------------------------------------------------------


def _moves(pair: Pair) -> bool:
    """Another card; or the same in another slot, where it would get another name."""
    assert pair.target is not None
    old, new = pair.source.address, pair.target.address
    return pair.target.mac != pair.mac or bool(old and new and old != new)


def _lost_nic(pair: Pair, reachable: bool) -> Item:
    tier = Tier.LATER if not pair.carries else Tier.SHOULD if reachable or pair.wished else Tier.MUST
    return Item(
        id="", op=Op.REMOVE, kind="nic", key=pair.mac or pair.name, tier=tier, source=pair.name,
        reason=f"interface {pair.name} has no card on this machine: {pair.reason}"
        + ("" if reachable or not pair.carries else "; the restored system would be out of reach"),
    )  # fmt: skip


def _kernel_named(pair: Pair, situation: Situation) -> bool:
    """A name like eth0 may only be given by rule when no other card can hold it already."""
    moves = pair.target is not None and _moves(pair)
    return moves and bool(KERNEL_NAME.fullmatch(pair.name)) and len(situation.target.network.nics) > 1


def _mapped_nic(pair: Pair, situation: Situation, new_name: str) -> Item:
    """``key`` is the old card, or the interface's new name where it gets one."""
    assert pair.target is not None
    kind = "nic-kernel-name" if new_name else "nic"
    called = f", and is called {new_name} here" if new_name else ""
    stops = situation.cards.on_tie == STOP
    rivals = tuple((TIE if stops else "network", f"{card_text(rival)} fits as well") for rival in pair.rivals)
    guessed = f"; as good: {', '.join(rival.mac for rival in pair.rivals)}" if rivals else ""
    return Item(
        id="", op=Op.MAP, kind=kind, key=new_name or pair.mac or pair.name,
        tier=Tier.MUST if pair.carries else Tier.SHOULD, source=pair.name, target=pair.target.mac,
        reason=f"interface {pair.name} moves to card {pair.target.mac} ({pair.target.driver}){called}: "
        f"{pair.reason}{guessed}",
        evidence=(
            ("network", f"old card {pair.mac or 'not known'}"),
            ("network", f"new card {card_text(pair.target)}"),
            *rivals,
        ),
    )  # fmt: skip


def spare_items(situation: Situation, pairs: Iterable[Pair]) -> Iterator[Item]:
    """A card that no interface takes, and that by its slot would be called as one of them: it gets another name."""
    given = {pair.name for pair in pairs if pair.target and _moves(pair)}
    taken = {pair.target.mac for pair in pairs if pair.target}
    for card in situation.target.network.nics:
        if card.mac and card.mac not in taken and card.name in given and not KERNEL_NAME.fullmatch(card.name):
            name = f"spare-{card.mac.replace(':', '')[-6:]}"
            yield Item(
                id="", op=Op.MAP, kind="nic", key=card.mac, tier=Tier.MUST, source=name, target=card.mac,
                reason=f"card {card.mac} would be called {card.name} by its slot, which is another's: it is {name}",
            )  # fmt: skip


# --- files that are bound to a card -----------------------------------------------------------------------------------


def binding_items(situation: Situation, pairs: tuple[Pair, ...]) -> Iterator[Item]:
    """Rules for cards that are gone, and files that must follow their card: by MAC address, slot or driver."""
    here = {nic.mac for nic in situation.target.network.nics}
    moved = {pair.mac: pair.target.mac for pair in pairs if pair.mac and pair.target and pair.target.mac != pair.mac}
    for config in situation.source.network.configs:
        for mac in sorted({mac.lower() for mac in config.macs}):
            if _names_cards(config) and (mac not in here or mac in moved):
                yield Item(
                    id="", op=Op.REMOVE, kind="config", key=config.path, tier=Tier.MUST, source=mac,
                    reason=f"{config.path} names card {mac}, " + (
                        "which another card replaces" if mac in here else "which this machine does not have"
                    ),
                )  # fmt: skip
            if mac in moved and _follows(situation, config, mac, moved[mac]):
                yield _bound(config, mac, moved, f"is bound to card {mac}, which {moved[mac]} replaces")
        yield from _slot_items(situation, config, pairs)
        yield from _driver_items(situation, config, pairs)


def _follows(situation: Situation, config: NetworkConfig, old: str, new: str) -> bool:
    """Whether something in the file must name the new card: of udev's rules those that give no name."""
    if not _names_cards(config):
        return _changes(situation, "rebind", config.path, old, new)
    lines = read_text(situation.tree, config.path).splitlines()
    others = "\n".join(line for line in lines if not re.search(r'\bNAME:?="', line))
    return network_edits.rebind(config.path, others, old, new) != others


def _names_cards(config: NetworkConfig) -> bool:
    return config.backend == "udev" and (bool(config.interfaces) or config.path.endswith(PERSISTENT_RULES))


def _bound(config: NetworkConfig, mac: str, moved: dict[str, str], why: str) -> Item:
    """In a file that binds to both of two cards that change places, one edit would undo the other."""
    circle = moved[mac] in moved and moved[mac] in {one.lower() for one in config.macs}
    return Item(
        id="", op=Op.BLOCK if circle else Op.CHANGE, kind="config", key=config.path, tier=Tier.MUST, source=mac,
        target=moved[mac], reason=f"{config.path} {why}"
        + ("; cards that change places in one file are not edited: choose others by --nic" if circle else ""),
    )  # fmt: skip


def _slot_items(situation: Situation, config: NetworkConfig, pairs: Iterable[Pair]) -> Iterator[Item]:
    slots = {f"pci-{p.source.address}": p.target for p in pairs if p.source.address and p.target}
    for path in config.match_paths:
        card = slots.get(path)
        if card is None or path == f"pci-{card.address}":
            continue
        yield Item(
            id="", op=Op.CHANGE, kind="config", key=config.path, tier=Tier.MUST, source=path,
            target=f"pci-{card.address}", reason=f"{config.path} is bound to slot {path}, the card is in another now",
        )  # fmt: skip


def _driver_items(situation: Situation, config: NetworkConfig, pairs: Iterable[Pair]) -> Iterator[Item]:
    """A driver that is matched: the new cards' one where they have one; where they have several, a person decides."""
    for glob in config.match_drivers:
        cards = [p.target for p in pairs if p.target and p.source.driver and fnmatchcase(p.source.driver, glob)]
        drivers = sorted({card.driver for card in cards if not fnmatchcase(card.driver, glob)})
        if not drivers:
            continue
        one = drivers[0] if len(drivers) == 1 and all(card.driver == drivers[0] for card in cards) else ""
        yield Item(
            id="", op=Op.CHANGE, kind="config" if one else "config-driver", key=config.path,
            tier=Tier.MUST if one else Tier.SHOULD, source=glob, target=one,
            reason=f"{config.path} is for cards of the driver {glob}, the new ones have {', '.join(drivers)}",
        )  # fmt: skip


def _changes(situation: Situation, action: str, path: str, name: str, value: str = "") -> bool:
    """Whether the edit would change the image's file. Of a file that cannot be read the profile is believed."""
    if not situation.tree.is_file(path):
        return True
    text = read_text(situation.tree, path)
    try:
        match action:
            case "rebind":
                return network_edits.rebind(path, text, name, value) != text
            case "rename":
                return network_edits.renamed(path, text, name, value) != text
        return network_edits.not_awaited(path, text, name) != text
    except PatchError:
        return True  # the recipe says what is wrong with the file, as its tier has it


# --- interfaces without a card ----------------------------------------------------------------------------------------


def absent_items(situation: Situation, pairs: Iterable[Pair]) -> Iterator[Item]:
    """What remains configured for cards that are gone, and on them alone, must not keep the system from starting."""
    lost = {pair.name for pair in pairs if pair.target is None}
    if not lost:
        return
    made = made_by_software(situation.source)
    absent = set(lost)
    while more := {name for name, of in made.items() if of and set(of) <= absent} - absent:
        absent |= more
    for config in situation.source.network.configs:
        about = {*config.interfaces, *(one.name for one in config.made)}
        for name in sorted(about & absent if config.backend != "udev" else ()):
            if situation.tree.is_file(config.path) and _changes(situation, "not-awaited", config.path, name):
                yield Item(
                    id="", op=Op.CHANGE, kind="absent-nic", key=config.path, tier=Tier.SHOULD, source=name,
                    reason=f"{config.path} has the start wait for {name}, which has no card here",
                )  # fmt: skip
    yield from _mentions(situation, dict.fromkeys(lost, ""))


# --- names ------------------------------------------------------------------------------------------------------------


def new_names(situation: Situation, pairs: Iterable[Pair]) -> dict[str, str]:
    """Names that are given up, and what takes their place: rg-eth0, or what a glob that meant eth0 means as well.

    Of the kernel's names eth100 and up are free: it gives the lowest, as many as there are cards.
    """
    moving = [pair.name for pair in pairs if _kernel_named(pair, situation)]
    if not moving:
        return {}
    network = situation.source.network
    lists = [words for config in network.configs for words in _name_lists(situation, config)]
    taken = {*(nic.name for nic in network.nics), *made_by_software(situation.source)}
    taken |= {name for config in network.configs for name in config.interfaces}
    numbers = (*range(100, 200), *range(99, len(situation.target.network.nics) - 1, -1))
    free = [f"eth{number}" for number in numbers if f"eth{number}" not in taken]
    found: dict[str, str] = {}
    for old in moving:
        plain = NEW_NAME.format(old)
        found[old] = next((name for name in (plain, *free) if suits(lists, old, name)), plain)
        free = [name for name in free if name != found[old]]
    return found


def _name_lists(situation: Situation, config: NetworkConfig) -> tuple[Words, ...]:
    return name_lists(config.path, read_text(situation.tree, config.path))


def renaming_items(situation: Situation, renamed: dict[str, str]) -> Iterator[Item]:
    """A name that is given up: in the files that configure it, in their own names, and wherever else it stands."""
    paths = [config.path for config in situation.source.network.configs if config.backend != "udev"]
    paths += _files_named_after(situation, renamed)
    for old, new in renamed.items():
        for path in dict.fromkeys(paths):
            if situation.tree.is_file(path) and _changes(situation, "rename", path, old, new):
                yield Item(
                    id="", op=Op.CHANGE, kind="config-name", key=path, tier=Tier.MUST, source=old, target=new,
                    reason=f"{path} configures {old}, which is {new} here",
                )  # fmt: skip
    for old, new in renamed.items():
        for path in _files_named_after(situation, [old]):
            folder, _, name = path.rpartition("/")
            yield Item(
                id="", op=Op.CHANGE, kind="config-file", key=path, tier=Tier.MUST, source=path,
                target=f"{folder}/{name.replace(f'-{old}', f'-{new}', 1)}", reason=f"{path} is named after {old}",
            )  # fmt: skip
    yield from _mentions(situation, renamed)


def _files_named_after(situation: Situation, names: Iterable[str]) -> list[str]:
    """ifcfg-eth0, route-eth0, ifcfg-eth0.5, ifroute-eth0 and their like."""
    wanted = tuple(f"-{name}" for name in names)
    found = []
    for folder in _NAMED_FILES:
        for entry in situation.tree.list_dir(folder):
            kind, _, rest = entry.partition("-")
            own = f"-{rest}".split(".")[0].split(":")[0]
            if kind in ("ifcfg", "route", "route6", "rule", "rule6", "keys", "ifroute", "ifrule") and own in wanted:
                found.append(f"{folder}/{entry}")
    return found


def _mentions(situation: Situation, names: dict[str, str]) -> Iterator[Item]:
    """Other files – firewalls, DHCP servers, tunnels – that name an interface; ``names``: old → new, "" without one."""
    configured = {config.path for config in situation.source.network.configs}
    for file in situation.source.config_files:
        mentioned = {mention.text for mention in file.mentions if mention.kind == "interface"}
        for old in sorted(mentioned & names.keys()) if file.path not in configured else ():
            new = names[old]
            yield Item(
                id="", op=Op.CHANGE, kind="mention" if new else "mention-absent", key=file.path,
                tier=Tier.SHOULD if new else Tier.LATER, source=old, target=new,
                reason=f"{file.path} names {old}, " + (f"which is {new} here" if new else "which has no card here"),
            )  # fmt: skip


def tied(items: Iterable[Item]) -> list[Item]:
    """Cards that were chosen though others fit as well, for interfaces that carry addresses."""
    return [item for item in items if item.tier is Tier.MUST and any(section == TIE for section, _ in item.evidence)]


def candidates(item: Item) -> list[str]:
    """The cards of a tie, the one that was taken first."""
    return [text for section, text in item.evidence if section == TIE or text.startswith("new card ")]
