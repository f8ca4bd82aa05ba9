"""A medium gets another configuration in place: only the config segment changes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from agent.errors import DamagedError, DoesNotFitError, UsageError
from agent.model.agent_config import beside, read_config
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


LUKS = "0c1f6a52-52d5-44c1-8d5e-4d4a6cb0a2a1"


def test_the_files_that_a_configuration_names_travel_beside_it_for_root_alone(tmp_path: Path) -> None:
    iso, site = medium(tmp_path), tmp_path / "site"
    (site / "keys").mkdir(parents=True)
    (site / "edits.toml").write_text("[nics]\n")
    (site / "keys/srv").write_bytes(b"\x00\xff")
    (site / "pass").write_text("secret\n")
    (site / "agent.toml").write_text(
        f'edits = "edits.toml"\nluks_key_file = ["{LUKS}=keys/srv"]\nluks_passphrase_file = ["./pass"]\n'
    )
    customize(iso, site / "agent.toml", iso)
    with iso.open("rb") as made:
        made.seek(find_config(iso))
        members = {one.path: one for one in segments.unpack(made.read(segments.CONFIG_SIZE_BYTES))}
    named = {path: members[f"etc/regraft/{path}"] for path in ("agent.toml", "edits.toml", "keys/srv", "pass")}
    assert named["keys/srv"].content == b"\x00\xff" and named["pass"].content == b"secret\n"
    assert {stat.S_IMODE(one.mode) for one in named.values()} == {0o600}
    config = beside(read_config(named["agent.toml"].content.decode(), ""), "/etc/regraft")
    assert config.luks_key_file == (f"{LUKS}=/etc/regraft/keys/srv",)
    assert config.luks_passphrase_file == ("/etc/regraft/./pass",)
    customize(iso, site / "agent.toml", iso)  # in place: the same medium
    (site / "agent.toml").write_text("")
    customize(iso, site / "agent.toml", iso)
    assert b"secret" not in iso.read_bytes()


@pytest.mark.parametrize("name", ["/etc/shadow", "../pass", "keys/../../pass", "agent.toml", "absent"])
def test_a_file_that_lies_elsewhere_or_nowhere_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(f'luks_key_file = ["{name}"]\n')
    with pytest.raises(UsageError, match=f"names the file ‘{name}’"):
        customize(medium(tmp_path), config, tmp_path / "out.iso")
    assert not (tmp_path / "out.iso").exists()


def test_a_key_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text('luks_key_file = ["key"]\n')
    (tmp_path / "key").write_bytes(bytes(segments.CONFIG_SIZE_BYTES))
    with pytest.raises(DoesNotFitError, match="and the 1 files that it names"):
        customize(medium(tmp_path), config, tmp_path / "out.iso")


def test_a_key_that_the_agent_would_not_know_is_refused_when_the_medium_is_made(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text("unatended = true\n")
    with pytest.raises(UsageError, match="unatended"):
        customize(medium(tmp_path), config, tmp_path / "out.iso")
