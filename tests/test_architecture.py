"""The laws of the architecture, read from the source: who imports whom, who may write, how long things get."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULE_LINES = 500
FUNCTION_LINES = 60

# What decisions may be made with. A module that is not here can reach a file, a clock, a process or a network,
# or has not been thought about yet.
PURE = frozenset(
    {
        "__future__", "base64", "binascii", "bisect", "bz2", "collections", "contextlib", "dataclasses", "difflib",
        "enum", "fnmatch", "functools", "graphlib", "gzip", "hashlib", "heapq", "io", "ipaddress", "itertools", "json",
        "lzma", "math", "operator", "re", "shlex", "string", "struct", "textwrap", "tomllib", "types", "typing",
        "unicodedata", "uuid", "zlib", "blake3", "lxml", "msgspec", "yaml", "zstandard",
    }
)  # fmt: skip
# Kept narrow: the schema is data of the package, and pure paths are arithmetic on names.
PURE_PARTS = frozenset({"importlib.resources", "pathlib.PurePath", "pathlib.PurePosixPath", "datetime.datetime"})


@dataclass(frozen=True, slots=True)
class Module:
    name: str
    path: Path
    tree: ast.Module
    lines: int

    @property
    def place(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def package(self) -> str:
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    def is_in(self, *packages: str) -> bool:
        return any(self.name == package or self.name.startswith(package + ".") for package in packages)


@cache
def modules() -> tuple[Module, ...]:
    paths = sorted(path for top in ("agent", "pe_build") for path in (ROOT / top).rglob("*.py"))
    return tuple(read_module(path) for path in paths)


def read_module(path: Path) -> Module:
    words = path.relative_to(ROOT).with_suffix("").parts
    text = path.read_text()
    name = ".".join(words[:-1] if words[-1] == "__init__" else words)
    return Module(name, path, ast.parse(text, str(path)), text.count("\n"))


def imports(module: Module, inside: ast.AST | None = None) -> Iterator[tuple[str, int]]:
    """Every name a module imports, ``from a import b`` as a.b; with the line."""
    for node in ast.walk(inside or module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def importers(target: str) -> list[tuple[Module, str]]:
    """Who imports a module or anything in it, with the place of the import."""
    return [
        (module, f"{module.place}:{line} imports {name}")
        for module in modules()
        for name, line in imports(module)
        if name == target or name.startswith(target + ".")
    ]


def nodes(kind: type[ast.AST] | tuple[type[ast.AST], ...]) -> Iterator[tuple[Module, ast.AST]]:
    return ((module, node) for module in modules() for node in ast.walk(module.tree) if isinstance(node, kind))


def dotted(node: ast.AST) -> str:
    """``os.path.join`` of such an expression, or nothing."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def test_the_model_does_no_input_or_output() -> None:
    allowed = ("agent.model", "agent.errors", "agent.version")
    found = [
        f"{module.place}:{line} imports {name}"
        for module in modules()
        if module.is_in("agent.model")
        for name, line in imports(module)
        if name.partition(".")[0] not in PURE
        and not any(name == one or name.startswith(one + ".") for one in (*allowed, *PURE_PARTS))
    ]
    opened = [
        f"{module.place}:{node.lineno} calls open"
        for module, node in nodes(ast.Call)
        if module.is_in("agent.model") and isinstance(node, ast.Call) and dotted(node.func) == "open"
    ]
    assert not found + opened


@pytest.mark.parametrize(
    ("target", "owners", "why"),
    [
        ("subprocess", ("agent.process",), "every child gets its environment and time limit in one place"),
        ("pty", (), "programs get no terminal"),
        ("parted", ("agent.restore.disk",), "partition tables are written in one place"),
        ("multiprocessing", ("agent.__main__", "agent.image"), "only the engine has worker processes"),
        ("sqlalchemy", ("agent.server",), "only the server has a database"),
        ("fastapi", ("agent.server",), "the agent carries no server"),
        ("agent.server", ("agent.server", "agent.commands.serve"), "the frozen agent does not carry the server"),
        ("agent.restore", ("agent.restore", "agent.commands"), "only commands reach what changes a machine"),
        ("agent.commands", ("agent.commands",), "commands are ends, nothing builds on them"),
        ("agent.cli", ("agent.__main__",), "the command line is an end"),
    ],
)
def test_who_may_import(target: str, owners: tuple[str, ...], why: str) -> None:
    assert not [said for module, said in importers(target) if not module.is_in(*owners)], why


@pytest.mark.parametrize(
    ("package", "may_use"),
    [
        ("agent.model", ("agent.model",)),
        ("agent.image", ("agent.image", "agent.depot", "agent.model")),
        ("agent.depot", ("agent.depot", "agent.model")),
        ("agent.probe", ("agent.probe", "agent.image", "agent.model")),
        ("agent.foreign", ("agent.foreign", "agent.probe", "agent.image", "agent.model")),
        ("agent.console", ("agent.console", "agent.depot", "agent.model")),
        ("agent.server", ("agent.server", "agent.depot", "agent.console", "agent.image", "agent.model")),
        ("pe_build", ("pe_build", "agent.model.agent_config")),  # a medium is told what its agent understands
    ],
)
def test_packages_build_on_what_is_below_them(package: str, may_use: tuple[str, ...]) -> None:
    common = ("agent.errors", "agent.process", "agent.version")
    allowed = (*may_use, *common)
    assert not [
        f"{module.place}:{line} imports {name}"
        for module in modules()
        if module.is_in(package)
        for name, line in imports(module)
        if name.startswith(("agent.", "pe_build."))
        and not any(name == one or name.startswith(one + ".") for one in allowed)
    ]


def test_no_process_is_started_around_the_one_door() -> None:
    doors = ("os.system", "os.popen", "os.fork", "os.posix_spawn", "os.posix_spawnp", "os.spawn", "os.exec")
    found = [
        f"{module.place}:{node.lineno} {dotted(node)}"
        for module, node in nodes(ast.Attribute)
        if isinstance(node, ast.Attribute) and dotted(node).startswith(doors)
    ]
    assert not found


def test_probing_and_deciding_write_nothing() -> None:
    verbs = (
        "write_text", "write_bytes", "O_WRONLY", "O_RDWR", "O_CREAT", "unlink", "rename", "truncate", "chmod",
        "chown", "symlink_to", "hardlink_to", "rmtree", "setxattr",
    )  # fmt: skip
    found = [
        f"{module.place}:{node.lineno} uses {node.attr}"
        for module, node in nodes(ast.Attribute)
        if isinstance(node, ast.Attribute) and module.is_in("agent.probe", "agent.model") and node.attr in verbs
    ]
    assert not found


def test_no_import_cycles() -> None:
    known = {module.name for module in modules()}
    graph = {
        module.name: {
            used
            for statement in module.tree.body
            for name, _ in imports(module, statement)
            for used in (name, name.rpartition(".")[0])
            if used in known and used != module.name
        }
        for module in modules()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_packages_hold_nothing_themselves() -> None:
    assert not [module.place for module in modules() if module.path.name == "__init__.py" and module.tree.body]


def test_modules_are_named_by_what_they_do() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "handler"}
    assert not [module.place for module in modules() if module.name.rpartition(".")[2] in vague]


def test_errors_are_caught_by_name() -> None:
    """Only the program's two exits catch everything; elsewhere only to clean up and raise it again.

    The second is the agent of the boot medium: a bug there must end the machine as its medium says.
    """
    exits = {"agent.__main__", "agent.commands.agent"}
    found = []
    for module, node in nodes(ast.ExceptHandler):
        assert isinstance(node, ast.ExceptHandler)
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        names = {dotted(kind) if kind else "BaseException" for kind in kinds}
        last = node.body[-1]
        again = isinstance(last, ast.Raise) and last.exc is None
        if names & {"Exception", "BaseException"} and module.name not in exits and not again:
            found.append(f"{module.place}:{node.lineno}")
    assert not found


def test_nothing_grows_too_long() -> None:
    long = [f"{module.place}: {module.lines} lines" for module in modules() if module.lines > MODULE_LINES]
    for module, node in nodes((ast.FunctionDef, ast.AsyncFunctionDef)):
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > FUNCTION_LINES:
            long.append(f"{module.place}:{node.lineno} {node.name}: {lines} lines")
    assert not long


def test_every_test_file_holds_tests() -> None:
    empty = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if not any(
            isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
            for node in ast.walk(ast.parse(path.read_text()))
        )
    ]
    assert not empty
