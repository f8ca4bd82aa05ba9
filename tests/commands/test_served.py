"""Depots behind a URL: served by regraft, and by a plain web server."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.depot.local import LocalDepot
from tests.commands.program import FROM_SOURCE, WRITE_TOKEN, Regraft, background, lines_until
from tests.image.source_tree import describe


@dataclass(frozen=True)
class Served:
    url: str
    key: str
    depot: Path
    said: tuple[str, ...]

    @property
    def writing(self) -> tuple[str, ...]:
        return ("--depot", self.url, "--token", WRITE_TOKEN, "--trust", self.key)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A depot that ``regraft serve`` makes and serves; always from source: the frozen program has no server."""
    words: list[str | Path] = [FROM_SOURCE, "serve", tmp_path / "served", "--host", "127.0.0.1", "--port", "0"]
    home = str(tmp_path / "home of the server")
    with background(words, REGRAFT_TOKEN=WRITE_TOKEN, REGRAFT_HOME=home) as server:
        said = lines_until(server, "agent token")
        url = said[0].split()[-1]
        yield Served(url, LocalDepot(tmp_path / "served").public_key, tmp_path / "served", tuple(said))
    assert server.returncode in (0, -15)


@pytest.mark.tools
def test_what_it_says_is_what_one_needs_to_know(served: Served) -> None:
    assert any(served.key in line for line in served.said)
    assert not any(WRITE_TOKEN in line for line in served.said)


def test_an_image_goes_there_and_comes_back(regraft: Regraft, served: Served, tree: Path, tmp_path: Path) -> None:
    first = regraft.json("capture", "--root", tree, *served.writing)
    second = regraft.json("capture", "--root", tree, *served.writing)
    assert second["stored_bytes"] < 1000 < first["stored_bytes"]
    names = [f"{image['machine']}@{image['time']}" for image in regraft.json("images", *served.writing)]
    assert len(names) == 2
    regraft("extract", names[0], "--to", tmp_path / "target", *served.writing)
    assert describe(tmp_path / "target") == describe(tree)


def test_without_the_right_token_nothing_is_read_or_written(regraft: Regraft, served: Served, tree: Path) -> None:
    wrong = ("--depot", served.url, "--trust", served.key, "--token", "wrong")
    for words in (("images",), ("show", "web-1"), ("capture", "--root", tree)):
        assert served.url in regraft.refused(*words, *wrong, code=23, name="not-allowed")
    assert regraft.json("images", "--depot", served.depot) == []


def test_a_plain_web_server_serves_readers(regraft: Regraft, captured: Path, tree: Path, tmp_path: Path) -> None:
    words: list[str | Path] = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "-d", captured]
    reader = Regraft(regraft.program, tmp_path / "home of a reader")
    with background(words) as server:
        (line,) = lines_until(server, "Serving HTTP")
        reading = ("--depot", line.partition("(")[2].partition(")")[0])
        trust = ("--trust", LocalDepot(captured).public_key)
        assert len(reader.json("images", *reading)) == 1
        reader.refused("extract", "web-1", "--to", tmp_path / "none", *reading, code=21, name="not-trusted")
        assert not (tmp_path / "none").exists()
        reader("extract", "web-1", "--to", tmp_path / "target", *reading, *trust)
        assert reader("cat", "web-1", "/usr/../etc/hostname", *reading, *trust).stdout == "web-1\n"
        told = reader.refused("capture", "--root", tree, *reading, *trust, code=23, name="not-allowed")
        assert reading[1] in told
    assert describe(tmp_path / "target") == describe(tree)


def test_only_the_program_from_source_has_a_server(regraft: Regraft, tmp_path: Path) -> None:
    if regraft.program == FROM_SOURCE:
        pytest.skip("this one has it")
    done = regraft("serve", tmp_path / "depot", code=2)
    assert "no server" in done.stderr and "next: " in done.stderr
    assert not (tmp_path / "depot").exists()


def test_a_capture_that_is_killed_is_continued(regraft: Regraft, served: Served, tmp_path: Path) -> None:
    tree = tmp_path / "source"
    tree.mkdir()
    for number in range(200):
        (tree / f"{number:03}").write_bytes(os.urandom(1 << 20))
    words: list[str | Path] = [regraft.program, "capture", "--name", "big", "--root", tree, *served.writing]
    with background(words, REGRAFT_HOME=str(regraft.home)) as cut:
        deadline = time.monotonic() + 60
        while not (packs := list(served.depot.glob("packs/*/*.pack"))):
            assert time.monotonic() < deadline and cut.poll() is None
            time.sleep(0.005)
        cut.kill()
    assert regraft.json("images", *served.writing) == []
    result = regraft.json("capture", "--name", "big", "--root", tree, *served.writing)
    assert result["stored_bytes"] < (200 << 20) - sum(path.stat().st_size for path in packs) + (1 << 20)
    assert "all is right" in regraft("check", "--depot", served.depot, "--trust", served.key).stdout
