"""Entries that wait come back as they were, in order and in reverse, and cost little meanwhile."""

from __future__ import annotations

import sys

from agent.image.entry import Entry
from agent.image.kept import BLOCK_ENTRIES, Kept


def test_order_and_reverse() -> None:
    kept = Kept()
    entries = [Entry(path=f"folder/{number}", type="dir", mtime=number) for number in range(2 * BLOCK_ENTRIES + 7)]
    for entry in entries:
        kept.add(entry)
    assert list(kept) == entries
    assert list(reversed(kept)) == entries[::-1]
    assert list(Kept()) == []


def test_a_hundred_thousand_wait_in_a_few_megabytes() -> None:
    kept = Kept()
    for number in range(100_000):
        path = f"usr/share/doc/package-{number // 9}/{number}"
        kept.add(Entry(path=path, type="dir", mode=0o755, mtime=1_700_000_000_000_000_000 + number * 7919))
    assert sum(sys.getsizeof(block) for block in kept._blocks) < 2 << 20
    assert len(kept._open) < BLOCK_ENTRIES
