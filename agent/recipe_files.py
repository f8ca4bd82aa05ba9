"""Where the shipped recipes lie: beside the package in the source tree, inside the frozen program otherwise."""

from __future__ import annotations

import sys
from pathlib import Path


def shipped_directory() -> Path:
    bundle = getattr(sys, "_MEIPASS", "")  # PyInstaller: folder of the program's data files
    return (Path(bundle) if bundle else Path(__file__).resolve().parent.parent) / "recipes"


def read_recipes(directory: Path) -> dict[str, str]:
    """File name → text of every recipe in a directory; empty when there is no such directory."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(directory.glob("*.toml"))}


def shipped_recipes() -> dict[str, str]:
    return read_recipes(shipped_directory())
