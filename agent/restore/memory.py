"""How much memory the agent took."""

from __future__ import annotations

import resource


def own_peak_memory_bytes() -> int:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_memory_bytes() -> int:
    """The same, and that of the largest of its ended children.

    Workers are forked: most of what they hold is the parent's own memory and is counted twice here, which makes up
    for the second worker that is not counted.
    """
    return own_peak_memory_bytes() + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
