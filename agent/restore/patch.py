"""Applies recipes to the restored system: files inside its root only, its own programs in the sandbox only.

What a recipe says is concrete already (`agent.model.recipe_match`); nothing is decided here. Applied again it changes
nothing, so that a restore that was cut can be started anew. Originals go to the undo folder, the first one wins.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.errors import PatchError
from agent.model import edits
from agent.model.recipe import (
    AnyOperation,
    BoundRecipe,
    Check,
    DisableUnit,
    EnableUnit,
    Install,
    MaskUnit,
    Move,
    MoveAside,
    RemovePackage,
    Request,
    RunCommand,
    Write,
)
from agent.model.recipe_match import describe
from agent.model.recipe_test import FILE_CHECKS, check_file
from agent.model.report import RecipeResult
from agent.model.wording import printable
from agent.restore import packages
from agent.restore.changes import ChangeWatch
from agent.restore.inside import InsideRoot
from agent.restore.journal import Journal
from agent.restore.packages import package_state, package_versions
from agent.restore.sandbox import DEFAULT_TIMEOUT_S, Sandbox

# What an image's own files can bring about: links that go round or lead nowhere, a directory where a file should be,
# names that are too long. Everything else (EIO, ENOSPC) is the disk's, and told as such.
_OF_THE_IMAGE = frozenset(
    (
        errno.ELOOP,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
        errno.EXDEV,
        errno.EINVAL,
    )
)
UNDO = Path("/var/lib/regraft/undo")  # inside the restored system
BEST_EFFORT_S = 180.0  # a script of something that goes anyway, and may hang without its hypervisor
_UNITS = "/etc/systemd/system"
_UNIT_FOLDERS = (_UNITS, "/usr/lib/systemd/system", "/lib/systemd/system")
_UNIT_NAME = re.compile(r"[A-Za-z0-9@:_.\\-]+")


@contextmanager
def _as_it_is_in_the_image(act: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_THE_IMAGE:
            raise
        raise PatchError(printable(f"cannot {act}: {error.strerror}", 500), "look at that path in the image") from error


def apply_recipe(
    root: Path,
    recipe: BoundRecipe,
    undo: Path,
    sandbox: Sandbox,
    payloads: Mapping[str, Sequence[Path]] | None = None,
) -> RecipeResult:
    """Apply one recipe and run its checks.

    ``undo`` is a directory inside the restored system (UNDO); ``payloads``: ID=VERSION of a component → its files here.
    A must recipe whose operation or check fails raises PatchError; a lesser one ends as "warned".
    """
    work = _Work(root, undo, sandbox, payloads or {}, recipe)
    try:
        try:
            for operation in recipe.operations:
                with _as_it_is_in_the_image(f"do {describe(operation)}"):
                    work.apply(operation)
        finally:
            with _as_it_is_in_the_image("note what was changed"):
                work.changed.update(work.journal.save())
        with _as_it_is_in_the_image("check the result"):
            failed, lines = _checks(recipe, work)
        if failed:
            raise PatchError(f"recipe {recipe.id}: check failed: {'; '.join(failed)}", "see docs/recipes.md")
    except PatchError as error:
        if recipe.tier == "must":
            raise PatchError(f"recipe {recipe.id}: {error.message}", error.hint) from error
        lines, result = [f"failed {error.message}"], "warned"
    else:
        result = "done" if not work.warnings else "warned"
    checks = (*lines, *(f"warning {text}" for text in work.warnings))
    return RecipeResult(
        id=recipe.id, tier=recipe.tier, result=result, changed=tuple(sorted(work.changed)), checks=checks
    )


def requested(recipes: Sequence[BoundRecipe]) -> dict[str, tuple[str, ...]]:
    """What the recipes ask to run once after them: what → modules (of initramfs)."""
    found: dict[str, tuple[str, ...]] = {}
    for recipe in recipes:
        for operation in recipe.operations:
            if isinstance(operation, Request):
                found[operation.what] = tuple(sorted({*found.get(operation.what, ()), *operation.modules}))
    return found


class _Work:
    """One recipe at work: where, with what, and what it has changed so far."""

    def __init__(
        self, root: Path, undo: Path, sandbox: Sandbox, payloads: Mapping[str, Sequence[Path]], recipe: BoundRecipe
    ) -> None:
        self.inside = InsideRoot(root)
        self.undo = "/" + str(
            undo.relative_to(root) if undo.is_relative_to(root) and root != Path("/") else undo
        ).lstrip("/")
        self.sandbox = sandbox
        self.payloads = payloads
        self.journal = Journal(self.inside, self.undo, recipe)
        self.changed: set[str] = set()
        self.warnings: list[str] = []

    def apply(self, operation: AnyOperation) -> None:
        match operation:
            case MoveAside(path=pattern, keep=keep):
                for path in self.inside.glob(pattern):
                    if keep:
                        self._keep(path)
                    else:
                        self.journal.note("removed-secret", path)
                    self._remove(path)
            case Move(path=pattern, to=to):
                for path in (pattern,) if to else self.inside.glob(pattern):
                    self._move(path, operation.target_of(path))
            case EnableUnit() | DisableUnit() | MaskUnit():
                self._set_unit(operation)
            case Install() | RemovePackage() | RunCommand():
                self._run(operation)
            case Request(what=what):
                self.journal.request(what)  # done by the plan's own later steps
            case _:
                self._edit(operation)

    def _set_unit(self, operation: EnableUnit | DisableUnit | MaskUnit) -> None:
        match operation:
            case EnableUnit(unit=unit, target=target):
                path = f"{_UNITS}/{_unit(target)}.wants/{_unit(unit)}"
                source = _unit_file(self.inside, unit)
                self._keep(path)
                self._link(path, source)
            case DisableUnit(unit=unit):
                for path in self.inside.glob(f"{_UNITS}/*"):
                    link = f"{path}/{_unit(unit)}"
                    if path.endswith((".wants", ".requires")) and self.inside.lexists(link):
                        self._keep(link)
                        self._remove(link)
            case MaskUnit(unit=unit):
                path = f"{_UNITS}/{_unit(unit)}"
                if self.inside.read_link(path) != "/dev/null":
                    self._keep(path)
                    self._link(path, "/dev/null")

    def _edit(self, operation: edits.FileEdit) -> None:
        before = self.inside.read(operation.path)
        # What is edited, kept and put back is the file that a link leads to, as RHEL's /boot/grub2/grubenv does.
        path = operation.path if before is None else f"/{self.inside.real(operation.path)}"
        text = None if before is None else before.decode("utf-8", "surrogateescape")
        after = edits.edit(operation, text)
        if after is None or after == text:
            return
        self._keep(path)
        folder = path.rpartition("/")[0]
        made = self.inside.make_directories(folder)
        mode = operation.mode if isinstance(operation, Write) else 0o644
        self.inside.write(path, after.encode("utf-8", "surrogateescape"), mode)
        self._note(path, *made, *(() if before is not None else (folder,)))

    def _move(self, path: str, to: str) -> None:
        data = self.inside.read(path)
        if to == path or data is None:
            return
        if self.inside.lexists(to) and self.inside.read(to) != data:  # the same: a move that was cut half-way
            return
        self._keep(path)
        self._keep(to)  # which is absent: undone, it goes
        mode = self.inside.mode(path)
        self.inside.write(to, data, mode)
        self.inside.set_owner(to, *self.inside.owner(path), mode)
        self._remove(path)
        self._note(to, to.rpartition("/")[0])

    def _run(self, operation: Install | RemovePackage | RunCommand) -> None:
        watch = ChangeWatch(self.inside.root)
        try:
            match operation:
                case Install():
                    self._install(operation)
                case RemovePackage():
                    self._remove_packages(operation)
                case RunCommand(argv=argv):
                    limit_s = BEST_EFFORT_S if operation.on_failure == "warn" else DEFAULT_TIMEOUT_S
                    self.sandbox.run(argv, limit_s, environment={"DEBIAN_FRONTEND": "noninteractive"})
                    self.journal.note("ran", " ".join(argv))
        except PatchError as error:
            if isinstance(operation, Install) or operation.on_failure != "warn":
                raise
            self.warnings.append(f"{describe(operation)}: {error.message}")
        self.changed.update(watch.changed())

    def _install(self, operation: Install) -> None:
        chosen: dict[str, Sequence[Path]] = {}
        for name in (*operation.together, f"{operation.component}={operation.version}"):
            ident, _, version = name.partition("=")
            if version in package_versions(self.inside, ident):
                continue
            if not self.payloads.get(name):
                raise PatchError(f"component {ident} {version} is not on this machine", "fetch it from the depot first")
            chosen[name] = self.payloads[name]
        if chosen:
            packages.install(self.inside, self.sandbox, chosen)
            self.journal.note("installed-package", f"{operation.component} {operation.version}")

    def _remove_packages(self, operation: RemovePackage) -> None:
        installed = packages.installed(self.inside, operation.packages)
        if installed:
            limit_s = BEST_EFFORT_S if operation.on_failure == "warn" else DEFAULT_TIMEOUT_S
            packages.remove(self.inside, self.sandbox, tuple(installed), limit_s)
            for name, version in installed.items():
                self.journal.note("removed-package", f"{name} {version}".strip())

    def _keep(self, path: str) -> None:
        """Copy an original to the undo folder, once, with its mode; what was there stands in the journal."""
        if path not in self.changed:
            self.journal.before(path)
        kept = f"{self.undo}{path}"
        if self.inside.lexists(kept) or not self.inside.lexists(path):
            return
        target = self.inside.read_link(path)
        made = self.inside.make_directories(kept.rpartition("/")[0])
        if target is not None:
            self.inside.link(kept, target)
        else:
            data = self.inside.read(path)
            self.inside.write(kept, data or b"", mode=self.inside.mode(path))
        self._note(kept, *made)

    def _remove(self, path: str) -> None:
        if self.inside.lexists(path):
            self.inside.remove(path)
            self._note(path, path.rpartition("/")[0])

    def _link(self, path: str, target: str) -> None:
        if self.inside.read_link(path) == target:
            return
        folder = path.rpartition("/")[0]
        made = self.inside.make_directories(folder)
        self.inside.link(path, target)
        self._note(path, folder, *made)

    def _note(self, *paths: str) -> None:
        for path in paths:
            self.changed.add(path)
            if not path.startswith(self.undo):
                continue
            self.changed.add(path.rpartition("/")[0])


def _unit(name: str) -> str:
    if not _UNIT_NAME.fullmatch(name):
        raise PatchError(f"‘{name}’ is no name of a systemd unit")
    return name


def _has_unit(inside: InsideRoot, unit: str) -> bool:
    """A link to a unit that went with its package starts nothing."""
    file = re.sub(r"@.*\.", "@.", unit)
    return any(inside.exists(f"{folder}/{name}") for folder in _UNIT_FOLDERS for name in (unit, file))


def _unit_file(inside: InsideRoot, unit: str) -> str:
    path = next((f"{folder}/{_unit(unit)}" for folder in _UNIT_FOLDERS if inside.exists(f"{folder}/{unit}")), "")
    if not path:
        raise PatchError(f"unit {unit} is not in the restored system")
    return path


def _checks(recipe: BoundRecipe, work: _Work) -> tuple[list[str], list[str]]:
    failed, lines = [], []
    for check in recipe.checks:
        line = " ".join(word for word in (check.kind, check.path, check.text, check.release) if word)
        holds = _holds(check, recipe, work.inside)
        lines.append(f"{'ok' if holds else 'failed'} {line}")
        if not holds:
            failed.append(line)
    return failed, lines


def _holds(check: Check, recipe: BoundRecipe, inside: InsideRoot) -> bool:
    if check.kind in FILE_CHECKS:
        if check.kind == "absent":
            return not inside.glob(check.path)
        data = inside.read(check.path)
        return check_file(check, None if data is None else data.decode("utf-8", "surrogateescape"))
    match check.kind:
        case "unit-on" | "unit-off":
            wants = [path for path in inside.glob(f"{_UNITS}/*") if path.endswith((".wants", ".requires"))]
            on = any(inside.lexists(f"{path}/{check.text}") for path in wants)
            on = on and _has_unit(inside, check.text)
            masked = inside.read_link(f"{_UNITS}/{check.text}") == "/dev/null"
            return (on and not masked) == (check.kind == "unit-on")
        case "kernel-installed":
            images = [f"/boot/vmlinuz-{check.release}", f"/lib/modules/{check.release}/vmlinuz"]
            return any(map(inside.exists, images)) and inside.exists(f"/lib/modules/{check.release}/modules.dep")
        case "package-installed" | "package-absent":
            return bool(package_state(inside, check.text)) == (check.kind == "package-installed")
        case "requested":
            return check.text in requested([recipe])
        case "initrd-has":
            return any(check.text in modules for modules in requested([recipe]).values())
    raise PatchError(f"unknown check ‘{check.kind}’", "the recipe is from a newer version")
