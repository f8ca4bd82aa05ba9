from __future__ import annotations

import pytest

from agent.errors import UsageError
from agent.model.agent_config import AgentConfig, beside, named_files, read_config, without_settings


def test_kernel_parameters_win_over_the_medium() -> None:
    config = read_config(
        'depot = "http://a"\nunattended = false\n',
        "quiet regraft.depot=http://b regraft.unattended=1 regraft.trust-metadata=1",
    )
    assert config.depot == "http://b"
    assert config.unattended is True
    assert config.trust_metadata is True


def test_trust_may_be_given_on_the_command_line() -> None:
    config = read_config("", "regraft.trust=ed25519:AA==,ed25519:BB==")
    assert config.trust == ("ed25519:AA==", "ed25519:BB==")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("unatended = true", "unatended"),
        ('unattended = "yes"', "unattended"),
        ('task = "wipe"', "restore, capture, hold"),
        ("depot = ", "not TOML"),
    ],
)
def test_what_is_not_understood_is_refused(text: str, part: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_config(text, "")
    assert part in str(refused.value)


def test_globs_to_exclude_come_from_the_medium_or_the_kernel_line() -> None:
    assert read_config('exclude = ["/srv/*", "*.iso"]', "").exclude == ("/srv/*", "*.iso")
    assert read_config("", "regraft.exclude=/srv/*,*.iso").exclude == ("/srv/*", "*.iso")


def test_cards_are_chosen_on_the_medium_or_the_kernel_line() -> None:
    config = read_config('nic = ["ens3=52:54:00:00:00:01"]\non_nic_tie = "order"\nduplicate_address = "stop"\n', "")
    assert (config.nic, config.on_nic_tie, config.duplicate_address) == (("ens3=52:54:00:00:00:01",), "order", "stop")
    assert read_config("", "regraft.nic=ens3=52:54:00:00:00:01,ens4=none").nic[1] == "ens4=none"
    for text in ('nic = ["ens3"]', 'on_nic_tie = "guess"', 'duplicate_address = "maybe"'):
        with pytest.raises(UsageError, match="expected"):
            read_config(text, "")


def test_arrays_edits_and_keys_come_from_the_medium_or_the_kernel_line() -> None:
    uuid = "0c1f6a52-52d5-44c1-8d5e-4d4a6cb0a2a1"
    config = read_config(f'arrays = "keep"\nedits = "e.toml"\nluks_key_file = ["k", "{uuid}=sub/k"]\n', "")
    assert (config.arrays, named_files(config)) == ("keep", ("e.toml", "k", "sub/k"))
    placed = beside(config, "/etc/regraft")
    assert placed.edits == "/etc/regraft/e.toml"
    assert placed.luks_key_file == ("/etc/regraft/k", f"{uuid}=/etc/regraft/sub/k")
    assert beside(AgentConfig(), "/etc/regraft") == AgentConfig()
    assert read_config("", "regraft.luks-passphrase-file=p,q").luks_passphrase_file == ("p", "q")
    for text in ('arrays = "both"', 'luks_key_file = "k"'):
        with pytest.raises(UsageError, match=r"expected|Expected"):
            read_config(text, "")


def test_a_profile_does_not_tell_what_the_medium_was_told() -> None:
    """It is kept by the server, and given to whoever may read: the token lets its holder take jobs and their keys."""
    said = "BOOT_IMAGE=vmlinuz regraft.token=rgt_SECRET console=ttyS0 regraft.depot=http://d/ quiet\n"
    assert without_settings(said) == "BOOT_IMAGE=vmlinuz console=ttyS0 quiet"
