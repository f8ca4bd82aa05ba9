"""Keys of LUKS devices for the agent of the PE: the job's, then those on the medium, then a person at a console.

Unattended and without one means stop, before anything was written.
"""

from __future__ import annotations

import sys

import click

from agent.commands.luks_keys import given_first, given_keys
from agent.errors import RefusedError
from agent.model.agent_config import AgentConfig
from agent.model.luks_keys import LuksKey
from agent.pe.typed import typed_hidden
from agent.probe.stack_open import KeyOf, no_keys


def agent_keys(config: AgentConfig, of_job: tuple[LuksKey, ...] = (), *, attended: bool, new: bool = False) -> KeyOf:
    """Where keys come from. ``new``: they are set, not tried, so that what is typed is asked for twice."""
    on_medium = given_keys(config.luks_passphrase_file, config.luks_key_file)

    def asked(uuid: str, where: str) -> bytes:
        if not attended:
            raise RefusedError(
                f"{where} is encrypted (LUKS {uuid}), and neither the job nor the medium has its key",
                "give the job one (‘regraft job new --luks-passphrase FILE’), name one on the medium "
                "(luks_passphrase_file or luks_key_file in agent.toml), or start without ‘unattended’ and type it",
            )
        return typed(uuid, where, new)

    return given_first([of_job, on_medium], asked)


def typed(uuid: str, where: str, new: bool) -> bytes:
    """What a person types at any console, twice where it is new."""
    what = f"{'New passphrase' if new else 'Passphrase'} for {where} (LUKS {uuid})"
    while True:
        first = typed_hidden(f"{what}: ", sys.stdin)
        if not first:
            return no_keys(uuid, where)
        if not new or typed_hidden("The same again: ", sys.stdin) == first:
            return first.encode("utf-8", "surrogateescape")
        click.echo("The two are not the same.")
