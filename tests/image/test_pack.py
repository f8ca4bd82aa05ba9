"""Packs end when they are full, of bytes or of names, and say what they hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from blake3 import blake3

from agent.depot.local import LocalDepot
from agent.depot.store import pack_path
from agent.image import pack
from agent.image.pack import PackWriter, read_table


def test_a_pack_of_very_small_files_ends_before_its_table_is_too_large(
    tmp_path: Path, depot: LocalDepot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "FULL_TABLE_BYTES", 4000)
    writer = PackWriter(tmp_path, "small.pack")
    written: list[tuple[bytes, int, int, int]] = []
    while not writer.is_full:
        number = len(written)
        plain = b"%06d" % number
        id_ = blake3(plain).digest()
        writer.append(0, plain, [(id_, 0, len(plain))])
        written.append((id_, number, 0, len(plain)))
    assert 30 < len(written) < 60
    ref = writer.finish()
    depot.put_file(pack_path(ref.sha256), writer.path)
    frames, chunks = read_table(depot, ref)
    assert (len(frames), chunks) == (len(written), written)
