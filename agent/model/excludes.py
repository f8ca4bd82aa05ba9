"""What a site leaves out of its images: ``--exclude``, ``exclude`` of the boot medium, /etc/regraft/exclude."""

from __future__ import annotations

from agent.errors import UsageError
from agent.model.image import Excluded
from agent.model.tree import Tree, read_text

SITE_FILE = "/etc/regraft/exclude"
_EVERYTHING = ("", "*", "**", "/*", "/**")


def site_excludes(tree: Tree) -> tuple[Excluded, ...]:
    """What the machine's own file says: a glob a line, blank lines and those that begin with # left out."""
    lines = (line.strip() for line in read_text(tree, SITE_FILE).splitlines())
    return tuple(exclude(line, SITE_FILE) for line in lines if line and not line.startswith("#"))


def exclude(glob: str, said_by: str) -> Excluded:
    """A glob of system paths; one without a slash at its beginning fits in every directory.

    Raises UsageError for one that leaves nothing.
    """
    plain = glob.rstrip("/")
    if plain in _EVERYTHING:
        raise UsageError(f"‘{glob}’ ({said_by}) excludes everything", "name what is to stay behind: /srv/scratch/*")
    return Excluded(plain if plain.startswith("/") else f"*/{plain}", f"excluded by {said_by}")
