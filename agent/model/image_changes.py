"""What changed between two images: values, and the decisions that need no content.

listings ──► FileChange, one a path          profiles ──► ValueChange by section
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from agent.model.profile import Profile, Status

ADDED, REMOVED, CHANGED = "added", "removed", "changed"
CONFIGURATION = "/etc/"
Read = Callable[[Profile], Mapping[str, str]]


class FileChange(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One path that is not the same in both images."""

    path: str  # from the system's root
    op: str  # added, removed, changed
    type: str  # what it is, or was when it was removed
    differences: tuple[str, ...] = ()  # type, content, target, device, mode, owner, time, attributes, flags, hard-links
    old_type: str = ""  # where the type changed
    old_size: int = 0  # of files, bytes
    size: int = 0
    raw: str = ""  # base64 of the path's exact bytes, where they are not UTF-8

    @property
    def is_configuration(self) -> bool:
        return self.path.startswith(CONFIGURATION)

    @property
    def only_time(self) -> bool:
        return self.differences == ("time",)


class ValueChange(msgspec.Struct, frozen=True):
    """One thing that is not the same in both profiles; "" where it is not there."""

    name: str
    old: str
    new: str

    @property
    def op(self) -> str:
        return ADDED if not self.old else REMOVED if not self.new else CHANGED


class SectionChanges(msgspec.Struct, frozen=True, omit_defaults=True):
    """A section of what profiles say. ``not_compared``: why it could not be, so that it is not read as the same."""

    name: str
    changes: tuple[ValueChange, ...] = ()
    not_compared: str = ""


@dataclass(slots=True)
class Counts:
    """Of files. What was changed is counted once: by content, else by metadata, else by its time alone."""

    added: int = 0
    removed: int = 0
    changed: int = 0
    content: int = 0
    metadata: int = 0
    time: int = 0

    def add(self, change: FileChange, sign: int = 1) -> None:
        setattr(self, change.op, getattr(self, change.op) + sign)
        if change.op == CHANGED:
            kind = "content" if {"type", "content", "target", "device"} & set(change.differences) else "metadata"
            kind = "time" if change.only_time else kind
            setattr(self, kind, getattr(self, kind) + sign)


def profile_changes(old: Profile, new: Profile) -> tuple[SectionChanges, ...]:
    """System, packages, kernels, services and network, each from the section of the profiles that knows it."""
    return (
        _section("system", "os", old, new, _system),
        _section("packages", "software", old, new, _packages),
        _section("kernels", "os", old, new, _kernels),
        _section("services", "services", old, new, lambda profile: {unit.name: unit.state for unit in profile.units}),
        _section("network", "network", old, new, _network),
    )


def changes_of(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[ValueChange, ...]:
    """By name."""
    names = sorted(old.keys() | new.keys())
    found = (ValueChange(name, old.get(name, ""), new.get(name, "")) for name in names)
    return tuple(change for change in found if change.old != change.new)


def _section(name: str, source: str, old: Profile, new: Profile, read: Read) -> SectionChanges:
    for profile in (old, new):
        if profile.status(source) is Status.UNAVAILABLE:
            reason = next((section.reason for section in profile.sections if section.name == source), "")
            return SectionChanges(
                name, not_compared=f"{profile.machine} of {profile.time}: {reason or 'not collected'}"
            )
    return SectionChanges(name, changes_of(read(old), read(new)))


def _system(profile: Profile) -> dict[str, str]:
    system = profile.os
    return {
        "operating system": system.name or f"{system.id} {system.version}".strip(),
        "hostname": profile.hostname,
        "boot loader": ", ".join(filter(None, (system.loader, *system.loader_packages))),
        "kernel command line": system.cmdline,
        "initramfs tool": system.initrd_tool,
    }


def _packages(profile: Profile) -> dict[str, str]:
    """Name and architecture → versions: of some packages (kernels) several are installed side by side."""
    found: dict[str, list[str]] = {}
    for package in profile.packages:
        found.setdefault(f"{package.name} {package.architecture}".strip(), []).append(package.version)
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}


def _kernels(profile: Profile) -> dict[str, str]:
    return {
        kernel.release: ", ".join(
            [kernel.package or "no package", "with initramfs" if kernel.initrd else "without initramfs"]
            + ["default"] * kernel.default
        )
        for kernel in profile.os.kernels
    }


def _network(profile: Profile) -> dict[str, str]:
    cards = {
        f"card {nic.mac}": _words((nic.name, nic.driver, *(f"{each.cidr} ({each.origin})" for each in nic.addresses)))
        for nic in profile.network.nics
    }
    files = {
        f"{config.backend} {config.path}": _words((*config.interfaces, *config.macs, *config.addresses)) or "nothing"
        for config in profile.network.configs
    }
    return cards | files


def _words(words: Iterable[str]) -> str:
    return ", ".join(filter(None, words))
