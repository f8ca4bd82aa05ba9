"""A machine's default name in a depot."""

from __future__ import annotations

import re

from agent.model.image import NAME
from agent.model.tree import Tree, read_text


def machine_name(tree: Tree) -> str:
    """The host name of the system, with every character that a depot's names do not allow replaced by a dash."""
    hostname = read_text(tree, "/etc/hostname").strip().split(".")[0]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", hostname).strip("-._")[:64]
    return name if NAME.fullmatch(name) else "machine"
