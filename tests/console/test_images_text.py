from __future__ import annotations

from agent.console.images_text import images_table
from agent.depot.catalogue import ImageFacts


def image(machine: str, time: str) -> ImageFacts:
    return ImageFacts(machine=machine, time=time, manifest_sha256="", profile_time="", profile_sha256="",
                      fingerprint="", hostname=machine, content_bytes=3 << 30, stored_bytes=1 << 30,
                      volumes=("root", "srv"))  # fmt: skip


def test_images_are_listed_by_machine_newest_first() -> None:
    text = images_table([image("b", "1"), image("a", "1"), image("a", "2")])
    lines = text.splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["a@2", "a@1", "b@1"]
    assert lines[0].split()[1:] == ["a", "3.0", "GiB", "1.0", "GiB", "root,", "srv"]
