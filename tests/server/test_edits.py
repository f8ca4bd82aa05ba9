"""Editing by the API: what is refused at once, and a whole edit by the program itself."""

from __future__ import annotations

import base64
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.depot.catalogue import find_image
from agent.depot.local import LocalDepot
from agent.depot.signing import trusted_keys
from agent.image.capture import capture_image
from agent.image.image_tree import ImageTree
from agent.image.tree_index import Status
from agent.model.edit_request import Edit, EditRequest, WrittenFile
from agent.model.image import ImageRef
from agent.process import ProcessError
from agent.server import edits
from agent.server.auth import Role
from agent.server.edits import Edits, words_of
from tests.image.source_tree import no_events, plain_tree, source
from tests.server.conftest import Server, make_profile

PATIENCE_S = 120
RECIPE = """\
id = "site.motd"
title = "t"
tier = "must"
phase = "site"
why = "w"
[when]
all = [ { image = { path = "/etc/hostname" } } ]
[[do]]
write = { path = "/etc/motd", whole = true, lines = ["ours"] }
[[check]]
grep = { path = "/etc/motd", text = "ours" }
[[test]]
tree = { "/etc/hostname" = "x\\n" }
expect = { "/etc/motd" = "ours\\n" }
"""


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def ask(server: Server, body: object, image: str = "web1") -> Any:
    data = msgspec.json.encode(body)
    return server.client.post(f"/api/v1/images/{image}/edits", content=data, headers=server.headers(Role.WRITE))


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 400, "files to write or remove, or one recipe"),
        ({"remove": ["/a"], "recipe": RECIPE}, 400, "or one recipe"),
        ({"remove": ["etc/motd"]}, 400, "not a path from"),
        ({"remove": ["/etc/../shadow"]}, 400, "not a path from"),
        ({"remove": ["/"]}, 400, "not a path from"),
        ({"remove": ["--put=/etc/shadow:/x"]}, 400, "not a path from"),
        ({"remove": [f"/{n}" for n in range(1001)]}, 400, "1,001 files"),
        ({"write": [{"path": "/a", "content": text(b"x"), "mode": 0o4755}]}, 400, "mode 4755"),
        ({"write": [{"path": "/a", "content": "no base64!"}]}, 422, "is not understood"),
        ({"command": "reboot"}, 422, "is not understood"),
        ({"recipe": "id = "}, 400, "not TOML"),
        ({"recipe": RECIPE.replace("[[check]]", '[[do]]\nrun = { argv = ["/bin/sh"], why = "x" }\n[[check]]', 1)}, 409,
         "runs programs of the image (run)"),
        ({"recipe": RECIPE.replace("[[check]]", '[[do]]\ninstall = "grub-pc"\n[[check]]', 1)}, 409, "(install)"),
    ],
)  # fmt: skip
def test_what_is_refused_before_anything_is_done(server: Server, body: object, status: int, said: str) -> None:
    server.publish(make_profile())
    answer = ask(server, body)
    assert (answer.status_code, said in answer.json()["detail"]) == (status, True), answer.text
    assert server.client.get("/api/v1/edits", headers=server.headers(Role.READ)).json() == []


def test_an_image_that_is_not_there(server: Server) -> None:
    assert ask(server, {"remove": ["/a"]}, "nobody").status_code == 404
    assert server.client.get("/api/v1/edits/x", headers=server.headers(Role.READ)).status_code == 404
    assert server.client.get("/api/v1/edits/..%2ftokens", headers=server.headers(Role.READ)).status_code == 404


def test_an_edit_that_the_end_of_the_server_cut_is_told_so(tmp_path: Path) -> None:
    edit = Edit(id="20261124T120000000Z-0a0b0c0d", image="web1@20261124T120000Z", state="running", asked="then")
    (tmp_path / f"{edit.id}.json").write_bytes(msgspec.json.encode(edit))
    found = Edits(tmp_path, LocalDepot(tmp_path / "depot")).get(edit.id)
    assert (found.state, found.code) == ("failed", "stopped") and found.ended


@pytest.fixture
def ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Edits]:
    """Edits whose programs end as is said, one after the other: with an error, or well."""

    def made(*ends: Exception | None) -> Edits:
        left = list(ends)

        def done(_: Edits, __: Edit, ___: EditRequest) -> Any:
            if end := left.pop(0):
                raise end
            return msgspec.convert({}, type=edits._Said)

        monkeypatch.setattr(Edits, "_done", done)
        return Edits(tmp_path / "edits", LocalDepot(tmp_path))

    return made


def asked_and_ended(every: Edits) -> Edit:
    edit = every.ask(ImageRef("web1"), EditRequest(remove=("/a",)))
    end = time.monotonic() + PATIENCE_S
    while not every.get(edit.id).ended and time.monotonic() < end:
        time.sleep(0.01)
    return every.get(edit.id)


def test_an_edit_whose_program_is_killed_fails_and_the_next_is_done(ending: Callable[..., Edits]) -> None:
    """As for want of memory: one end must not be the end of all."""
    every = ending(ProcessError(["regraft", "edit"], -9, "", ""), OSError("no room"), None)
    found = [asked_and_ended(every) for _ in range(3)]
    assert [each.state for each in found] == ["failed", "failed", "done"]
    assert "status -9" in found[0].message


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_nobody_expected_ends_one_edit_alone(ending: Callable[..., Edits]) -> None:
    every = ending(ZeroDivisionError(), None)
    every.ask(ImageRef("web1"), EditRequest(remove=("/a",)))
    assert every._worker is not None
    every._worker.join(PATIENCE_S)
    assert asked_and_ended(every).state == "done"


def test_the_command_of_an_edit(tmp_path: Path) -> None:
    edit = Edit(id="x", image="web1@20261124T120000Z", state="queued", asked="")
    request = EditRequest(write=(WrittenFile("/etc/a:/b", b"one", 0o600),), remove=("/-rf",))
    place = tmp_path / "file-0"
    assert words_of(edit, request, tmp_path) == [
        "edit", edit.image, "--put", f"{place}:/etc/a:/b", "--remove", "/-rf",
    ]  # fmt: skip
    assert (place.read_bytes(), place.stat().st_mode & 0o777) == (b"one", 0o600)


def status_of(tree: ImageTree, path: bytes) -> Status:
    node = tree.index.resolve(path)
    assert node is not None
    return tree.index.status(node)


@pytest.mark.root
def test_edits_make_images(server: Server, tmp_path: Path) -> None:
    plain_tree(tmp_path / "tree")
    first = capture_image(source(tmp_path / "tree"), server.depot, no_events, jobs=1).ref
    written = {"path": "/etc/motd", "content": text(b"\x00hello\n"), "mode": 0o640}
    over = {"path": "/bin/tool", "content": text(b"new"), "mode": 0o600}  # /bin is a link to usr/bin
    edit = ended(server, ask(server, {"write": [written, over], "remove": ["/usr/large", "/etc/empty"]}, "web-1"))
    assert (edit["state"], edit["image"]) == ("done", str(first)), edit
    assert edit["changes"] == {  # another is a second name of tool
        "/etc/empty": "-", "/etc/motd": "+", "/usr/bin/another": "~", "/usr/large": "-",
    }  # fmt: skip
    name, _, moment = edit["result"].partition("@")
    tree = ImageTree(server.depot, find_image(server.depot, trusted_keys(server.depot), ImageRef(name, moment)))
    assert tree.read_bytes("/etc/motd") == b"\x00hello\n"
    status = status_of(tree, b"/etc/motd")
    assert (stat.S_IMODE(status.mode), status.uid) == (0o640, 0)
    assert stat.S_IMODE(status_of(tree, b"/usr/bin/tool").mode) == 0o755
    assert tree.read_bytes("/usr/bin/tool") == b"new"
    by_recipe = ended(server, ask(server, {"recipe": RECIPE}, "web-1"))
    assert by_recipe["changes"]["/etc/motd"] == "~" and by_recipe["result"]
    again = ended(server, ask(server, {"recipe": RECIPE}, "web-1"))
    assert (again["state"], again["result"], again["changes"]) == ("done", "", {})
    failed = ended(server, ask(server, {"remove": ["/etc/absent"]}, "web-1"))
    assert (failed["state"], failed["code"]) == ("failed", "patch") and "/etc/absent" in failed["message"]
    assert list((server.depot.root / "tmp").glob("edit-*")) == []


def ended(server: Server, answer: Any) -> Any:
    """The edit when it has ended."""
    assert answer.status_code == 202, answer.text
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        edit = server.client.get(answer.headers["location"], headers=server.headers(Role.READ)).json()
        if edit["ended"]:
            return edit
        time.sleep(0.1)
    raise AssertionError(f"the edit did not end within {PATIENCE_S} s: {edit}")
