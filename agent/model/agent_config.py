"""What the PE was told: agent.toml of the medium, then ``regraft.KEY=VALUE`` kernel parameters.

Kernel parameters win. Unknown keys are refused: a misspelt ``unattended`` must not pass in silence.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Mapping

import msgspec

from agent.errors import UsageError
from agent.model.luks_keys import file_word
from agent.model.nic_map import ORDER, STOP, parse_wishes
from agent.model.stack_layout import KEEP, PLAIN

PREFIX = "regraft."


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys of agent.toml. An empty ``image`` means: ask the server."""

    depot: str = ""  # URL, path, or label:LABEL of a file system that holds the depot
    token: str = ""
    trust: tuple[str, ...] = ()
    task: str = "restore"  # restore, capture, hold
    image: str = ""
    disk: str = ""  # disk selector
    also: tuple[str, ...] = ()  # selectors of further disks that are erased and written, or captured
    map: tuple[str, ...] = ()  # WHAT=SELECTOR: which of the disks a disk or volume of the image goes to
    grow: str = ""  # who gets the space of a larger disk; "" the largest volume
    arrays: str = "plain"  # md RAID on one disk: plain, keep
    edits: str = ""  # file of an operator's edits, relative to the configuration
    luks_key_file: tuple[str, ...] = ()  # [UUID=]FILE, likewise: keys of encrypted devices, as they are
    luks_passphrase_file: tuple[str, ...] = ()  # [UUID=]FILE, likewise: the passphrase on their first line
    mode: str = "restore"  # restore, clone
    nic: tuple[str, ...] = ()  # OLD=NEW: which card takes the place of which interface or old MAC address
    on_nic_tie: str = "stop"  # stop, order: where several cards fit equally well and nobody is asked
    duplicate_address: str = "ignore"  # ignore, warn, stop: what if another machine answers at a restored address
    name: str = ""  # capture: name of the image
    without: tuple[str, ...] = ()  # capture: partitions to leave out, by kernel name
    whole: tuple[str, ...] = ()  # capture: partitions to take to the last byte
    exclude: tuple[str, ...] = ()  # capture: globs of what stays behind
    unattended: bool = False
    trust_metadata: bool = (
        False  # on a disk that holds the image already, files are believed by size, time, mode, owner
    )
    on_success: str = "reboot"  # reboot, poweroff, hold, shell
    on_failure: str = "hold"  # hold, poweroff


LISTS = ("trust", "without", "whole", "exclude", "nic", "also", "map", "luks_key_file", "luks_passphrase_file")
FILES = ("edits", "luks_key_file", "luks_passphrase_file")  # these travel on the medium beside its configuration

CHOICES = {
    "task": ("restore", "capture", "hold"),
    "mode": ("restore", "clone"),
    "arrays": (PLAIN, KEEP),
    "on_nic_tie": (STOP, ORDER),
    "duplicate_address": ("ignore", "warn", "stop"),
    "on_success": ("reboot", "poweroff", "hold", "shell"),
    "on_failure": ("hold", "poweroff"),
}


def read_config(toml_text: str, kernel_command_line: str, where: str = "agent.toml") -> AgentConfig:
    """The configuration of one boot. Raises UsageError naming the key, what was found and what is expected."""
    try:
        values: dict[str, object] = dict(tomllib.loads(toml_text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is not TOML: {error}", "write the medium's configuration again") from None
    values.update(kernel_parameters(kernel_command_line))
    try:
        config = msgspec.convert(values, AgentConfig, strict=True)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where} or the kernel parameters are not understood: {error}") from None
    for key, allowed in CHOICES.items():
        found = getattr(config, key)
        if found not in allowed:
            raise UsageError(f"{where}: {key} is ‘{found}’, expected one of {', '.join(allowed)}")
    parse_wishes(config.nic)
    return config


def named_files(config: AgentConfig) -> tuple[str, ...]:
    """The files that a configuration names, as it names them."""
    words = (*config.luks_key_file, *config.luks_passphrase_file)
    return tuple(dict.fromkeys(([config.edits] if config.edits else []) + [file_word(word)[1] for word in words]))


def beside(config: AgentConfig, folder: str) -> AgentConfig:
    """With the files that it names found beside it."""

    def in_folder(name: str) -> str:
        return name if name.startswith("/") else f"{folder}/{name}"

    def placed(word: str) -> str:
        uuid, name = file_word(word)
        return f"{uuid}={in_folder(name)}" if uuid else in_folder(name)

    return msgspec.structs.replace(
        config,
        edits=in_folder(config.edits) if config.edits else "",
        luks_key_file=tuple(map(placed, config.luks_key_file)),
        luks_passphrase_file=tuple(map(placed, config.luks_passphrase_file)),
    )


def kernel_parameters(command_line: str) -> Mapping[str, object]:
    """``regraft.KEY=VALUE`` words of a kernel command line; dashes in keys read as underscores."""
    found: dict[str, object] = {}
    for word in shlex.split(command_line, posix=True):
        if not word.startswith(PREFIX):
            continue
        key, _, value = word[len(PREFIX) :].partition("=")
        name = key.replace("-", "_")
        if name in ("unattended", "trust_metadata"):
            found[name] = value in ("1", "true", "yes", "")
        elif name in LISTS:
            found[name] = tuple(value.split(","))
        else:
            found[name] = value
    return found


def without_settings(command_line: str) -> str:
    """A kernel command line without them: a token is among them, and a profile is read by many."""
    return " ".join(word for word in command_line.split() if not word.startswith(PREFIX))
