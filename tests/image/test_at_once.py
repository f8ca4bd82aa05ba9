"""Frames that are unfolded whole: the same bytes as a stream brings, and nothing that is not sound or too large."""

from __future__ import annotations

import io
import random

import pytest
import zstandard

from agent.image.at_once import FrameWriter, unfolded

LIMIT = 1 << 20


def written(pieces: list[bytes], frame_bytes: int = 1000) -> bytes:
    file = io.BytesIO()
    writer = FrameWriter(file, 3, frame_bytes)
    for piece in pieces:
        writer.write(piece)
    writer.flush()
    return file.getvalue()


def stream(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True) as reader:
        return reader.read()


def test_what_is_written_in_frames_is_unfolded_frame_by_frame() -> None:
    pieces = [b"%d\n" % number * 20 for number in range(400)] + [random.Random(3).randbytes(300_000), b"", b"end"]
    frames = unfolded(written(pieces), LIMIT)
    assert frames is not None
    assert b"".join(frames) == b"".join(pieces) == stream(written(pieces))
    assert all(len(frame) <= 1000 for frame in frames[:-2])
    assert len(frames[-2]) == 300_000  # a piece is never cut
    assert len(frames) > 20


def test_nothing_is_no_frames() -> None:
    assert written([]) == b""
    assert unfolded(b"", LIMIT) == []


@pytest.mark.parametrize(
    "compressor",
    [
        zstandard.ZstdCompressor(write_checksum=True),
        zstandard.ZstdCompressor(level=19),
        zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=20)),
    ],
    ids=["checksums", "level 19", "window of 1 MiB"],
)
def test_frames_of_other_writers_are_unfolded(compressor: zstandard.ZstdCompressor) -> None:
    plain = [bytes(200_000), b"text\n" * 50_000, random.Random(4).randbytes(200_000)]
    assert unfolded(b"".join(map(compressor.compress, plain)), LIMIT) == plain


def test_more_than_the_limit_is_refused_before_anything_is_unfolded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = zstandard.compress(bytes(LIMIT)) + zstandard.compress(b"\n")
    monkeypatch.setattr(zstandard, "ZstdDecompressor", lambda: None)  # it would fail
    assert unfolded(data, LIMIT) is None


def test_a_stream_that_says_no_size_a_skippable_frame_and_rubbish_are_refused() -> None:
    said = zstandard.compress(b"one\n")
    unsaid = zstandard.ZstdCompressor(write_content_size=False).compress(b"two\n")
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip"
    for bad in (unsaid, skippable, b"rubbish", b"\0", said[:-1], said[:7], said[:3]):
        assert unfolded(said + bad, LIMIT) is None
        assert unfolded(bad, LIMIT) is None


def test_any_changed_byte_gives_what_the_stream_gives_or_nothing() -> None:
    data = written([b"line %d of many\n" % number for number in range(300)], 700)
    rng = random.Random(5)
    for _ in range(3000):
        at = rng.randrange(len(data))
        changed = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        frames = unfolded(changed, LIMIT)
        if frames is not None:
            assert b"".join(frames) == stream(changed)
