"""regraft job, against a server: what a technician types, and what comes of it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.commands.program import Regraft
from tests.commands.test_served import Served, served  # noqa: F401 - a fixture; arguments shadow it: F811

UUID = "4c4c4544-0038-4b10-8032-b8c04f523933"
EDITS = '[skip]\nrecipes = ["console.serial-kept"]\n'


def test_the_life_of_a_job_with_a_key(regraft: Regraft, served: Served, tree: Path, tmp_path: Path) -> None:  # noqa: F811
    at = served.writing[:4]  # jobs need no --trust
    regraft("capture", "--root", tree, "--name", "web1", *served.writing)
    (tmp_path / "pass").write_text("hidden words\n")
    (tmp_path / "edits.toml").write_text(EDITS)
    made = regraft(
        "job", "new", "web1", "--for", f"uuid={UUID.upper()}", "--disk", "serial=S1", "--disk", "serial=S2",
        "--arrays", "keep", "--edits", tmp_path / "edits.toml", "--luks-passphrase", tmp_path / "pass", *at,
    ).stdout  # fmt: skip
    assert made.startswith("job ") and f"for uuid={UUID}, onto serial=S1, serial=S2" in made
    job = made.split()[1].rstrip(":")
    shown = regraft("job", "show", job, *at).stdout
    assert "held for this machine" in shown and "console.serial-kept" in shown and "keep" in shown
    listed = regraft("job", "list", *at).stdout
    assert job in listed and "queued" in listed
    as_json = regraft("job", "show", job, *at, "--json").stdout
    assert json.loads(as_json)["luks_keys"] == "held"
    assert "hidden" not in made + shown + listed + as_json
    assert "cancelled" in regraft("job", "cancel", job, *at).stdout
    assert "which are gone since it ended" in regraft.refused("job", "again", job, *at, code=12, name="refused")
    again = regraft("job", "again", job, "--luks-key-file", tmp_path / "pass", *at).stdout
    assert "queued, attempt 2" in again


def test_what_is_wrong_is_said_before_anything_is_queued(regraft: Regraft, served: Served, tmp_path: Path) -> None:  # noqa: F811
    at = served.writing[:4]
    words = ("job", "new", "web1", "--disk", "only-eligible")
    (tmp_path / "edits.toml").write_text("[skp]\n")
    assert "uuid=" in regraft.refused(*words, "--for", "name=x", *at, code=2, name="usage")
    refused = regraft.refused(*words, "--for", "any", "--edits", tmp_path / "edits.toml", *at, code=2, name="usage")
    assert "skp" in refused
    assert "no image web1" in regraft.refused(*words, "--for", "any", *at, code=10, name="no-image")
    assert "http" in regraft.refused(*words, "--for", "any", "--depot", served.depot, code=2, name="usage")
    assert "job" in regraft("job", "list", *at).stdout
