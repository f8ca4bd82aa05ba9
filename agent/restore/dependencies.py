"""What else must be installed with the components that recipes install, decided before anything is written.

    bound recipes + the image's packages + the depot's components ─► apt's or libsolv's solver ─► recipes, in batches
                                                                                              └─► what cannot be met

The solvers are those of the distributions' own package tools: apt's for .deb, libsolv (dnf, zypper) for .rpm. They get
the image's own list of installed packages, and of the components only what describes them: nothing is fetched.
Decision: docs/decisions/0035-dependencies-by-the-distributions-solvers.md.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from agent.errors import RefusedError, TemporaryError
from agent.model.component_fit import DEB_ARCHITECTURE, FILES
from agent.model.image import Component
from agent.model.recipe import BoundRecipe, Install, RemovePackage
from agent.model.rpm_header import COMMON, RPM, package_xml, version_in
from agent.model.situation import Situation
from agent.model.wording import printable
from agent.probe.rpm_packages import read_headers
from agent.process import Completed, ProcessError, run

SOLVE_S = 120.0
_INSTALLED = re.compile(r"^(Inst|Conf|Remv) (\S+?)(?::\w+)? (?:\[([^\]]*)\] ?)?(?:\((\S+) )?", re.MULTILINE)
_WHY = re.compile(r"^ (\S+ : .+(?:\n {2,}.+)*)", re.MULTILINE)
_ERROR = re.compile(r"^E: (.+(?:\n {2,}.+)*)", re.MULTILINE)
# What apt says of packages, not of itself: not known, not of that version, it would harm the system, apt 3's proof.
_OF_PACKAGES = re.compile(
    r"Unable to locate package|Version '.*' for '.*' was not found|Unable to satisfy dependencies|has no installation "
    r"candidate|held broken packages|[Ee]ssential packages|Held packages were changed"
)
_GOING = re.compile(r"^(?:erase|obsoleted?) (\S+)", re.MULTILINE)
_COMING = re.compile(r"(\S+)@components")
# Several of a name stand beside one another: what dnf has as installonlypkgs, which kernel-modules-core is by what it
# provides only, and the parts of kernels of releases that do not say so.
_BESIDE = (
    "kernel", "kernel-PAE", "kernel-core", "kernel-modules", "installonlypkg(kernel)", "installonlypkg(kernel-module)",
    "installonlypkg(vm)", "multiversion(kernel)", "multiversion(kernel-module)",
)  # fmt: skip
_TOOLS = {"deb": ("apt-get",), "rpm": ("rpmmd2solv", "testsolv")}


@dataclass(frozen=True, slots=True)
class Resolved:
    """The recipes with everything that their components need; why some cannot be installed; what was not decided."""

    recipes: tuple[BoundRecipe, ...]
    unmet: Mapping[str, str]  # component id → why
    notes: tuple[str, ...] = ()


def resolve(recipes: Sequence[BoundRecipe], situation: Situation) -> Resolved:
    """Ask the solver of the image's package format about every recipe that installs something."""
    kind = situation.source.os.package_format
    packages = tuple(one for one in situation.components if one.package_format == kind)
    wanting = [recipe for recipe in recipes if _installs(recipe, situation)]
    if not wanting:
        return Resolved(tuple(recipes), {})
    absent = [name for name in _TOOLS.get(kind, ()) if not shutil.which(name)]
    if absent or kind not in _TOOLS:
        said = f"dependencies of components were not resolved beforehand: {', '.join(absent) or kind} is not here"
        return Resolved(tuple(recipes), {}, (said,))
    solver = (_Apt if kind == "deb" else _Libsolv)(situation, packages)
    changed: list[BoundRecipe] = []
    unmet: dict[str, str] = {}
    placed: list[str] = []  # ID=VERSION, by this recipe or an earlier one
    with tempfile.TemporaryDirectory(prefix="regraft-solver-") as folder:
        solver.prepare(Path(folder))
        for recipe in recipes:
            wanted = _installs(recipe, situation)
            if not wanted:
                changed.append(recipe)
                continue
            removed = [op.package for op in recipe.operations if isinstance(op, RemovePackage)]
            found = solver.solve([*placed, *wanted], removed)
            if isinstance(found, str):
                unmet |= {name.partition("=")[0]: found for name in wanted}
                changed.append(recipe)
                continue
            batches = [fresh for batch in found if (fresh := [one for one in batch if one not in placed])]
            changed.append(_with_batches(recipe, batches, wanted))
            placed += [one for batch in batches for one in batch]
    return Resolved(tuple(changed), unmet)


def _installs(recipe: BoundRecipe, situation: Situation) -> list[str]:
    """What a recipe installs by the package tool, ID=VERSION."""
    files = {(one.id, one.version) for one in situation.components if one.package_format == FILES}
    return [
        f"{op.component}={op.version}"
        for op in recipe.operations
        if isinstance(op, Install) and (op.component, op.version) not in files
    ]


def _with_batches(recipe: BoundRecipe, batches: Sequence[Sequence[str]], wanted: Sequence[str]) -> BoundRecipe:
    """The recipe with the solver's batches in place of its first installation; the other ones are in them."""
    operations: list[Any] = []
    asked = ", ".join(name.partition("=")[0] for name in wanted)
    for operation in recipe.operations:
        if not isinstance(operation, Install) or f"{operation.component}={operation.version}" not in wanted:
            operations.append(operation)
            continue
        for batch in batches:
            ident, _, version = batch[-1].partition("=")
            operations.append(Install(
                component=ident, version=version, together=tuple(batch[:-1]),
                needed_by="" if batch[-1] in wanted else asked,
            ))  # fmt: skip
        batches = ()
    return msgspec.structs.replace(recipe, operations=tuple(operations))


class _Apt:
    """apt-get, simulating, with the image's dpkg status and one repository: the components."""

    def __init__(self, situation: Situation, components: Sequence[Component]) -> None:
        self.status = situation.tree.read_bytes("/var/lib/dpkg/status")
        machine = situation.source.platform.architecture
        self.architecture = DEB_ARCHITECTURE.get(machine, machine)
        self.components = components
        self.options: list[str] = []
        self.folder = Path()

    def prepare(self, folder: Path) -> None:
        self.folder = folder
        (folder / "apt.conf").touch()  # nothing of this machine's own configuration
        for name in ("lists/partial", "archives/partial", "etc/preferences.d", "etc/apt.conf.d"):
            (folder / name).mkdir(parents=True)
        (folder / "status").write_bytes(self.status)
        (folder / "etc/sources.list").write_text("deb [trusted=yes] file:/components ./\n")
        # Where ‘apt-get update’ would put what it reads from there.
        (folder / "lists/_components_._Packages").write_text("\n".join(map(_paragraph, self.components)))
        options = {
            "Dir": str(folder), "Dir::State": str(folder), "Dir::State::Lists": f"{folder}/lists",
            "Dir::State::status": f"{folder}/status", "Dir::Cache": str(folder), "Dir::Etc": f"{folder}/etc",
            "Dir::Etc::SourceList": f"{folder}/etc/sources.list", "Dir::Etc::SourceParts": "-",
            "APT::Architecture": self.architecture, "APT::Architectures::": self.architecture,
            "APT::Sandbox::User": "root", "Debug::NoLocking": "1", "APT::Install-Recommends": "0",
            "Dir::Log": str(folder), "APT::Get::Show-Versions": "0",
        }  # fmt: skip
        self.options = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]

    def solve(self, wanted: Sequence[str], removed: Sequence[str]) -> list[list[str]] | str:
        words = ["--simulate", "--assume-yes", "--allow-downgrades", "install", *wanted]
        done = _run(
            "apt-get", ["apt-get", *self.options, *words, *(f"{name}-" for name in removed)],
            environment={"APT_CONFIG": f"{self.folder}/apt.conf"}, accept=(0, 100),
        )  # fmt: skip
        if not done.status:
            return _batches(done.stdout, removed)
        errors = _ERROR.findall(done.stderr)
        reasons = _WHY.findall(done.stdout) or [text for text in errors if _OF_PACKAGES.search(text)]
        if not reasons:
            raise _could_not_run("apt-get", errors or done.stderr.splitlines()[-1:])
        return f"apt cannot install it: {_joined(reasons)}"


def _run(program: str, argv: Sequence[str], **more: Any) -> Completed:
    """Start a program of a solver; that it cannot do its work says nothing of the packages."""
    try:
        return run(argv, timeout_s=SOLVE_S, **more)
    except ProcessError as error:
        said = error.stderr.strip() or error.stdout.strip() or f"status {error.status}"
        raise _could_not_run(program, _ERROR.findall(said) or said.splitlines()[-1:]) from error
    except TemporaryError as error:
        raise _could_not_run(program, [f"it did not end within {SOLVE_S:.0f} s"]) from error


def _could_not_run(program: str, said: Iterable[str]) -> RefusedError:
    return RefusedError(
        f"{program} could not work out what the components need: {_joined(said) or 'it did not say why'}",
        "nothing was written; if this names the image's list of packages, mend that on the source machine; else "
        f"install {program} anew here, or plan on the boot medium, which carries it",
    )


def _joined(texts: Iterable[str]) -> str:
    return printable("; ".join(" ".join(text.split()) for text in texts), 500)


def _paragraph(component: Component) -> str:
    """The component as a repository lists it; of one that an older version added, what is known."""
    control = component.control or "".join(
        f"{name}: {value}\n"
        for name, value in (
            ("Package", component.id), ("Version", component.version), ("Architecture", component.architecture),
            ("Depends", ", ".join(component.depends)),
        )
        if value
    )  # fmt: skip
    size = max(1, sum(file.size_bytes for file in component.payload))  # apt takes nothing for no file
    return f"{control}Filename: ./{component.id}.deb\nSize: {size}\n"


def _batches(said: str, removed: Iterable[str]) -> list[list[str]] | str:
    """What apt would do, in its order: packages that it unpacks one after another, until it configures one."""
    found: list[list[str]] = []
    configured = True
    for verb, name, _, version in _INSTALLED.findall(said):
        if verb == "Remv":
            if name not in removed:
                return f"it would remove {name}, which the image has"
            continue
        if verb == "Inst" and configured:
            found.append([])
        if verb == "Inst":
            found[-1].append(f"{name}={version}")
        configured = verb == "Conf"
    return found


class _Libsolv:
    """libsolv, which decides for dnf and zypper, with the image's packages and one repository: the components."""

    def __init__(self, situation: Situation, components: Sequence[Component]) -> None:
        self.machine = situation.source.platform.architecture
        self.components = components
        # ID=VERSION → the version that libsolv reads, which may have a ‘^’.
        self.versions = {f"{one.id}={one.version}": version_in(one.control) for one in components if one.control}
        # A component may need a file by its path, whoever brings it.
        files = frozenset(one for component in components for one in component.depends if one.startswith("/"))
        self.installed = [package_xml(header, files) for header in read_headers(situation.tree)]
        self.folder = Path()

    def prepare(self, folder: Path) -> None:
        self.folder = folder
        for name, packages in (("system", self.installed), ("components", [c.control for c in self.components])):
            text = f'<metadata xmlns="{COMMON}" xmlns:rpm="{RPM}">{"".join(packages)}</metadata>'
            self._convert(text, folder / f"{name}.solv")

    def _convert(self, text: str, solv: Path) -> None:
        source = solv.with_suffix(".xml")
        source.write_text(text, "utf-8")
        _run("rpmmd2solv", ["sh", "-c", 'exec rpmmd2solv < "$1" > "$2"', "rpmmd2solv", str(source), str(solv)])

    def solve(self, wanted: Sequence[str], removed: Sequence[str]) -> list[list[str]] | str:
        lines = [
            "repo system 0 solv system.solv",
            "repo components 0 solv components.solv",
            f"system {self.machine} rpm system",
            *(f"job multiversion provides {name}" for name in _BESIDE),
            *(f"job install name {name.partition('=')[0]} = {self._version(name)}" for name in wanted),
            *(f"job erase name {name}" for name in removed),
            "result transaction,problems <inline>",
        ]
        (self.folder / "case.t").write_text("\n".join([*lines, ""]))
        done = _run("testsolv", ["testsolv", "-r", "case.t"], cwd=self.folder, accept=(0, 1))
        if done.stderr.strip():  # it ends with 0 where it cannot read its files, too
            raise _could_not_run("testsolv", done.stderr.splitlines()[-2:])
        said = done.stdout
        problems = re.findall(r"^problem \S+ info (.+)$", said, re.MULTILINE)
        if problems:
            return f"dnf cannot install it: {_joined(problems)}"
        return self._batch(said, wanted, removed)

    def _version(self, name: str) -> str:
        return self.versions.get(name) or name.partition("=")[2]

    def _batch(self, said: str, wanted: Sequence[str], removed: Sequence[str]) -> list[list[str]] | str:
        """One transaction, which rpm orders itself."""
        named = {f"{one.id}={one.version}": one for one in self.components}
        known = {f"{one.id}-{self._version(name)}.{one.architecture}": name for name, one in named.items()}
        for package in _GOING.findall(said):
            if not package.startswith(tuple(f"{one}-" for one in removed)):
                return f"it would remove {package.partition('@')[0]}, which the image has"
        coming = list(dict.fromkeys(_COMING.findall(said)))
        if strange := [package for package in coming if package not in known]:
            raise _could_not_run("testsolv", [f"it would install {strange[0]}, which is no component"])
        names = [known[package] for package in coming]
        batch = sorted(names, key=lambda name: name in wanted)  # what was asked for stands last, as its own
        return [batch] if batch else []
