"""Executes a plan, one step at a time; the only place where the steps of a plan become deeds.

    ClearDisk, WriteTable, MakeFilesystem      on the disk, through one descriptor whose identity was compared
    MakeLuks, MakeArray, MakeVolumeGroup       between partitions and file systems; closed again at the end
    WriteTree, VerifyTree                      below one mounted root
    WriteBlocks, VerifyBlocks, FitFilesystem   on a partition that is not mounted
    ApplyRecipe, RebuildInitramfs              inside that root, programs of the image in the sandbox only
    InstallBootloader, VerifyBoot,             last: a half-restored disk never boots
    or the image's own WriteBootCode

A run that was cut can be started again with the same plan: where the disk already holds the plan's table and
file systems, they stay, and only what differs is written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from agent.console.recorder import Recorder
from agent.depot.catalogue import LoadedImage
from agent.depot.store import Depot
from agent.errors import PatchError, ReadBackError, TargetIOError
from agent.image.verify import VerifyResult, verify_volume
from agent.image.verify_blocks import verify_blocks
from agent.image.write import WriteResult, write_volume
from agent.image.write_blocks import write_blocks
from agent.model.partition_types import is_esp
from agent.model.plan import (
    FIRST_STACKED,
    ApplyRecipe,
    ClearDisk,
    EnrolKey,
    FitFilesystem,
    InstallBootloader,
    MakeArray,
    MakeFilesystem,
    MakeLuks,
    MakeVolumeGroup,
    Plan,
    RebuildInitramfs,
    Relabel,
    Step,
    VerifyBlocks,
    VerifyBoot,
    VerifyTree,
    WriteBlocks,
    WriteBootCode,
    WriteTable,
    WriteTree,
    describe,
)
from agent.model.recipe import BoundRecipe, Install
from agent.model.report import CheckResult, RecipeResult
from agent.probe.stack_open import KeyOf, no_keys
from agent.restore import blocks, boot, disk, filesystems, initramfs, luks, mounts, patch, verify
from agent.restore.inside import InsideRoot
from agent.restore.journal import set_aside
from agent.restore.memory import peak_memory_bytes
from agent.restore.preflight import fetch_file
from agent.restore.relabel import relabel
from agent.restore.sandbox import Sandbox
from agent.restore.stack import StackMaker

PHASES: dict[type[Step], str] = {
    ClearDisk: "partition",
    WriteTable: "partition",
    MakeLuks: "partition",
    MakeArray: "partition",
    MakeVolumeGroup: "partition",
    MakeFilesystem: "partition",
    WriteTree: "write",
    VerifyTree: "verify",
    WriteBlocks: "write",
    VerifyBlocks: "verify",
    FitFilesystem: "fit",
    WriteBootCode: "boot",
    ApplyRecipe: "patch",
    RebuildInitramfs: "patch",
    InstallBootloader: "boot",
    EnrolKey: "patch",
    Relabel: "patch",
    VerifyBoot: "prove",
}
KEPT = "var/lib/regraft"
CLOCK_NS = 3_000_000_000  # times of files may be whole seconds, and lie behind by a tick of the clock
DROP_CACHES = Path("/proc/sys/vm/drop_caches")


@dataclass(slots=True)
class Done:
    """What the steps did: the facts of the report."""

    began: bool = False  # something was written
    changed: set[str] = field(default_factory=set)
    recipes: list[RecipeResult] = field(default_factory=list)
    checks: list[CheckResult] = field(default_factory=list)
    bytes_fetched: int = 0
    bytes_written: int = 0
    bytes_read_back: int = 0
    bytes_trusted: int = 0
    mismatches: int = 0
    peak_memory_bytes: int = 0  # of the agent and its workers, while they moved the image


@dataclass(slots=True)
class Execution:
    """One run of one plan. Make it, then call `run`."""

    plan: Plan
    loaded: LoadedImage
    depot: Depot
    recorder: Recorder
    mount_root: Path
    key_of: KeyOf = no_keys  # opens what the plan encrypts
    keep: tuple[tuple[str, bytes], ...] = ()  # documents left in the restored system, below KEPT
    done: Done = field(default_factory=Done)
    _handles: dict[str, disk.DiskHandle] = field(default_factory=dict)  # by the name in the plan, the boot disk first
    _stack: StackMaker | None = None
    _root: Path | None = None
    _sandbox: Sandbox | None = None
    _continued: frozenset[str] = frozenset()  # disks that have the planned table already
    _writes_from_ns: dict[str, int] = field(default_factory=dict)  # when the writing of a volume began

    def run(self) -> None:
        """Execute every step; raises at the first that fails, with what was done so far in ``done``."""
        with ExitStack() as stack:
            # Every disk is the plan's before any of them is written.
            for identity in self.plan.disks:
                self._handles[identity.name] = stack.enter_context(disk.open_disk(identity))
            self._continued = frozenset(name for name, handle in self._handles.items() if self._holds_the_plan(handle))
            continued = len(self._continued) == len(self._handles)
            self._stack = StackMaker(self._disk, self._handles, self.key_of, stack, continued)
            for phase, text, steps in self._phases():
                with self.recorder.phase(phase, text):
                    for step in steps:
                        self._execute(step, stack)

    def io_error(self, error: OSError) -> TargetIOError:
        """An error of the operating system, said with the disk that was being written."""
        named = ", ".join(f"{each.name} (serial {each.serial or '-'})" for each in self.plan.disks)
        return TargetIOError(
            f"disk {named}: {error}",
            "look at the kernel log and the disk's health; it does not boot now, the same restore can be started again",
        )

    # --- the shape of a run ---------------------------------------------------------------------------------------

    def _phases(self) -> Iterator[tuple[str, str, list[Step]]]:
        """Steps in runs of the same phase, with one sentence each."""
        pending: list[Step] = []
        for step in self.plan.steps:
            if pending and PHASES[type(step)] != PHASES[type(pending[0])]:
                yield PHASES[type(pending[0])], SENTENCES[PHASES[type(pending[0])]], pending
                pending = []
            pending.append(step)
        if pending:
            yield PHASES[type(pending[0])], SENTENCES[PHASES[type(pending[0])]], pending

    def _execute(self, step: Step, stack: ExitStack) -> None:
        self.recorder.message(describe(step), PHASES[type(step)])
        match step:
            case ClearDisk() | WriteTable() | MakeFilesystem():
                self._on_the_disk(step)
            case MakeLuks() | MakeArray() | MakeVolumeGroup():
                assert self._stack is not None
                self._stack.make(step)
            case WriteTree() | VerifyTree():
                self._on_a_volume(step, self._mounted(stack))
            case WriteBlocks() | VerifyBlocks() | FitFilesystem():
                self._on_a_partition(step)
            case WriteBootCode(code=code):
                disk.write_boot_code(self._disk, code)
            case EnrolKey():
                self._enrol(step, self._mounted(stack))
            case ApplyRecipe() | RebuildInitramfs() | Relabel():
                self._on_the_system(step, self._mounted(stack), stack)
            case InstallBootloader() | VerifyBoot():
                self._on_the_boot_path(step, self._mounted(stack))

    def _mounted(self, stack: ExitStack) -> Path:
        if self._root is None:
            made = [step for step in self.plan.steps if isinstance(step, MakeFilesystem)]
            self._root = stack.enter_context(mounts.mounted_target(self._node, made, self.mount_root))
        return self._root

    @property
    def _disk(self) -> disk.DiskHandle:
        """The disk that boots."""
        return self._handles[self.plan.disk.name]

    def _handle(self, name: str) -> disk.DiskHandle:
        return self._handles[name or self.plan.disk.name]

    def _node(self, name: str, partition: int) -> Path:
        """Device node of a partition of a disk, as steps name it."""
        return disk.partition_node(self._handle(name), partition)

    # --- one kind of step each ------------------------------------------------------------------------------------

    def _on_the_disk(self, step: ClearDisk | WriteTable | MakeFilesystem) -> None:
        self.done.began = True
        name = (step.disk or self.plan.disk.name) if isinstance(step, MakeFilesystem) else step.disk.name
        continued, handle = name in self._continued, self._handles[name]
        match step:
            case ClearDisk():
                if continued:
                    disk.clear_boot_code(handle)
                else:
                    disk.clear_disk(handle)
            case WriteTable():
                if not continued:
                    disk.write_table(handle, step)
                self._forget_old_blocks(name)
            case MakeFilesystem(partition=number, filesystem=planned):
                node = disk.partition_node(handle, number)
                if not (self._may_stay(step, continued) and mounts.is_there(node, planned)):
                    filesystems.make_filesystem(node, planned)

    def _forget_old_blocks(self, name: str) -> None:
        """What lies where blocks come is neither recognised nor started from until they are there."""
        for step in self.plan.steps:
            if isinstance(step, WriteBlocks) and (step.disk or self.plan.disk.name) == name:
                filesystems.forget_signatures(self._node(step.disk, step.partition))

    def _on_a_volume(self, step: WriteTree | VerifyTree, root: Path) -> None:
        below = root / step.mountpoint.lstrip("/")
        match step:
            case WriteTree():
                self._writes_from_ns.setdefault(step.volume, time.time_ns())
                self._written(
                    write_volume(
                        self.depot, self.loaded, step.volume, below, self.recorder, trust_metadata=step.trust_metadata
                    )
                )
            case VerifyTree():
                drop_page_cache()
                since_ns = self._writes_from_ns.get(step.volume, 0) - CLOCK_NS if step.trust_metadata else 0
                read = verify_volume(
                    self.depot, self.loaded, step.volume, below, self.recorder, self._new_places(),
                    changed_since_ns=since_ns,
                )  # fmt: skip
                self._read_back(step.volume, read)
        # Later children are programs of the image (its dpkg, its compressor): their memory is not the agent's.
        self.done.peak_memory_bytes = peak_memory_bytes()

    def _on_a_partition(self, step: WriteBlocks | VerifyBlocks | FitFilesystem) -> None:
        node = self._node(step.disk, step.partition)
        match step:
            case WriteBlocks():
                self._written(write_blocks(self.depot, self.loaded, step.volume, node, self.recorder))
            case VerifyBlocks():
                drop_page_cache()
                self._read_back(step.volume, verify_blocks(self.depot, self.loaded, step.volume, node, self.recorder))
            case FitFilesystem():
                for warning in blocks.fit_filesystem(node, step):
                    self.recorder.warning(warning, "fit")
                return
        self.done.peak_memory_bytes = peak_memory_bytes()

    def _written(self, result: WriteResult) -> None:
        self.done.bytes_fetched += result.bytes_fetched
        self.done.bytes_written += result.bytes_written

    def _read_back(self, volume: str, result: VerifyResult) -> None:
        self._tell_cost(volume, result)
        self.done.bytes_read_back += result.bytes_read
        self.done.bytes_trusted += result.bytes_trusted
        self.done.mismatches += len(result.mismatches)
        if result.mismatches:
            raise ReadBackError(
                f"volume {volume}: {len(result.mismatches)} entries read back differ from the image; "
                f"first: {result.mismatches[0]}",
                "the disk or the memory is failing; test both before trying again",
            )

    def _tell_cost(self, volume: str, read: VerifyResult) -> None:
        rate = read.bytes_read / max(read.seconds, 0.01) / 1e6
        text = f"volume {volume}: {read.bytes_read:,} bytes read back in {read.seconds} s ({rate:,.0f} MB/s)"
        if read.bytes_trusted:
            text += f"; {read.bytes_trusted:,} bytes trusted: their files' metadata is right and they were not written"
        self.recorder.message(text, "verify")

    def _on_the_system(self, step: ApplyRecipe | RebuildInitramfs | Relabel, root: Path, stack: ExitStack) -> None:
        sandbox = self._the_sandbox(root)
        match step:
            case ApplyRecipe(recipe=recipe):
                if not self.done.recipes:
                    self.done.changed.update(set_aside(InsideRoot(root), str(patch.UNDO)))
                result = patch.apply_recipe(root, recipe, patch.UNDO, sandbox, self._payloads(recipe, stack))
                self.done.recipes.append(result)
                self.done.changed.update(result.changed)
                if result.result == "warned":
                    self.recorder.warning(f"recipe {recipe.id}: {'; '.join(result.checks)}")
            case RebuildInitramfs():
                self.done.changed.update(initramfs.rebuild(root, sandbox, step))
            case Relabel():
                changed, warning = relabel(root, sandbox, self.done.changed)
                self.done.changed.update(changed)
                if warning:
                    self.recorder.warning(warning, "patch")

    def _enrol(self, step: EnrolKey, root: Path) -> None:
        node = self._node("", step.on)
        key = self.key_of(step.uuid, f"{node}, which becomes {step.name}")
        self.done.checks.append(luks.enrol_key(node, step, key, InsideRoot(root)))

    def _on_the_boot_path(self, step: InstallBootloader | VerifyBoot, root: Path) -> None:
        match step:
            case InstallBootloader():
                self._keep_documents(root)
                further = [(self._handle(each.disk.name), each.esp_partition) for each in step.also]
                installed = boot.install_bootloader(root, self._the_sandbox(root), step, self._disk, further)
                self.done.changed.update(installed.changed)
                for warning in installed.warnings:
                    self.recorder.warning(warning, "boot")
            case VerifyBoot():
                self.done.checks.extend(verify.verify_boot(root, step, self._disk, self._nodes()))
                for each in step.also:
                    handle, esp = self._handle(each.disk.name), each.esp_partition
                    self.done.checks.extend(verify.verify_further_disk(root, step, handle, esp, self._nodes()))
                red = [check for check in self.done.checks if not check.ok]
                if red:
                    raise PatchError(
                        "the restored system would not boot: " + "; ".join(f"{c.name}: {c.detail}" for c in red),
                        "nothing was rebooted; read the report",
                    )
        os.sync()

    def _keep_documents(self, root: Path) -> None:
        """Leave the plan and the difference where the machine's owner looks for them."""
        folder = root / KEPT
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, data in self.keep:
            (folder / name).write_bytes(data)
            self.done.changed.add(f"/{KEPT}/{name}")

    def _the_sandbox(self, root: Path) -> Sandbox:
        if self._sandbox is None:
            self._sandbox = Sandbox(root, self._nodes(), links=self._links())
        return self._sandbox

    def _nodes(self) -> tuple[Path, ...]:
        """The device nodes of every disk and partition that was written."""
        return tuple(node for handle in self._handles.values() for node in handle.nodes())

    def _links(self) -> tuple[tuple[str, str], ...]:
        """The names below /dev that udev gives to the nodes of a stack, and what they lead to."""
        links = (link for handle in self._handles.values() for link in handle.links.items())
        return tuple((name, f"{'../' * name.count('/')}{node}") for name, node in links)

    def _payloads(self, recipe: BoundRecipe, stack: ExitStack) -> dict[str, list[Path]]:
        """The files of the components that a recipe installs, fetched and checked.

        They lie on the target disk for the time of the run: packages may be larger than the machine's memory.
        """
        wanted = {name for operation in recipe.operations if isinstance(operation, Install)
                  for name in (*operation.together, f"{operation.component}={operation.version}")}  # fmt: skip
        fetched: dict[str, list[Path]] = {}
        for component in self.plan.components:
            name = f"{component.id}={component.version}"
            if name in wanted and name not in fetched:
                folder = Path(stack.enter_context(TemporaryDirectory(dir=self._root, prefix=".regraft-")))
                fetched[name] = [fetch_file(self.depot, *file, folder) for file in component.files]
        return fetched

    def _new_places(self) -> frozenset[str]:
        """Mount points that the layout adds to the image's tree, such as that of a new EFI system partition."""
        volumes = {step.mountpoint for step in self.plan.steps if isinstance(step, WriteTree)}
        made = {step.filesystem.mountpoint for step in self.plan.steps if isinstance(step, MakeFilesystem)}
        new = frozenset(made - volumes - {""})
        self.done.changed.update(new)
        return new

    # --- continuing a run that was cut ----------------------------------------------------------------------------

    def _holds_the_plan(self, handle: disk.DiskHandle) -> bool:
        """Whether the disk already has exactly the planned table."""
        tables = (step for step in self.plan.steps if isinstance(step, WriteTable))
        table = next((step for step in tables if step.disk.name == handle.identity.name), None)
        return table is not None and disk.table_matches(handle, table)

    def _may_stay(self, made: MakeFilesystem, continued: bool) -> bool:
        """Whether a file system from a run that was cut is as good as a new one, if it is there.

        Those of the boot path are made anew each time: the disk must not boot until the loader is in. In a stack, one
        whose group was made anew may begin where an old one of another size did.
        """
        if made.partition >= FIRST_STACKED:
            continued = self._stack is not None and self._stack.continued
        return continued and self._is_volume(made) and not self._is_esp(made)

    def _is_volume(self, made: MakeFilesystem) -> bool:
        trees = (step for step in self.plan.steps if isinstance(step, WriteTree))
        return any((step.disk, step.partition) == (made.disk, made.partition) for step in trees)

    def _is_esp(self, made: MakeFilesystem) -> bool:
        name = made.disk or self.plan.disk.name
        tables = (step for step in self.plan.steps if isinstance(step, WriteTable) and step.disk.name == name)
        parts = (part for table in tables for part in table.partitions)
        return any(part.number == made.partition and is_esp(part.type) for part in parts)


SENTENCES = {
    "partition": "partitioning and making file systems",
    "write": "writing files",
    "verify": "reading back and comparing",
    "fit": "fitting file systems to their partitions",
    "patch": "adapting the system to this machine",
    "boot": "installing the boot loader",
    "prove": "proving that it will boot",
}


def drop_page_cache() -> None:
    """Make the next reads come from the disk (Linux, Documentation/admin-guide/sysctl/vm.rst, drop_caches)."""
    os.sync()
    DROP_CACHES.write_text("1\n")
