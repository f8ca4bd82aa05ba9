"""How much memory the agent took."""

from __future__ import annotations

import resource

from agent.image.workers import workers_peak_bytes


def own_peak_memory_bytes() -> int:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_memory_bytes() -> int:
    """The same, and what its workers took beside what is its own; programs that were called (apt, mkinitramfs) do not
    count."""
    return own_peak_memory_bytes() + workers_peak_bytes()
