"""The boot medium: the built ISO with a configuration of the lab's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.lab.programs import LabError, run
from tests.lab.serving import REPOSITORY, Served

ISO = REPOSITORY / "build" / "regraft.iso"


def medium_for(served: Served, iso: Path, output: Path, settings: dict[str, str | bool]) -> Path:
    """A copy of the ISO that knows this depot; it powers the machine off when it is done, well or badly."""
    values: dict[str, object] = {
        "depot": served.url_for_machines,
        "token": served.agent_token,
        "trust": [served.trust],
        "unattended": True,
        "on_success": "poweroff",
        "on_failure": "poweroff",
        **settings,
    }
    return configured(iso, output, values)


def configured(iso: Path, output: Path, values: Mapping[str, object]) -> Path:
    """A copy of the ISO with these keys of agent.toml: strings, booleans, lists of strings."""
    if not iso.exists():
        raise LabError(f"there is no ISO {iso}; build it with ‘make iso’ or name one with --iso")
    config = output.with_suffix(".toml")
    # JSON's strings, booleans and lists of strings are TOML's.
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    run([sys.executable, "-m", "pe_build", "customize", iso, "--config", config, "--output", output], cwd=REPOSITORY)
    return output
