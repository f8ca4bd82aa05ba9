"""Segments: what is packed comes out again, byte for byte, in the form that the kernel takes."""

from __future__ import annotations

import stat

import pytest
import zstandard

from agent.errors import DamagedError, DoesNotFitError
from pe_build import segments

MEMBERS = [
    segments.link("bin", "usr/bin"),
    segments.directory("usr", 0o755),
    segments.file("usr/odd", b"abc"),
    segments.file("usr/empty", b"", 0o600),
    segments.Member("usr/null", stat.S_IFCHR | 0o666, device=(1, 3)),
]


def test_round_trip() -> None:
    assert list(segments.unpack(segments.pack(MEMBERS))) == MEMBERS


def test_parents_are_added_once_and_first() -> None:
    paths = [
        member.path
        for member in segments.unpack(segments.pack([segments.file("a/b/c", b"1"), segments.file("a/b/d", b"2")]))
    ]
    assert paths == ["a", "a/b", "a/b/c", "a/b/d"]


def test_archives_end_at_four_bytes_and_are_reproducible() -> None:
    archive = segments.pack(MEMBERS)
    assert len(archive) % 4 == 0
    assert archive == segments.pack(MEMBERS)
    packed = segments.compressed(archive)
    assert len(packed) % 4 == 0
    assert zstandard.ZstdDecompressor().decompressobj().decompress(packed) == archive


def test_a_damaged_archive_is_refused() -> None:
    archive = bytearray(segments.pack(MEMBERS))
    archive[0:6] = b"070707"
    with pytest.raises(DamagedError, match="byte 0"):
        list(segments.unpack(bytes(archive)))


@pytest.mark.parametrize("path", ["lib/modules/x.ko", "bin/sh", "lib64"])
def test_a_folder_in_the_place_of_a_usrmerge_link_is_refused(path: str) -> None:
    with pytest.raises(DamagedError, match="usr/"):
        segments.check_usrmerge([segments.file(path, b"")])


def test_usrmerge_links_and_usr_paths_pass() -> None:
    segments.check_usrmerge([segments.link("lib", "usr/lib"), segments.file("usr/lib/modules/x.ko", b"")])


def test_config_segment_has_its_size_and_permission_and_gives_the_file_back() -> None:
    segment = segments.config_segment(b'depot = "http://10.0.0.1"\n')
    assert len(segment) == segments.CONFIG_SIZE_BYTES
    assert segment.startswith(segments.config_magic())
    assert segments.read_config_segment(segment) == b'depot = "http://10.0.0.1"\n'
    modes = {member.path: stat.S_IMODE(member.mode) for member in segments.unpack(segment)}
    assert modes[segments.CONFIG_PATH] == 0o600


def test_a_configuration_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DoesNotFitError, match="262144 bytes"):
        segments.config_segment(b"#" * segments.CONFIG_SIZE_BYTES)
