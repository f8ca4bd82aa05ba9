"""A medium gets another configuration in place: only the config segment changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import DamagedError, UsageError
from pe_build import segments
from pe_build.customize import current_config, customize, find_config

PLACE = 7 * 2048


def medium(folder: Path, configs: int = 1) -> Path:
    """Something with the parts of an ISO that matter here."""
    iso = folder / "pe.iso"
    iso.write_bytes(b"\x5a" * PLACE + segments.config_segment(b"") * configs + b"\xa5" * 5000)
    return iso


def test_only_the_segment_changes(tmp_path: Path) -> None:
    iso = medium(tmp_path)
    before = iso.read_bytes()
    config = tmp_path / "agent.toml"
    config.write_text('depot = "http://10.77.0.2:8080"\nunattended = true\n')
    customize(iso, config, tmp_path / "out" / "other.iso")
    after = (tmp_path / "out" / "other.iso").read_bytes()
    assert iso.read_bytes() == before
    assert len(after) == len(before)
    end = PLACE + segments.CONFIG_SIZE_BYTES
    assert (after[:PLACE], after[end:]) == (before[:PLACE], before[end:])
    assert current_config(tmp_path / "out" / "other.iso") == config.read_bytes()


def test_again_with_a_shorter_file_leaves_nothing_of_the_longer_one(tmp_path: Path) -> None:
    iso = medium(tmp_path)
    config = tmp_path / "agent.toml"
    config.write_text(f'token = "{"s" * 4000}"\n')
    customize(iso, config, iso)
    config.write_text('task = "hold"\n')
    customize(iso, config, iso)
    assert current_config(iso) == b'task = "hold"\n'
    assert b"ssss" not in iso.read_bytes()


@pytest.mark.parametrize("configs", [0, 2])
def test_a_file_without_one_config_segment_is_refused(tmp_path: Path, configs: int) -> None:
    with pytest.raises(DamagedError, match=f"{configs} config segments, expected 1"):
        find_config(medium(tmp_path, configs))


def test_a_cut_medium_is_refused(tmp_path: Path) -> None:
    iso = medium(tmp_path)
    iso.write_bytes(iso.read_bytes()[: PLACE + 4096])
    with pytest.raises(DamagedError, match="ends inside"):
        find_config(iso)


def test_a_configuration_that_is_not_toml_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text("depot = http://unquoted\n")
    with pytest.raises(UsageError, match="not TOML"):
        customize(medium(tmp_path), config, tmp_path / "out.iso")
    assert not (tmp_path / "out.iso").exists()
