"""What every scenario works with: memory, a disk folder, the data sets, who takes part, and the rows it adds to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.contestants import REGRAFT_CONTESTANT, Contestant, Places
from tests.bench.data import Data, DataSets
from tests.bench.filesystems import (
    available_bytes,
    forget_files_of,
    mounted,
    mounted_node,
    remove_tree,
    target_device,
    target_tree,
)
from tests.bench.measure import CommandFailed, timed
from tests.bench.tree import same
from tests.bench.values import Omission, Row

READ_ONLY = "ro,noload"
GIB = 1 << 30
KEPT = ("home", "data", "work")  # of what lies in memory, from scenario to scenario
SPARE_BYTES = GIB  # that the contestants themselves and the machine need


@dataclass(slots=True)
class Stage:
    memory: Path  # a tmpfs
    work: Path  # stores lie here between rounds
    data: DataSets
    contestants: list[Contestant]
    rounds: int
    environment: Mapping[str, str]
    say: Callable[[str], None]
    nginx: Path | None
    small: bool
    rows: list[Row] = field(default_factory=list)
    left_out: list[Omission] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def those(self, *names: str) -> list[Contestant]:
        """Of the contestants that take part, the ones of these names; no names: all."""
        return [one for one in self.contestants if not names or one.name in names]

    def leave_out(self, what: str, why: str) -> None:
        self.left_out.append(Omission(what, why))
        self.say(f"  left out: {what}: {why}")

    def has_memory(self, what: str, need_bytes: int) -> bool:
        """Whether that much can be held; if not, it is said."""
        need, found = need_bytes + SPARE_BYTES, available_bytes()
        if need > found:
            self.leave_out(what, f"needs {need / GIB:.1f} GiB of free memory, found {found / GIB:.1f} GiB")
        return need <= found

    def clear(self) -> None:
        """Nothing of a scenario is held while the next one runs."""
        for path in self.memory.iterdir():
            if path.name in KEPT:
                continue
            if path.is_dir():
                remove_tree(path)
            else:
                path.unlink()

    def forget_files(self) -> None:
        """Nothing of stores and data sets on a disk is held in memory: where none is free, whoever is measured would
        have to wait for each page to be taken from something else. Programs stay, for all alike: each ran before."""
        for folder in (self.work, self.data.home):
            forget_files_of(folder)

    def folder(self, name: str) -> Path:
        """An empty folder in memory."""
        path = self.memory / name
        remove_tree(path)
        path.mkdir()
        return path

    @contextmanager
    def source(self, image: Path) -> Iterator[Path]:
        """A data set's tree, read-only, with nothing of it cached; always at the same place."""
        with mounted(image, self.memory / "source", READ_ONLY) as tree:
            yield tree

    # --- stores -----------------------------------------------------------------------------------------------------

    def store(self, data: Data, contestant: Contestant) -> Path:
        """The data set, packed by the contestant; made when it is first asked for."""
        path = self.work / f"{data.name}-{contestant.name}"
        if not path.exists():
            self.say(f"  {contestant.name}: packing {data.name}")
            with self.source(data.image) as tree:
                self.pack(contestant, Places(tree=tree, image=data.image, store=path, cache=self.folder("cache")))
        return path

    def pack(self, contestant: Contestant, places: Places) -> None:
        places.store.mkdir(parents=True)
        try:
            timed(places.fill(contestant.prepare), self.environment)
            timed(places.fill(contestant.pack), self.environment)
        except CommandFailed:
            remove_tree(places.store)
            raise

    def forget_stores(self, data: Data, keep: Iterable[Contestant] = ()) -> None:
        kept = {f"{data.name}-{one.name}" for one in keep}
        for path in self.work.glob(f"{data.name}-*"):
            if path.name not in kept:
                remove_tree(path)

    # --- results ----------------------------------------------------------------------------------------------------

    def differs(self, data: Data, contestant: Contestant, found: Path, extra: bool = False) -> str:
        """What a restored tree has other than the data set, or nothing; ``extra`` names are allowed to stay."""
        with mounted(data.image, self.memory / "expected", READ_ONLY) as expected:
            return same(expected, found, contestant.keeps_acls, extra)

    def device_differs(self, data: Data, contestant: Contestant, node: Path) -> str:
        with mounted_node(node, self.memory / "look") as found:
            return self.differs(data, contestant, found)

    def restores_wrongly(self, data: Data, contestant: Contestant, places: Places) -> str:
        """Unpack a store once, and compare."""
        if contestant.devices:
            with target_device(self.memory, data.image_bytes) as target:
                self.unpack(contestant, places, node=target.node)
                return self.device_differs(data, contestant, target.node)
        with target_tree(self.memory, data.image_bytes, data.inodes) as target:
            self.unpack(contestant, places, target=target.mountpoint)
            return self.differs(data, contestant, target.mountpoint)

    def unpack(
        self, contestant: Contestant, places: Places, target: Path | None = None, node: Path | None = None
    ) -> None:
        filled = Places(
            store=places.store, cache=self.folder("cache-restore"), machine=places.machine, archive=places.archive,
            target=target or places.target, node=node or places.node,
        )  # fmt: skip
        timed(filled.fill(contestant.unpack), self.environment)


def is_ours(name: str) -> bool:
    """Whether a row is about what this project made: all of them begin with its name."""
    return name.startswith(REGRAFT_CONTESTANT.name)
