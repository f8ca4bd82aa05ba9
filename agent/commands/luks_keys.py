"""Passphrases and key files of LUKS devices: from files the caller names, or typed at the terminal; never kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from agent.commands.options import Command, with_options
from agent.errors import UsageError
from agent.model.luks_keys import LIMIT_BYTES, LuksKey, by_uuid, file_word, fitting
from agent.model.plan import MakeLuks, Plan
from agent.probe.stack_open import KeyOf, no_keys


def luks_options(command: Command) -> Command:
    """--luks-passphrase and --luks-key-file, handed on as tuples of words."""
    options: tuple[Callable[[Command], Command], ...] = (
        click.option("--luks-key-file", "luks_key_files", multiple=True, metavar="[UUID=]FILE",
                     help="Key file of encrypted devices, used as it is; with UUID= of that one."),
        click.option("--luks-passphrase", "luks_passphrases", multiple=True, metavar="[UUID=]FILE",
                     help="File with the passphrase of encrypted devices (a line end at its end does not count), or "
                          "/dev/fd/N; with UUID= of that one. Without it, a terminal is asked. Nothing of it is kept."),
    )  # fmt: skip
    return with_options(command, options)


def key_source(passphrases: tuple[str, ...], key_files: tuple[str, ...], *, new: bool = False) -> KeyOf:
    """Where keys come from. ``new``: they are set, not tried, so that what is typed is asked for twice."""
    return given_first([given_keys(passphrases, key_files)], lambda uuid, where: _typed(uuid, where, new))


def given_keys(passphrases: tuple[str, ...], key_files: tuple[str, ...]) -> tuple[LuksKey, ...]:
    """The keys in files. Raises UsageError for a file that cannot be one."""
    return (*(_given(word, line=True) for word in passphrases), *(_given(word, line=False) for word in key_files))


def given_first(given: Sequence[Sequence[LuksKey]], otherwise: KeyOf) -> KeyOf:
    """A source that knows these keys, the first of several sources before the next; what none has is asked for once."""
    sources = [by_uuid(keys) for keys in given]
    asked: dict[str, bytes] = {}

    def key_of(uuid: str, where: str) -> bytes:
        found = next((key for source in sources if (key := fitting(source, uuid)) is not None), asked.get(uuid))
        if found is None:
            found = asked[uuid] = otherwise(uuid, where)
        return found

    return key_of


def _given(word: str, *, line: bool) -> LuksKey:
    uuid, path = file_word(word)
    try:
        with Path(path).open("rb") as file:
            key = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"the key file {path} cannot be read: {error.strerror}") from error
    if line:
        key = key.removesuffix(b"\n").removesuffix(b"\r")
    if not 0 < len(key) <= LIMIT_BYTES:
        raise UsageError(f"the key file {path} is empty or too large, expected 1 to {LIMIT_BYTES:,} bytes")
    return LuksKey(uuid=uuid, key=key)


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
