"""Everything a restore is decided on, in one value: what was captured, what is here, what is planned for the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.model.choices import NONE, Choices
from agent.model.drivers import KernelIndex
from agent.model.image import Component, Manifest
from agent.model.nic_map import NO_WISHES, NicWishes
from agent.model.plan import PlannedFilesystem, PlannedPartition, StackStep
from agent.model.profile import Profile
from agent.model.storage import Disk
from agent.model.tree import Tree

RESTORE, CLONE = "restore", "clone"


@dataclass(frozen=True, slots=True)
class Situation:
    manifest: Manifest
    source: Profile
    target: Profile
    tree: Tree  # the image's files
    disk: Disk  # of the target, the one that will be written
    mode: str = RESTORE
    name: str = ""  # clone mode: the new machine's name; "" derives one
    components: tuple[Component, ...] = ()
    partitions: tuple[PlannedPartition, ...] = ()
    filesystems: Mapping[int, PlannedFilesystem] = field(default_factory=dict)  # by partition number
    stack: tuple[StackStep, ...] = ()  # that stands between partitions and file systems
    nic_wishes: NicWishes = NO_WISHES
    also: tuple[Disk, ...] = ()  # further disks that will be written
    receives: Mapping[str, Disk] = field(default_factory=dict)  # disk of the image → disk it goes to, if not ``disk``
    unmet: Mapping[str, str] = field(default_factory=dict)  # component id → why its dependencies cannot be met
    live: KernelIndex | None = None  # of the kernel that runs on the target now: knows devices the image may not
    choices: Choices = NONE  # the operator's

    @property
    def cards(self) -> NicWishes:
        """What was said about network cards, by options and by an operator's file."""
        return self.nic_wishes.with_more(self.choices.nics)

    @property
    def new_name(self) -> str:
        """Hostname of a clone: as given, else the source's with the end of the first MAC, the same at every run.

        A name with its domain, as RHEL's have it, keeps the domain.
        """
        if self.mode != CLONE:
            return self.source.hostname
        if self.name:
            return self.name
        macs = sorted(nic.mac for nic in self.target.network.nics)
        short, dot, domain = self.source.hostname.partition(".")
        return f"{short}-{macs[0].replace(':', '')[-6:] if macs else 'clone'}{dot}{domain}"
