"""The stack of a plan on the target: every storey made, or found again after a run that was cut, and closed at the end.

A storey that is made, or opened, gives nodes to the disk's handle: from then on its places are as good as partitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent.errors import RefusedError
from agent.model.plan import MakeArray, MakeLuks, MakeVolumeGroup, StackStep
from agent.model.stack import array_names, mapped_name
from agent.probe.stack_open import KeyOf
from agent.restore import luks, lvm, raid
from agent.restore.disk import DiskHandle, partition_node


@dataclass(slots=True)
class StackMaker:
    """``closing`` undoes everything; ``continued``: what is there already, and right, stays."""

    handle: DiskHandle  # of the disk that boots
    further: Mapping[str, DiskHandle]  # all disks, by their name in the plan
    key_of: KeyOf
    closing: ExitStack
    continued: bool = False

    def make(self, step: StackStep) -> None:
        match step:
            case MakeLuks():
                self._make_luks(step)
            case MakeArray():
                self._make_array(step)
            case MakeVolumeGroup():
                self._make_group(step)

    def _make_luks(self, step: MakeLuks) -> None:
        node = partition_node(self.handle, step.on)
        key = self.key_of(step.luks.uuid, f"{node}, which becomes {step.luks.name}")
        made = None
        if self.continued and luks.matches(node, step.luks):
            made = self._unless_refused(lambda: luks.open_made(node, step.luks, key, self.closing))
        made = made or luks.make_luks(node, step.luks, key, self.closing)
        self._there(step.place, made, (f"mapper/{step.luks.name}",))

    def _unless_refused(self, open_it: Callable[[], Path]) -> Path | None:
        """Another passphrase than that of the run that was cut: then it is made anew."""
        try:
            return open_it()
        except RefusedError:
            self.continued = False
            return None

    def _make_array(self, step: MakeArray) -> None:
        nodes = [partition_node(self.handle, number) for number in step.on]
        nodes += [partition_node(self.further[member.disk], member.partition) for member in step.also]
        there = self.continued and raid.matches(step.array, nodes)
        made = (raid.open_array if there else raid.make_array)(step.array, nodes, self.closing)
        self.continued = there
        names = (name.removeprefix("/dev/") for name in array_names(made.name, step.array.name))
        self._there(step.place, made, tuple(name for name in names if name != made.name))

    def _make_group(self, step: MakeVolumeGroup) -> None:
        group = step.group
        nodes = {physical.on: partition_node(self.handle, physical.on) for physical in group.physical}
        there = self.continued and lvm.matches(group, nodes)
        made = (lvm.open_group if there else lvm.make_group)(group, nodes, self.closing)
        self.continued = there
        for volume in group.logical:
            names = (f"mapper/{mapped_name(group.name, volume.name)}", f"{group.name}/{volume.name}")
            self._there(volume.place, made[volume.place], names)

    def _there(self, place: int, node: Path, names: tuple[str, ...]) -> None:
        self.handle.stacked[place] = node
        self.handle.links |= dict.fromkeys(names, node.name)
