"""Opens the stack on a disk whose system does not run, to be read, and always closes it again.

partitions ─► cryptsetup open --readonly ─┐
           ─► mdadm --assemble --readonly ─┼─► what these hold, again ─► Places
           ─► vgchange -ay, read-only ─────┘

Nothing is written: arrays are started read-only, and only with all the members that they had last; logical volumes are
read-only; no array or group is touched that does not have a member on the disk.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.errors import RefusedError
from agent.model.plan import FIRST_STACKED
from agent.model.stack import MEMBERS, disks_of, place_named, storeys
from agent.model.storage import NO_STACK, Disk, FileSystem, Partition, Stack
from agent.probe.disks import Surroundings, partition_name
from agent.probe.filesystems import identify
from agent.probe.kernel_files import names_in
from agent.probe.stack import LvmReport, luks_of, lvm_report, read_header, read_stack
from agent.process import ProcessError, run

BESIDE_STEP = 100_000  # more than a disk has partitions, and a stack places
CLOSE_TRIES, CLOSE_PAUSE_S = 40, 0.25
GROUP_NAME = re.compile(r"[A-Za-z0-9+_.][A-Za-z0-9+_.-]*")

KeyOf = Callable[[str, str], bytes]  # (UUID of a LUKS header, where it is, for a person) → its passphrase or key


def no_keys(uuid: str, where: str) -> bytes:
    raise RefusedError(
        f"{where} is encrypted (LUKS {uuid}), and no passphrase was given",
        "give one with --luks-passphrase FILE or --luks-key-file FILE, or start the command at a terminal",
    )


@dataclass(frozen=True, slots=True)
class StackedPlace:
    number: int
    word: str  # as in agent.model.stack
    node: str  # kernel name
    held: FileSystem


@dataclass(frozen=True, slots=True)
class Places:
    """Everything on a disk that can hold a file system, by number: 0 the whole disk, its partitions, then its stack;
    from BESIDE_STEP on the same of further disks."""

    disk: Disk
    stack: Stack = NO_STACK
    stacked: tuple[StackedPlace, ...] = ()
    others: tuple[Disk, ...] = ()  # disks that the stack reaches to
    beside: tuple[Disk, ...] = ()  # further disks of the same system: their partitions are places, too

    @property
    def disks(self) -> tuple[Disk, ...]:
        return (self.disk, *self.beside)

    def on_disk(self, number: int) -> tuple[Disk, int]:
        """The disk of a place that is no part of the stack, and its partition number there."""
        return self.disks[number // BESIDE_STEP], number % BESIDE_STEP

    def partitions(self) -> list[tuple[int, Partition]]:
        """The partitions of every disk, by their place."""
        return [(BESIDE_STEP * index + part.number, part) for index, disk in enumerate(self.disks)
                for part in disk.partitions]  # fmt: skip

    def contents(self) -> list[tuple[int, FileSystem]]:
        whole = [(BESIDE_STEP * index, disk.holds) for index, disk in enumerate(self.disks) if not disk.partitions]
        found = (*whole, *((number, part.holds) for number, part in self.partitions()))
        plain = [(number, held) for number, held in found if held is not None]
        return [*plain, *((each.number, each.held) for each in self.stacked)]

    def held(self, number: int) -> FileSystem:
        return dict(self.contents())[number]

    def node_name(self, number: int) -> str:
        """Kernel name of a place."""
        stacked = self.at(number)
        if stacked is not None:
            return stacked.node
        disk, partition = self.on_disk(number)
        return partition_name(Path("/"), disk.name, partition) if partition else disk.name

    def at(self, number: int) -> StackedPlace | None:
        return next((each for each in self.stacked if each.number == number), None)

    def word(self, number: int) -> str:
        """The place in the stack; "" of a partition."""
        stacked = self.at(number)
        return stacked.word if stacked else ""

    def named(self, device: str) -> int | None:
        """What fstab calls by a name that the stack gives."""
        word = place_named(self.stack, device)
        return next((each.number for each in self.stacked if word and each.word == word), None)


@contextmanager
def opened_places(
    disk: Disk, machine: Sequence[Disk], key_of: KeyOf, beside: Sequence[Disk] | None = None
) -> Iterator[Places]:
    """The places of a disk, with its stack open to be read; closed at the end, whatever happens.

    ``beside``: further disks of the same system, those that its stack reaches to are added; None: only the one disk.
    """
    given = tuple(beside or ())
    members = {name: held for each in (disk, *given) for name, held in _members(each).items() if held.kind in MEMBERS}
    if not members:
        yield Places(disk, beside=given)
        return
    own = {each.name for each in (disk, *given)}
    others = [each for each in machine if each.name not in own and not each.in_use and not each.boot_medium]
    with ExitStack() as closing:
        opener = _Opener(members, {name: held for other in others for name, held in _members(other).items()}, key_of)
        opener.open_all(closing)
        around = Surroundings.of()
        found = read_stack((disk, *given, *others), around)
        if around.unread:
            raise RefusedError(f"the stack on {disk.name} cannot be read: {'; '.join(around.unread)}")
        mine = [(word, held) for word, held, _ in storeys(found.stack) if own & disks_of(found.stack, word)]
        stacked = [
            StackedPlace(FIRST_STACKED + index, word, found.nodes[word], held)
            for index, (word, held) in enumerate((word, held) for word, held in mine if held is not None)
            if word in found.nodes
        ]
        reached = {name for word, _ in mine for name in disks_of(found.stack, word)}
        reaching = tuple(each for each in others if each.name in reached)
        yield Places(disk, found.stack, tuple(stacked), reaching, () if beside is None else (*given, *reaching))


def _members(disk: Disk) -> dict[str, FileSystem]:
    """Kernel name → what lies there, of a disk and its partitions."""
    found = {disk.name: disk.holds}
    for part in disk.partitions:
        found[partition_name(Path("/"), disk.name, part.number)] = part.holds
    return {name: held for name, held in found.items() if name and held is not None}


class _Opener:
    """Opens what is there, then what appears by that, until nothing new appears."""

    def __init__(self, members: dict[str, FileSystem], elsewhere: dict[str, FileSystem], key_of: KeyOf) -> None:
        self.pending = dict(members)
        self.elsewhere = elsewhere
        self.key_of = key_of
        self.physical: list[str] = []

    def open_all(self, closing: ExitStack) -> None:
        while self.pending:
            name, held = self.pending.popitem()
            if held.kind == "crypto_LUKS":
                self._appeared(self._open_luks(name, held, closing))
            elif held.kind == "linux_raid_member":
                self._appeared(self._assemble(name, closing))
            else:
                self.physical.append(name)
            if not self.pending and self.physical:
                for volume in self._activate(closing):
                    self._appeared(volume)

    def _appeared(self, name: str) -> None:
        held = identify(Path("/dev") / name)
        if held is not None and held.kind in MEMBERS:
            self.pending[name] = held

    def _open_luks(self, name: str, held: FileSystem, closing: ExitStack) -> str:
        refuse_unopenable(name, held.uuid)
        mapped = f"regraft-{held.uuid[:8]}"
        key = self.key_of(held.uuid, f"/dev/{name}")
        open_luks(name, mapped, key, closing, "--readonly")
        return (Path("/dev/mapper") / mapped).resolve().name

    def _assemble(self, name: str, closing: ExitStack) -> str:
        wanted = array_uuid(name)
        same = [other for other, held in self.elsewhere.items()
                if held.kind == "linux_raid_member" and array_uuid(other) == wanted]  # fmt: skip
        same += [other for other in list(self.pending) if array_uuid_of(self.pending, other) == wanted]
        for other in same:
            self.pending.pop(other, None)
        refuse_missing_members([name, *same])
        node = free_array_name()
        nodes = [f"/dev/{each}" for each in (name, *same)]
        run(["mdadm", "--assemble", "--readonly", "--run", f"/dev/{node}", *nodes], timeout_s=120)
        closing.callback(close, ["mdadm", "--stop", f"/dev/{node}"])
        return node

    def _activate(self, closing: ExitStack) -> list[str]:
        """Activate the groups that have a physical volume here; kernel names of their volumes."""
        elsewhere = [name for name, held in self.elsewhere.items() if held.kind == "LVM2_member"]
        devices = [f"/dev/{name}" for name in dict.fromkeys((*self.physical, *elsewhere))]
        own, self.physical = frozenset(self.physical), []
        unread: list[str] = []
        report = lvm_report(unread, devices)
        if unread:
            raise RefusedError(f"LVM on {', '.join(sorted(own))} cannot be read: {'; '.join(unread)}")
        found: list[str] = []
        for group in groups_on(report, own):
            activate(group, devices, closing, f'activation{{read_only_volume_list=["{group}"]}}')
            after = lvm_report(unread, devices)
            minors = [row["lv_kernel_minor"] for row in after.logical if row["vg_name"] == group]
            found += [f"dm-{minor}" for minor in minors if minor.isdigit()]
        return found


def refuse_missing_members(names: Sequence[str]) -> None:
    """All members that the array had when it ran last must be here: one alone may be the older half of a mirror."""
    examined = [told_by(run(["mdadm", "--examine", f"/dev/{name}"], timeout_s=60).stdout) for name in names]
    wanted, called = active_members(examined), examined[0].get("Name", "").partition(" ")[0]
    if len(names) < wanted:
        raise RefusedError(
            f"array {called or array_uuid(names[0])} had {wanted} members when it ran last, and {len(names)} of them "
            f"{'are' if len(names) > 1 else 'is'} here: {', '.join(f'/dev/{name}' for name in sorted(names))}",
            "attach the machine's other disks too; if one is lost, run the array once without it (‘mdadm --assemble "
            "--run’, then ‘mdadm --stop’), and capture again",
        )


def told_by(examined: str) -> dict[str, str]:
    """The values of ``mdadm --examine``."""
    pairs = (line.partition(" : ") for line in examined.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def active_members(examined: Sequence[Mapping[str, str]]) -> int:
    """How many members an array has, as the one says that was written last; metadata 0.90 counts, 1.x draws them."""
    newest = max(examined, key=lambda told: [int(word) for word in re.findall(r"\d+", told.get("Events", "0"))])
    state = newest.get("Array State", "").partition(" ")[0]
    return sum(letter in "AR" for letter in state) if state else int(newest.get("Active Devices", "0"))


def array_uuid_of(known: dict[str, FileSystem], name: str) -> str:
    return array_uuid(name) if known[name].kind == "linux_raid_member" else ""


def groups_on(report: LvmReport, own: frozenset[str]) -> list[str]:
    """Groups with a physical volume among the kernel names ``own``; refused when they cannot be activated whole."""
    rows = [row for row in report.physical if row["vg_name"] and Path(row["pv_name"]).resolve().name in own]
    for row in rows:
        if row["vg_missing_pv_count"] != "0":
            raise RefusedError(
                f"volume group {row['vg_name']} lacks {row['vg_missing_pv_count']} of its physical volumes",
                "attach the other disks of that machine too, then capture again",
            )
        if not GROUP_NAME.fullmatch(row["vg_name"]):
            raise RefusedError(f"volume group ‘{row['vg_name']}’ has a name that LVM does not allow")
    return list(dict.fromkeys(row["vg_name"] for row in rows))


def refuse_unopenable(name: str, uuid: str) -> None:
    """No passphrase can open what a chip opens alone."""
    try:
        luks = luks_of(*read_header(name), "", "", (None, 0))
    except (ProcessError, KeyError, ValueError) as error:
        raise RefusedError(
            f"/dev/{name} is LUKS {uuid or 'without a UUID'}, and its header cannot be read: expected what cryptsetup "
            "reads (lvm2, mdadm and cryptsetup must be installed where a stack is captured)",
            "start that system and capture it while it runs, or its tree with ‘regraft capture --root DIR’",
        ) from error
    if not luks.passphrases:
        raise RefusedError(
            f"/dev/{name} (LUKS {uuid}) is opened by {', '.join(luks.tokens) or 'no key slot'} only; expected a key "
            "slot for a passphrase or a key file beside it",
            "start that machine, add one with ‘cryptsetup luksAddKey’, then capture again",
        )


# --- the programs, for reading and for restoring --------------------------------------------------------------------


def open_luks(name: str, mapped: str, key: bytes, closing: ExitStack, *options: str) -> None:
    """Open a LUKS device. The key goes through a pipe: it is on no command line and in no file."""
    if (Path("/dev/mapper") / mapped).exists():
        raise RefusedError(
            f"a device ‘{mapped}’ is open on this machine already",
            f"close it: ‘cryptsetup close {mapped}’, or restart from the medium",
        )
    words = ["cryptsetup", "open", "--type", "luks", "--key-file", "-", *options, f"/dev/{name}", mapped]
    try:
        run(words, stdin=key, timeout_s=300)
    except ProcessError as error:
        if error.status == 2:  # cryptsetup(8), "RETURN CODES": no permission, bad passphrase
            raise RefusedError(
                f"the passphrase or key file does not open /dev/{name}",
                "nothing was written; try again with the right one",
            ) from error
        raise
    closing.callback(close, ["cryptsetup", "close", mapped])


def activate(group: str, devices: Sequence[str], closing: ExitStack, config: str = "") -> None:
    more = ["--config", config] if config else []
    words = ["vgchange", "--devices", ",".join(devices), *more]
    closing.callback(close, ["vgchange", "--devices", ",".join(devices), "-an", group])
    run([*words, "-ay", group], timeout_s=120)


def array_uuid(name: str) -> str:
    """UUID of the array that a device is a member of; "" of none."""
    said = run(["mdadm", "--examine", "--export", f"/dev/{name}"], accept=(0, 1), timeout_s=60).stdout
    values = dict(line.partition("=")[::2] for line in said.splitlines())
    return values.get("MD_UUID", "")


def free_array_name(wanted: str = "") -> str:
    """A name that no array of this machine has: the wanted one, or the highest that is free."""
    taken = frozenset(names_in(Path("/sys/class/block")))
    if re.fullmatch(r"md\d{1,3}", wanted) and wanted not in taken:
        return wanted
    return next(name for name in (f"md{number}" for number in range(127, 0, -1)) if name not in taken)


def close(words: list[str]) -> None:
    """Close a device; udev may be looking at it for a moment."""
    for left in range(CLOSE_TRIES, 0, -1):
        try:
            run(words, timeout_s=60)
        except ProcessError:
            if left == 1:
                raise
            time.sleep(CLOSE_PAUSE_S)
        else:
            return
