"""Passphrases and key files of LUKS devices: from files the caller names, or typed at the terminal; never kept."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from agent.errors import UsageError
from agent.model.plan import MakeLuks, Plan
from agent.probe.stack_open import KeyOf, no_keys

Command = TypeVar("Command", bound=Callable[..., None])
LIMIT_BYTES = 8 << 20  # cryptsetup's own, of key files
_FOR_ONE = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})=(.+)", re.DOTALL)


def luks_options(command: Command) -> Command:
    """--luks-passphrase and --luks-key-file, handed on as tuples of words."""
    options: tuple[Callable[[Command], Command], ...] = (
        click.option("--luks-key-file", "luks_key_files", multiple=True, metavar="[UUID=]FILE",
                     help="Key file of encrypted devices, used as it is; with UUID= of that one."),
        click.option("--luks-passphrase", "luks_passphrases", multiple=True, metavar="[UUID=]FILE",
                     help="File with the passphrase of encrypted devices (a line end at its end does not count), or "
                          "/dev/fd/N; with UUID= of that one. Without it, a terminal is asked. Nothing of it is kept."),
    )  # fmt: skip
    for option in options:
        command = option(command)
    return command


def key_source(passphrases: tuple[str, ...], key_files: tuple[str, ...], *, new: bool = False) -> KeyOf:
    """Where keys come from. ``new``: they are set, not tried, so that what is typed is asked for twice."""
    given = [_given(word, line=True) for word in passphrases] + [_given(word, line=False) for word in key_files]
    by_uuid = dict(given)
    if len(by_uuid) != len(given):
        raise UsageError("two keys are given for the same encrypted device", "give every UUID once")

    def key_of(uuid: str, where: str) -> bytes:
        if uuid not in by_uuid:
            by_uuid[uuid] = by_uuid[""] if "" in by_uuid else _typed(uuid, where, new)
        return by_uuid[uuid]

    return key_of


def _given(word: str, *, line: bool) -> tuple[str, bytes]:
    """(UUID or "" for every device, key)."""
    found = _FOR_ONE.fullmatch(word)
    uuid, path = (found[1], found[2]) if found else ("", word)
    try:
        with Path(path).open("rb") as file:
            key = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"the key file {path} cannot be read: {error.strerror}") from error
    if line:
        key = key.removesuffix(b"\n").removesuffix(b"\r")
    if not 0 < len(key) <= LIMIT_BYTES:
        raise UsageError(f"the key file {path} is empty or too large, expected 1 to {LIMIT_BYTES:,} bytes")
    return uuid, key


def _typed(uuid: str, where: str, new: bool) -> bytes:
    if not sys.stdin.isatty():
        return no_keys(uuid, where)
    what = f"{'New passphrase' if new else 'Passphrase'} for {where} (LUKS {uuid})"
    typed: str = click.prompt(what, hide_input=True, confirmation_prompt=new)
    return typed.encode()


def asked_before(plan: Plan, key_of: KeyOf) -> KeyOf:
    """Every key of a plan, asked for now: nobody shall be asked between two writes, and not answer."""
    keys = {
        step.luks.uuid: key_of(step.luks.uuid, f"the device that becomes {step.luks.name}")
        for step in plan.steps
        if isinstance(step, MakeLuks)
    }
    return lambda uuid, _: keys[uuid]
