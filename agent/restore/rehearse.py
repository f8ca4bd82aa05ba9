"""A rehearsal: everything of a restore that needs no disk, on a throw-away copy of the image's tree.

    plan (for a target that need not be here) ─► preflight ─► recipes, really ─► initramfs, if asked ─► proof

No disk is touched. What would stop a restore does not stop the rehearsal: everything that would is told, in the order
in which a restore would meet it, and the first of it is the exit code. What only the disk can show is not rehearsed:
partitioning, file systems, boot sectors and boot entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from agent.console.recorder import Recorder, now
from agent.errors import DamagedError, PatchError, RegraftError
from agent.model.drivers import KernelIndex
from agent.model.plan import (
    ApplyRecipe,
    InstallBootloader,
    MakeFilesystem,
    RebuildInitramfs,
    VerifyBoot,
    describe,
)
from agent.model.planned_names import planned_names
from agent.model.profile import Firmware
from agent.model.recipe import BoundRecipe, Install
from agent.model.report import CheckResult, Report, Stop
from agent.probe.live_tree import LiveTree
from agent.restore import boot, esp, initramfs, patch, preflight, verify
from agent.restore.inside import InsideRoot
from agent.restore.memory import peak_memory_bytes
from agent.restore.mounts import make_mountpoint
from agent.restore.prepare import Prepared
from agent.restore.pretended_disk import sandbox_on
from agent.restore.report import Outcome, make_report
from agent.restore.run import Done
from agent.restore.sandbox import Sandbox
from agent.restore.throwaway import throwaway_tree


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is rehearsed: decisions alone where there is no ``work`` folder."""

    work: Path | None = None
    rebuild: bool = False  # the initramfs, by the image's own tool


@dataclass(slots=True)
class Rehearsal:
    """One rehearsal of one plan. Make it, then call `run`."""

    prepared: Prepared
    extent: Extent
    recorder: Recorder
    stops: list[RegraftError] = field(default_factory=list)
    done: Done = field(default_factory=Done)

    def run(self) -> Report:
        """Never raises for what would stop a restore: the report says so."""
        started = now()
        with self.recorder.phase("preflight", "checking what a restore checks before its first write"):
            self._preflight()
        if self.extent.work is not None:
            self._on_a_copy(self.extent.work)
        self.done.peak_memory_bytes = max(self.done.peak_memory_bytes, peak_memory_bytes())
        return self._report(started)

    def _preflight(self) -> None:
        prepared = self.prepared
        self._try(lambda: preflight.refuse_blockers(prepared.difference))
        self._try(lambda: preflight.refuse_small_memory(prepared.target.platform.memory_bytes))
        self._try(lambda: preflight.check_components(prepared))
        self._try(lambda: preflight.check_content(prepared))

    def _on_a_copy(self, work: Path) -> None:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="regraft-rehearse-", dir=work)))
            tree = folder / "tree"
            tree.mkdir(mode=0o700)
            with self.recorder.phase("copy", "making a throw-away copy of the image’s files"):
                root = stack.enter_context(
                    throwaway_tree(
                        self.prepared.depot, self.prepared.loaded, tree, self.recorder, self.recorder.message
                    )
                )
            with self.recorder.phase("patch", "adapting the copy to the target"):
                self._adapt(root, folder)
            with self.recorder.phase("prove", "checking what would boot"):
                self._try(lambda: self._prove(root))

    def _adapt(self, root: Path, folder: Path) -> None:
        sandbox = sandbox_on(self.prepared.plan, root, folder)
        for step in self.prepared.plan.steps:
            if isinstance(step, MakeFilesystem) and step.filesystem.mountpoint:
                make_mountpoint(root, step.filesystem.mountpoint)
        for step in self.prepared.plan.steps:
            match step:
                case ApplyRecipe(recipe=recipe):
                    self.recorder.message(describe(step), "patch")
                    self._try(partial(self._apply, root, folder, recipe, sandbox))
                case InstallBootloader():
                    self.recorder.message("make the boot loader’s configuration", "patch")
                    self._try(lambda: boot.make_configuration(InsideRoot(root), sandbox))
                case RebuildInitramfs() if self.extent.rebuild:
                    self.recorder.message(describe(step), "patch")
                    self._try(partial(self._rebuild, root, sandbox, step))
                case RebuildInitramfs(release=release):
                    self._stand_for_initramfs(root, release)

    def _apply(self, root: Path, folder: Path, recipe: BoundRecipe, sandbox: Sandbox) -> None:
        wanted = {operation.component for operation in recipe.operations if isinstance(operation, Install)}
        payloads = {
            component.id: [preflight.fetch_file(self.prepared.depot, *file, folder) for file in component.files]
            for component in self.prepared.plan.components
            if component.id in wanted
        }
        result = patch.apply_recipe(root, recipe, patch.UNDO, sandbox, payloads)
        self.done.recipes.append(result)
        self.done.changed.update(result.changed)
        if result.result == "warned":
            self.recorder.warning(f"recipe {recipe.id}: {'; '.join(result.checks)}")

    def _stand_for_initramfs(self, root: Path, release: str) -> None:
        """An empty file where an initramfs would be made: GRUB names the root otherwise for a kernel without one."""
        inside = InsideRoot(root)
        if not initramfs.initrd_path(inside, release):
            inside.write(initramfs.initrd_names(release)[0], b"")

    def _rebuild(self, root: Path, sandbox: Sandbox, step: RebuildInitramfs) -> None:
        self.done.changed.update(initramfs.rebuild(root, sandbox, step))

    def _prove(self, root: Path) -> None:
        self.done.checks.extend(self._checks(root))
        red = [check for check in self.done.checks if not check.ok]
        if red:
            raise PatchError(
                "the restored system would not boot: " + "; ".join(f"{c.name}: {c.detail}" for c in red),
                "read the report, correct the image, the recipes or the components, and rehearse again",
            )

    def _checks(self, root: Path) -> Iterator[CheckResult]:
        plan = self.prepared.plan
        tree = LiveTree(root)
        names = planned_names(plan, self.prepared.loaded.manifest)
        for step in plan.steps:
            match step:
                case VerifyBoot(releases=releases):
                    for release in releases:
                        if self._is_rebuilt(release):
                            yield from verify.kernel_checks(root, tree, release, step)
                        else:
                            yield verify.kernel_check(tree, release)
                            yield modules_check(tree, release, step.modules if release == releases[0] else ())
                    yield from verify.configuration_checks(root, tree, releases, names)
                case InstallBootloader(firmware=firmware):
                    yield loader_check(root, firmware)
        yield from verify.reference_checks(tree, names)

    def _is_rebuilt(self, release: str) -> bool:
        steps = [step for step in self.prepared.plan.steps if isinstance(step, RebuildInitramfs)]
        return self.extent.rebuild and any(step.release == release for step in steps)

    def _try(self, act: Callable[[], None]) -> None:
        """Do it; what would stop a restore is kept, once, and the rehearsal goes on."""
        try:
            act()
        except RegraftError as error:
            self._keep(error)
        except OSError as error:
            self._keep(DamagedError(f"the copy of the image cannot be read or changed: {error}"))

    def _keep(self, error: RegraftError) -> None:
        if str(error) not in map(str, self.stops):
            self.stops.append(error)
            self.recorder.error(error)

    def _report(self, started: str) -> Report:
        prepared, stops = self.prepared, self.stops
        outcome = Outcome(started, self.done, stops[0] if stops else None)
        report = make_report(prepared.plan, prepared.difference, prepared.target, outcome, self.recorder)
        passed = "would-restore-with-warnings" if self.recorder.warnings else "would-restore"
        return msgspec.structs.replace(
            report,
            result="would-stop" if stops else passed,
            stops=tuple(Stop(code=e.code, exit_code=e.exit_code, message=str(e)) for e in stops),
        )


def modules_check(tree: LiveTree, release: str, wanted: tuple[str, ...]) -> CheckResult:
    """Before its initramfs is rebuilt: whether the kernel has what that must hold."""
    index = KernelIndex.from_tree(tree, release)
    missing = [name for name in wanted if not (index.has_module(name) or index.has_builtin(name))]
    said = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(wanted) or 'its modules'}"
    return CheckResult(
        name=f"modules {release}", ok=not missing and not index.empty,
        detail=f"kernel {release} {said}; its initramfs was not rebuilt in this rehearsal"
        if not index.empty else f"there are no modules of kernel {release}",
    )  # fmt: skip


def loader_check(root: Path, firmware: str) -> CheckResult:
    """Where the boot loader would come from. What the image lacks the medium brings, so this is never red."""
    if firmware == Firmware.UEFI:
        try:
            esp.find_loaders(root, root)
        except PatchError:
            return CheckResult(name="loader", ok=True, detail="the image has no signed GRUB: the medium’s is installed")
        return CheckResult(name="loader", ok=True, detail="the image has a signed shim and GRUB for UEFI")
    own = (root / "usr/lib/grub/i386-pc/kernel.img").is_file()
    return CheckResult(
        name="loader", ok=True, detail=f"{'the image’s own' if own else 'the medium’s'} GRUB for BIOS is installed"
    )
