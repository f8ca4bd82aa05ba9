"""How much memory the agent took."""

from __future__ import annotations

import resource

from agent.image.workers import largest_worker_bytes


def own_peak_memory_bytes() -> int:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_memory_bytes() -> int:
    """The same, and that of the largest of its workers; programs that were called (apt, mkinitramfs) do not count.

    Workers are forked: most of what they hold is the parent's own memory and is counted twice here, which makes up
    for the second worker that is not counted.
    """
    return own_peak_memory_bytes() + largest_worker_bytes()
