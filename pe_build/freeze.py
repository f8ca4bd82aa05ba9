"""Freeze the agent: one folder with the program ``regraft``, for sources and for the PE.

The frozen program needs the glibc of the system it was frozen on, or a newer one: freeze on Debian 12 (glibc 2.36).
"""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from agent.process import run
from pe_build.config import TIME_S, TREE, log

DEFAULT_ENTRY = Path("agent/__main__.py")
PROGRAM = "regraft"
# Data at the same places relative to the packages as in the source tree.
DATA = ("recipes", "agent/model/schema")
# Imported by name at run time, or inside functions, where PyInstaller's look at the code may miss it.
HIDDEN = (
    *("msgspec", "zstandard", "blake3", "lxml.etree", "lxml._elementpath", "pyudev", "pyroute2", "cryptography"),
    *("parted", "_ped", "requests", "rich", "click", "mfusepy"),
    "unittest",  # pyroute2 imports it at run time
)
EXCLUDED = (
    *("agent.server", "fastapi", "starlette", "sqlalchemy", "uvicorn", "pydantic", "jinja2", "alembic"),
    *("zstandard._cffi", "zstandard.backend_cffi", "zstandard.backend_rust"),
    *("tests", "pytest", "_pytest", "hypothesis", "pexpect", "mypy", "tkinter", "IPython", "setuptools", "pip"),
)


def freeze(output: Path, entry: Path, cache: Path) -> None:
    """Leave the frozen program in ``output``; what is there already stays, for somebody may be running it."""
    kept = frozen(entry, cache)
    if output.is_dir() and _listed(output) == _listed(kept):
        return
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(kept, output, symlinks=True)


def _listed(folder: Path) -> list[tuple[str, int, int]]:
    """Of every file in it name, size in bytes and time in ns, which copying keeps."""
    files = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    found = ((path, path.lstat()) for path in files)
    return sorted((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns) for path, status in found)


def frozen(entry: Path, cache: Path) -> Path:
    """The folder of the frozen program, made when nothing it depends on has been frozen before."""
    kept = cache / f"frozen-{frozen_key(entry)}"
    if not kept.exists():
        log(f"freezing {entry}")
        _pyinstaller(entry, kept)
    return kept


def frozen_key(entry: Path) -> str:
    """Digest of the agent, its data and entry, and the versions of everything that could be frozen with it."""
    digest = sha256()
    for path in _inputs(entry):
        content = path.read_bytes()
        digest.update(f"{path} {len(content)}\n".encode() + content)
    versions = sorted(f"{found.name}=={found.version}" for found in importlib.metadata.distributions())
    digest.update("\n".join([*versions, sys.version]).encode())
    return digest.hexdigest()[:16]


def _inputs(entry: Path) -> Iterator[Path]:
    yield TREE / "pyproject.toml"
    yield Path(__file__)
    yield entry.resolve()
    for folder in ("agent", "recipes"):
        for path in sorted((TREE / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and "server" not in path.relative_to(TREE).parts:
                yield path


def _modules() -> Iterator[str]:
    """Every module of the agent but the server's: commands and their helpers are imported when used."""
    for path in sorted((TREE / "agent").rglob("*.py")):
        parts = path.relative_to(TREE).with_suffix("").parts
        if "server" not in parts and parts[-1] != "__main__":
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _pyinstaller(entry: Path, kept: Path) -> None:
    work = kept.with_suffix(".work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    options = [f"--add-data={TREE / data}:{data}" for data in DATA if (TREE / data).is_dir()]
    options += [f"--hidden-import={name}" for name in (*HIDDEN, *_modules())]
    options += [f"--exclude-module={name}" for name in EXCLUDED]
    run(
        [
            *(sys.executable, "-m", "PyInstaller", "--noconfirm", "--onedir", "--console", f"--name={PROGRAM}"),
            # u: what the agent says must leave at once; the PE shows it on every console as it is written.
            *("--strip", "--python-option=u", "--log-level=WARN", f"--paths={TREE}"),
            *(f"--distpath={work}", f"--workpath={work / 'build'}", f"--specpath={work}", *options),
            str(entry.resolve()),
        ],
        timeout_s=1200,
        environment={"PYTHONHASHSEED": "1", "SOURCE_DATE_EPOCH": str(TIME_S)},
    )
    (work / PROGRAM).rename(kept)
    shutil.rmtree(work)
