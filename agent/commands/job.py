"""regraft job: queue restores at a depot's server, and see what became of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click
import msgspec

from agent.commands.luks_keys import given_keys, luks_options
from agent.commands.options import Command, json_option, print_json, with_options
from agent.commands.plan import edits_option, layout_options_of_jobs, mode_option, nic_option_of_jobs
from agent.console.table import table
from agent.depot.control import Control, Job, JobRequest
from agent.errors import UsageError
from agent.model.choices import read_choices
from agent.model.jobs import ON_SUCCESS, JobMatch

KINDS = {"uuid": "system_uuid", "serial": "system_serial", "mac": "mac"}


def server_options(command: Command) -> Command:
    """--depot and --token, handed on as ``url`` and ``token``."""
    options: tuple[Callable[[Command], Command], ...] = (
        click.option("--token", envvar="REGRAFT_TOKEN", default="", metavar="TOKEN",
                     help="Token that may queue jobs.  [env: REGRAFT_TOKEN]"),
        click.option("--depot", "url", envvar="REGRAFT_DEPOT", required=True, metavar="URL",
                     help="Where ‘regraft serve’ runs.  [env: REGRAFT_DEPOT]"),
    )  # fmt: skip
    return with_options(command, options)


def server(url: str, token: str) -> Control:
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"‘{url}’ is no address of a server, expected http://… or https://…",
                         "jobs live at the server of a depot: ‘regraft serve’ prints its address")  # fmt: skip
    return Control(url, token)


@click.group()
def job() -> None:
    """Queue restores at a depot's server, and see what became of them."""


@job.command("new")
@click.argument("image")
@click.option(
    "--for",
    "wanted",
    required=True,
    metavar="PROPERTY",
    help="The machine: uuid=…, serial=… or mac=… as its firmware and cards say, or any: the next that asks.",
)
@click.option(
    "--on-success",
    type=click.Choice(ON_SUCCESS[1:]),
    default=None,
    help="What the machine does then; default: as its medium says.",
)
@layout_options_of_jobs
@mode_option
@nic_option_of_jobs
@edits_option
@luks_options
@server_options
@json_option
def new_job(
    image: str, wanted: str, on_success: str | None, selectors: tuple[str, ...], maps: tuple[str, ...],
    grow: str | None, arrays: str | None, mode: str, nics: tuple[str, ...], on_nic_tie: str | None, edits: Path | None,
    luks_passphrases: tuple[str, ...], luks_key_files: tuple[str, ...], url: str, token: str, as_json: bool,
) -> None:  # fmt: skip
    """Queue the restore of IMAGE onto one machine. Naming its disks is the consent to ERASE them.

    The machine, started from a medium that names this depot, takes the job and needs nobody. What is not said here of
    space, arrays, cards and edits is as its medium says. Keys of LUKS devices go to
    that machine alone; the server forgets them when the job has ended.
    """  # fmt: skip
    request = JobRequest(
        match=match_of(wanted), image=image, disk=selectors[0], also=selectors[1:], map=maps, grow=grow or "",
        arrays=arrays or "", mode=mode, on_success=on_success or "", nic=nics, on_nic_tie=on_nic_tie or "",
        edits=edits_text(edits),
        luks_keys=given_keys(luks_passphrases, luks_key_files),
    )  # fmt: skip
    made = server(url, token).create_job(request)
    if as_json:
        print_json(made)
        return
    click.echo(f"job {made.id}: {made.image} for {target_text(made)}, onto {', '.join((made.disk, *made.also))}")


@job.command("list")
@server_options
@json_option
def list_jobs(url: str, token: str, as_json: bool) -> None:
    """List the jobs, newest first."""
    jobs = server(url, token).jobs()
    if as_json:
        print_json(jobs)
        return
    rows = [(each.id, each.state, each.image, target_text(each), each.ended or each.created, last_words(each))
            for each in jobs]  # fmt: skip
    click.echo(table(("job", "state", "image", "for", "since", ""), rows))


@job.command("show")
@click.argument("job_id", metavar="JOB")
@server_options
@json_option
def show_job(job_id: str, url: str, token: str, as_json: bool) -> None:
    """Show one job: what it says, where it is."""
    found = server(url, token).job(job_id)
    if as_json:
        print_json(found)
        return
    for name, value in described(found):
        if value:
            click.echo(f"{name:<14}{value}")


@job.command("again")
@click.argument("job_id", metavar="JOB")
@luks_options
@server_options
@json_option
def again(
    job_id: str, luks_passphrases: tuple[str, ...], luks_key_files: tuple[str, ...], url: str, token: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Queue a job that ended once more. Keys that it was made with are gone by then, and are given again."""
    made = server(url, token).queue_again(job_id, given_keys(luks_passphrases, luks_key_files))
    if as_json:
        print_json(made)
    else:
        click.echo(f"job {made.id} is {made.state}, attempt {made.attempt}")


@job.command("cancel")
@click.argument("job_id", metavar="JOB")
@server_options
@json_option
def cancel(job_id: str, url: str, token: str, as_json: bool) -> None:
    """End a job that nobody is to carry out any more. A machine that has begun is not stopped by it."""
    ended = server(url, token).cancel(job_id)
    if as_json:
        print_json(ended)
    else:
        click.echo(f"job {ended.id} is {ended.state}: {ended.message}")


def match_of(word: str) -> JobMatch:
    """``uuid=…``, ``serial=…``, ``mac=…`` or ``any``."""
    kind, equals, value = word.partition("=")
    if word == "any":
        return JobMatch(any=True)
    if kind not in KINDS or not equals or not value:
        raise UsageError(f"--for is ‘{word}’, expected uuid=…, serial=…, mac=… or any")
    return msgspec.convert({KINDS[kind]: value}, JobMatch)


def edits_text(path: Path | None) -> str:
    """The file as it is, once it is known to be understood."""
    if path is None:
        return ""
    text = path.read_text("utf-8", "replace")
    read_choices(text, path.name)
    return text


def target_text(job: Job) -> str:
    match = job.match
    found = next(((kind, value) for kind, name in KINDS.items() if (value := getattr(match, name))), None)
    return f"{found[0]}={found[1]}" if found else "any"


def last_words(job: Job) -> str:
    return job.message or job.phase


def described(job: Job) -> Sequence[tuple[str, str]]:
    """What people want to know of a job, in lines."""
    keys = {"held": "held for this machine", "gone": "gone since the job ended", "": ""}
    return (
        ("job", job.id), ("state", f"{job.state}, attempt {job.attempt}"), ("image", job.image), ("mode", job.mode),
        ("for", target_text(job)), ("erases", ", ".join((job.disk, *job.also))), ("map", ", ".join(job.map)),
        ("grow", job.grow), ("arrays", job.arrays), ("cards", ", ".join(job.nic)),
        ("edits", job.edits.strip().replace("\n", "\n" + " " * 14)), ("LUKS keys", keys.get(job.luks_keys, "")),
        ("made", job.created), ("taken", job.claimed), ("ended", job.ended), ("last sign", job.last_seen),
        ("says", last_words(job)), ("error", job.error_code),
    )  # fmt: skip
